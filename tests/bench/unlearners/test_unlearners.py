"""Every unlearner: by one interface, and it leaves the caller's model alone."""

from __future__ import annotations

import copy
import math
import random
import re
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from helpers.toys import Blobs, NetWithUnread, assert_same_weights, weights
from helpers.unlearned import (
    DAMPENING,
    FORGET_ONLY,
    GOEL,
    ON_THEIR_OWN,
    PAIRED,
    PAPERS,
    TRAINED,
    normed,
    run,
    settings,
    validation,
)
from potion_fast.bench.sweep.method_spec import MethodSpec
from potion_fast.bench.unlearners import UNLEARNERS, Loaders, make_unlearner, register_unlearner
from potion_fast.errors import DataError, ModelError, PotionError, SearchError

MODELS: dict[str, nn.Module] = {  # of methods that need norms, or maps
    "anp": normed(),
    "nad": nn.Sequential(nn.Unflatten(1, (3, 4)), nn.Linear(4, 8), nn.ReLU(), nn.Flatten(), nn.Linear(24, 2)),
}


def test_the_names_are_those_that_presets_use():
    assert set(PAPERS) <= set(UNLEARNERS)
    assert all(unlearner.name == name for name, unlearner in UNLEARNERS.items())


def test_a_name_is_registered_once_and_for_an_unlearner_only():
    with pytest.raises(PotionError, match="'cf' is taken by potion_fast.bench.unlearners.cf.CF"):

        @register_unlearner("cf")
        class Other(UNLEARNERS["gd"]):
            pass

    with pytest.raises(PotionError, match="'mine' is no unlearner: derive its class"):
        register_unlearner("mine")(dict)
    with pytest.raises(PotionError, match="registered under a name, not ''"):
        register_unlearner("")
    assert "mine" not in UNLEARNERS and UNLEARNERS["cf"].__name__ == "CF"


MINE = """
from potion_fast.bench import register_unlearner
from potion_fast.bench.unlearners.gd import GD

class Mine(GD):
    pass

@register_unlearner("{name}")
class Named(GD):
    pass

def function(model, loaders):
    pass
"""


def test_an_unlearner_of_the_users_own_by_its_module(
    blobs: Blobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: None
):
    (tmp_path / "my_unlearners.py").write_text(MINE.format(name="mine"))
    monkeypatch.syspath_prepend(tmp_path)
    mine = make_unlearner("my_unlearners:Mine", iterations=2)
    done = mine(blobs.model, Loaders(blobs.forget(), blobs.retain()))
    assert done.method == "my_unlearners:Mine" and done.trace[-1].iterations == 2
    assert type(make_unlearner("my_unlearners:Mine")) is type(mine)
    assert make_unlearner("my_unlearners:Named").name == make_unlearner("mine").name == "mine"
    (method,) = MethodSpec.each({"method": "my_unlearners:Mine", "iterations": 2})  # as a sweep's configuration has it
    assert (method.objective, method.label) == (None, "my_unlearners-Mine-iterations=2")
    with pytest.raises(PotionError, match="no unlearner: derive its class"):
        make_unlearner("my_unlearners:function")
    with pytest.raises(PotionError, match="no module 'no_such_module'"):
        make_unlearner("no_such_module:Mine")
    with pytest.raises(PotionError, match="my_unlearners:Mine: there is no setting rhoo; it has"):
        make_unlearner("my_unlearners:Mine", rhoo=1)


DOCS = Path(__file__).parents[3] / "docs" / "add-an-unlearner.md"


def test_the_example_of_the_documentation_unlearns(
    blobs: Blobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: None
):
    block = re.search(r"^ *```python\n(.*?)^ *```$", DOCS.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert block is not None
    example = textwrap.dedent(block[1]).replace('"ga-clipped"', '"ga-clipped-as-documented"')
    (tmp_path / "example_of_the_documentation.py").write_text(example)
    monkeypatch.syspath_prepend(tmp_path)
    clipped = make_unlearner(
        "example_of_the_documentation:ClippedGA", max_norm=1e-4, lr=1.0, epochs=1, weight_decay=0.0
    )
    done = clipped(blobs.model, Loaders(blobs.forget(), blobs.retain()))
    steps = [new - old for new, old in zip(done.model.parameters(), blobs.model.parameters(), strict=True)]
    assert done.method == "ga-clipped-as-documented"
    assert torch.cat([step.flatten() for step in steps]).norm().item() == pytest.approx(1e-4, rel=0.02)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    monkeypatch.setattr("potion_fast.bench.unlearners.registry.UNLEARNERS", dict(UNLEARNERS))


def test_the_defaults_are_the_public_codes():
    def of(name: str, *keys: str) -> list[Any]:
        unlearner = make_unlearner(name)
        return [getattr(unlearner, key) for key in keys]

    assert of("eu", "iterations", "lr", "momentum", "weight_decay") == [4000, 0.025, 0.9, 5e-4]
    for name in ("euk-goel", "cf", "cf-k", "badt"):
        assert of(name, "iterations", "lr", "momentum", "weight_decay") == [1000, 0.025, 0.9, 5e-4]
    assert of("scrub-goel", "iterations", "lr", "msteps", "temperature") == [1000, 0.0025, 100, 4.0]
    assert {tuple(of(name, "schedule", "nesterov", "budget", "rates")) for name in GOEL} == {
        ("linear", False, None, None)
    }
    assert of("ptn-xlf", "rho", "max_steps") == [0.2, 500]
    assert of("assd", "dampening") == [1.0]
    (alphas, dampenings) = of("ssd-goel", "alphas", "dampenings")
    assert len(alphas) * len(dampenings) == 50


def test_the_defaults_of_paper_b_are_its_own_and_the_authors_where_it_gives_none():
    def of(name: str, *keys: str) -> list[Any]:
        unlearner = make_unlearner(name)
        return [getattr(unlearner, key) for key in ("lr", "momentum", "weight_decay", "schedule", "epochs", *keys)]

    gd = [1e-3, 0.9, 5e-4, "constant", 10]
    assert of("gd") == gd
    assert of("ngd", "variance") == [*gd, 1e-7]
    assert of("ga") == [1e-5, *gd[1:]]
    assert of("euk-pawelczyk", "k") == of("cfk-pawelczyk", "k") == [*gd, 3]
    assert of("scrub-pawelczyk", "gamma", "kl_weight") == [*gd, 0.99, 0.001]
    assert of("neggrad-plus", "beta") == [*gd, 0.999]
    more = ("msteps", "temperature", "gamma", "alpha")
    assert of("scrub-kurmanji", *more) == [5e-4, 0.9, 5e-4, "constant", 3, 2, 4.0, 0.99, 0.001]
    assert of("jit", "copies", "sigma") == [3e-4, 0.0, 0.0, "constant", 1, 25, 0.5]
    assert of("retrain") == [0.025, 0.9, 5e-4, "linear", 10]


@pytest.mark.filterwarnings("ignore::potion_fast.errors.PotionWarning")  # of heal, which has few suspects here
@pytest.mark.parametrize("name", UNLEARNERS)
def test_the_callers_model_stays_as_it_was_and_the_seed_settles_the_weights(blobs: Blobs, name: str):
    model = copy.deepcopy(MODELS.get(name, blobs.model)).train()
    before, flags = weights(model), [parameter.requires_grad for parameter in model.parameters()]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(3).tolist()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    first = run(name, blobs, model, seed=3)
    assert (random.random(), np.random.rand(), torch.rand(3).tolist()) == expected  # as if nothing had been drawn
    second = run(name, blobs, model, seed=3)
    assert_same_weights(second.model, weights(first.model))
    assert_same_weights(model, before)
    assert model.training and flags == [parameter.requires_grad for parameter in model.parameters()]
    assert first.model is not model and not first.model.training
    assert not {id(p) for p in model.parameters()} & {id(p) for p in first.model.parameters()}
    assert all(parameter.requires_grad for parameter in first.model.parameters())
    assert first.method == name


@pytest.mark.parametrize("name", ["eu", "euk-goel", "badt", "cf", "retrain", "euk-pawelczyk", "ngd"])
def test_another_seed_gives_other_weights(blobs: Blobs, name: str):
    more = {"k": ("head",)} if name == "euk-goel" else {}
    first, second = (run(name, blobs, normed(), seed=seed, **more) for seed in (0, 1))
    assert not torch.equal(first.model.head.weight, second.model.head.weight)


@pytest.mark.parametrize("name", TRAINED)
def test_gradient_steps_are_the_optimisers(blobs: Blobs, name: str):
    done = run(name, blobs)
    assert done.gradient_steps == (12 if name in PAIRED else 6) and done.trace[-1].iterations == 6
    assert done.learning_rate == make_unlearner(name).lr
    assert done.kept is done.trace[-1] and set(done.seconds) == {"training"}


@pytest.mark.parametrize("name", DAMPENING)
def test_gradient_steps_are_the_batches_of_the_importance_passes(blobs: Blobs, name: str):
    done = run(name, blobs)
    assert done.gradient_steps == len(blobs.forget()) + len(blobs.retain()) == 1 + 6 and done.learning_rate is None
    assert set(done.seconds) > {"forget", "retain"} and all(seconds > 0 for seconds in done.seconds.values())
    assert done.kept in done.trace


def test_none_is_the_base_model(blobs: Blobs):
    done = run("none", blobs)
    assert_same_weights(done.model, weights(blobs.model))
    assert (done.trace, done.kept, done.gradient_steps) == ([], None, 0)


@pytest.mark.parametrize(
    ("name", "settings", "error", "message"),
    [
        ("scrub", {}, PotionError, "unknown unlearner 'scrub'; known: anp, assd, .*scrub-goel.* and module:Class"),
        ("cf", {"k": 2}, PotionError, "cf: there is no setting k; it has mode, seed, iterations"),
        ("cf", {"iterations": 0}, PotionError, "cf: iterations must be above 0, not 0"),
        ("cf", {"iterations": 1.5}, PotionError, "cf: iterations must be a whole number, not 1.5"),
        ("cf", {"lr": 0}, PotionError, "lr must be above 0"),
        ("cf", {"lr": "1e-3"}, PotionError, "lr must be a number, not '1e-3'"),
        ("cf", {"lr": math.nan}, PotionError, "lr must be finite, not nan"),
        ("cf", {"optimizer": "lion"}, PotionError, "optimizer must be 'sgd' or 'adamw', not 'lion'"),
        ("cf", {"keep": "first"}, PotionError, "keep must be 'last' or 'best'"),
        ("eu", {"mode": "x"}, SearchError, "eu: unknown mode 'x'"),
        ("cf", {"seed": -1}, PotionError, "cf: seed must be at least 0, not -1"),
        ("none", {"seed": 2**32}, PotionError, "none: seed must be below 2\\^32"),
        ("cf", {"iterations": None}, PotionError, "iterations must be a whole number"),
        ("cf", {"schedule": "step"}, PotionError, "schedule must be 'linear', 'constant', 'cosine' or 'multistep'"),
        ("cf", {"nesterov": 1}, PotionError, "nesterov must be true or false, not 1"),
        ("cf", {"nesterov": True, "momentum": 0.0}, PotionError, "nesterov"),
        ("cf", {"nesterov": True, "optimizer": "adamw"}, PotionError, "nesterov"),
        ("cf", {"budget": 0}, PotionError, "budget must be above 0"),
        ("cf", {"budget": 1.5}, PotionError, "budget must be a whole number"),
        ("cf", {"budget": True}, PotionError, "budget must be a whole number"),
        ("neggrad-plus", {"budget": 1}, PotionError, "budget must be at least 2, an iteration's gradient steps, not 1"),
        ("cf", {"rates": []}, PotionError, "rates must be a list of at least 1, not \\[\\]"),
        ("cf", {"rates": 1e-3}, PotionError, "rates must be a list of numbers, not 0.001"),
        ("cf", {"rates": "1e-3"}, PotionError, "rates must be a list of numbers, not '1e-3'"),
        ("cf", {"rates": [1e-3, 0]}, PotionError, "each of rates must be above 0, not 0"),
        ("cf", {"rates": ["1e-3"]}, PotionError, "rates must be a list of numbers, not \\['1e-3'\\]"),
        ("ptn-xlf", {"budget": 5}, PotionError, "there is no setting budget; it has"),
        ("none", {"budget": 5}, PotionError, "there is no setting budget; it has"),
        ("gd", {"iterations": 0}, PotionError, "iterations"),
        ("gd", {"iterations": 1.0}, PotionError, "iterations must be a whole number"),
        ("gd", {"epochs": 0}, PotionError, "epochs must be above 0"),
        ("ngd", {"variance": -1e-7}, PotionError, "variance"),
        ("ngd", {"variance": math.inf}, PotionError, "variance"),
        ("cfk-pawelczyk", {"k": 0}, PotionError, "k must be above 0"),
        ("euk-pawelczyk", {"k": ["fc"]}, PotionError, "k must be a whole number"),
        ("scrub-pawelczyk", {"gamma": -1.0}, PotionError, "gamma"),
        ("scrub-pawelczyk", {"kl_weight": -0.1}, PotionError, "kl_weight"),
        ("scrub-kurmanji", {"temperature": 0.0}, PotionError, "temperature"),
        ("scrub-kurmanji", {"msteps": -1}, PotionError, "msteps"),
        ("scrub-kurmanji", {"alpha": math.nan}, PotionError, "alpha"),
        ("neggrad-plus", {"beta": 1.5}, PotionError, "beta must be at most 1, not 1.5"),
        ("jit", {"copies": 0}, PotionError, "copies"),
        ("jit", {"sigma": 0.0}, PotionError, "sigma must be above 0"),
        ("scrub-goel", {"temperature": 0.0}, PotionError, "temperature"),
        ("scrub-goel", {"alpha": -1.0}, PotionError, "alpha"),
        ("ptn-xlf", {"rho": 2}, SearchError, "rho must"),
        ("ptn-xlf", {"strategy": "x"}, SearchError, "strategy"),
        ("ptn-xlf", {"amp": "float8"}, PotionError, "amp must be 'bfloat16' or 'float16'"),
        ("assd", {"dampening": 0.0}, PotionError, "dampening"),
    ],
)
def test_wrong_settings_are_refused(name: str, settings: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        make_unlearner(name, **settings)


@pytest.mark.parametrize("name", [name for name in UNLEARNERS if name not in ("none", *FORGET_ONLY, *ON_THEIR_OWN)])
def test_an_empty_retain_loader_is_an_error(blobs: Blobs, name: str):
    with pytest.raises(DataError, match="gave no"):
        make_unlearner(name, **settings(name))(blobs.model, Loaders(blobs.forget(), [], validation=validation(blobs)))


@pytest.mark.parametrize("name", [*DAMPENING, "badt", "scrub-goel", "scrub-kurmanji", *PAIRED, *FORGET_ONLY])
def test_an_empty_forget_loader_is_an_error(blobs: Blobs, name: str):
    with pytest.raises(DataError, match="gave no"):
        make_unlearner(name, **settings(name))(blobs.model, Loaders([], blobs.retain(), validation=validation(blobs)))


@pytest.mark.parametrize("name", FORGET_ONLY)
def test_those_that_need_the_forget_set_only_do_not_read_the_retain_set(blobs: Blobs, name: str):
    done = make_unlearner(name, iterations=2, lr=0.01)(blobs.model, Loaders(blobs.forget(), None))
    assert not torch.equal(done.model[0].weight, blobs.model[0].weight)


@pytest.mark.parametrize("name", ["gd", "ngd", "retrain", "euk-pawelczyk", "cfk-pawelczyk"])
def test_those_that_need_the_retain_set_only_do_not_read_the_forget_set(blobs: Blobs, name: str):
    done = make_unlearner(name, **settings(name, lr=0.01))(blobs.model, Loaders(None, blobs.retain()))
    assert not torch.equal(done.model[2].weight, blobs.model[2].weight)


@pytest.mark.parametrize("name", ["eu", "badt", "retrain"])
def test_a_model_that_cannot_be_initialised_again_is_refused_unless_a_fresh_one_is_given(name: str):
    data = [(torch.randn(8, 2, 4, 4), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1]))]
    with pytest.raises(ModelError, match="unread"):
        make_unlearner(name, iterations=1)(NetWithUnread(), Loaders(data, data))
    assert (
        make_unlearner(name, iterations=1, fresh=NetWithUnread)(NetWithUnread(), Loaders(data, data)).gradient_steps
        == 1
    )
