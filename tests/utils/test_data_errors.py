"""Data errors name the loader or data set, the batch, and the sample that they are about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import potion_fast as pf
from potion_fast.errors import DataError, LabelError
from potion_fast.utils.data_errors import data_named, read_batches, sample_named
from potion_fast.utils.predict import predict

X, Y = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3
GOOD = [(X[:5], Y[:5]), (X[5:], Y[5:])]
WRONG = Y.clone()
WRONG[7] = 9
BAD_LABEL = [(X[:5], WRONG[:5]), (X[5:], WRONG[5:])]
BAD_BATCH = [(X[:5], Y[:5]), (X[5:], Y[6:])]
NO_LABELS = [(X[:5],), (X[5:],)]


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def unlearn(retain: Any = GOOD, forget: Any = GOOD, **more: Any) -> object:
    return pf.unlearn(model(), retain, forget, "ssd", max_steps=1, **more)


def searched(name: str, batches: Any) -> object:
    importance = pf.importance(model(), GOOD, group_size=1)
    if name == "validation_loader":
        return pf.ssd_grid(model(), importance, importance, GOOD, batches)
    loaders = {"forget_loader": GOOD, name: batches}
    return pf.ptn_search(model(), importance, importance, **loaders)


CALLS: dict[str, Callable[[Any], object]] = {
    "retain_loader": lambda batches: unlearn(retain=batches),
    "forget_loader": lambda batches: unlearn(forget=batches),
    "evaluation_loader": lambda batches: unlearn(evaluation_loader=batches),
    "clean_loader": lambda batches: unlearn(clean_loader=batches),
    "forget_loader ": lambda batches: searched("forget_loader", batches),
    "evaluation_loader ": lambda batches: searched("evaluation_loader", batches),
    "validation_loader": lambda batches: searched("validation_loader", batches),
}


@pytest.mark.filterwarnings("ignore::potion_fast.PotionWarning")
@pytest.mark.parametrize("name", CALLS)
def test_errors_about_batches_name_the_loader_and_the_sample(name: str):
    call, name = CALLS[name], name.strip()
    with pytest.raises(LabelError, match=f"found 9 with 3 outputs .at sample 7 in the order of {name}.$"):
        call(BAD_LABEL)
    with pytest.raises(DataError, match=f"{name} gave a batch whose inputs and labels differ .* .batch 1, after 5"):
        call(BAD_BATCH)
    for batches in (NO_LABELS, [], X, TensorDataset(X, Y), [X[0], X[1]], [(X, ["a"] * 12)], [(X[:, :3], Y)]):
        with pytest.raises(DataError, match=name):
            call(batches)


def test_a_label_in_a_group_that_spans_batches_is_found():
    for group_size in (1, 4, 12, "batch"):
        with pytest.raises(LabelError, match="at sample 7 in the order of the loader"):
            pf.importance(model(), BAD_LABEL, "ssd", group_size=group_size)


def test_predictions_name_the_sample():
    with pytest.raises(LabelError, match="at sample 7 in the order of the loader"):
        predict(model(), BAD_LABEL)


def data(labels: torch.Tensor) -> TensorDataset:
    return TensorDataset(X, labels)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: pf.heal(model(), data(WRONG), [1]), "found 9 with 3 outputs .at sample 7 of train_set."),
        (lambda: pf.suspects(model(), data(WRONG), [1]), "at sample 7 of train_set"),
        (lambda: pf.heal(model(), data(Y), [1], plain_set=data(WRONG)), "at sample 7 of plain_set"),
        (
            lambda: pf.finetune(model(), data(Y), [1], [0], found=[1], validation=data(WRONG)),
            "at sample 7 of validation",
        ),
        (lambda: pf.finetune(model(), data(Y), [1, 2], [0, 5], found=[1]), "labels gives the suspect 2 the label 5"),
        (lambda: pf.finetune(model(), data(Y), [2, 2], [0, 1], found=[2]), "the suspect 2 is given twice"),
        (lambda: pf.suspects(model(), [(X[0],), (X[1],)], [1]), "train_set gives no labels"),
        (lambda: pf.heal(model(), data(Y), [12]), "found has the index 12, and the training set has 12 samples"),
        (lambda: pf.heal(model(), data(Y.float() + 0.5), [1]), "train_set: the labels are no whole numbers"),
    ],
)
def test_errors_about_data_sets_name_them_and_the_sample(call: Callable[[], object], words: str):
    with pytest.raises(DataError, match=words):
        call()


def test_names_are_put_in_once():
    with pytest.raises(DataError, match="^retain_loader is empty$"), data_named("retain_loader"):
        raise DataError("the loader is empty")
    with pytest.raises(DataError, match="^retain_loader: no sample$"), data_named("retain_loader"):
        raise DataError("no sample")
    with pytest.raises(DataError, match="^retain_loader is bad$"), data_named("retain_loader"):
        raise DataError("retain_loader is bad")
    error = LabelError("label")
    error.label = 1
    inner, outer = sample_named(Y, 3), sample_named(Y, 100)
    with pytest.raises(LabelError, match="^label .at sample 4 in the order of the loader.$"), outer, inner:
        raise error


def test_the_first_batch_is_all_that_is_known_of_a_loader_of_others():
    with pytest.raises(DataError) as caught:
        list(read_batches([(X, Y[1:])]))
    assert "batch 0" not in str(caught.value)
