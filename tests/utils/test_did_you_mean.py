"""Unknown words get what they may have been meant to be, everywhere."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import potion_fast as pf
from potion_fast.bench.attacks.registry import attack_named
from potion_fast.bench.configs import TrainConfig
from potion_fast.bench.data import load_dataset
from potion_fast.bench.models import create_model
from potion_fast.bench.sweep.config import load_sweep
from potion_fast.bench.unlearners import make_unlearner
from potion_fast.user.pretrained import timm_model
from potion_fast.utils.did_you_mean import choices_for, did_you_mean


@pytest.mark.parametrize(
    ("word", "meant"),
    [("bisct", "bisect"), ("--max_damage", "max-damage"), ("SmallCNN", "small_cnn"), ("zebra", None), ("", None)],
)
def test_the_nearest_word_is_named_and_none_where_no_word_is_near(word: str, meant: str | None):
    known = ("bisect", "max-damage", "small_cnn", "batched")
    assert did_you_mean(word, known) == ("" if meant is None else f"; did you mean {meant!r}?")
    assert choices_for(word, known).startswith("bisect, max-damage, small_cnn, batched")


def unlearn(**options: object) -> object:
    batch = [(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long))]
    return pf.unlearn(nn.Linear(3, 2), batch, batch, **options)  # type: ignore[arg-type]


CASES: dict[str, Callable[[], object]] = {
    "'bisect'": lambda: unlearn(strategy="bisct"),
    "'xlf'": lambda: unlearn(objective="xfl"),
    "'paper'": lambda: unlearn(mode="papper"),
    "'max_damage'": lambda: unlearn(maxdamage=1),
    "'compiled'": lambda: pf.importance(nn.Linear(3, 2), [], group_size=1, compile=True),  # type: ignore[call-arg]
    "'badnet'": lambda: attack_named("bad-net"),
    "'cifar10'": lambda: load_dataset("cifar-10"),
    "'digits'": lambda: TrainConfig(data="digit").resolved(),
    "'iterations'": lambda: TrainConfig(iteration=3),
    "'nesterov'": lambda: TrainConfig.from_dict({"nestrov": True}),
    "'small_cnn'": lambda: create_model("smal_cnn", 2, 1),
    "'width'": lambda: create_model("small_cnn", 2, 1, widht=3),
    "'resnet18'": lambda: timm_model("resnet-18", 2, 3, False, {}),
    "'ptn-xlf'": lambda: make_unlearner("ptn_xfl"),
    "'rho'": lambda: make_unlearner("ptn-xlf", rhoo=0.3),
    "'potion/smoke'": lambda: load_sweep("potion/smok"),
    "'train'": lambda: load_sweep("potion/smoke", ["trian.width=3"]),
    "'methods'": lambda: load_sweep("potion/smoke", ["method=[]"]),
}


@pytest.mark.parametrize("meant", CASES)
def test_an_unknown_word_is_met_with_the_one_that_was_meant(meant: str):
    with pytest.raises((pf.PotionError, TypeError)) as caught:
        CASES[meant]()
    assert str(caught.value).endswith(f"did you mean {meant}?")
