"""Where the label is in a batch: each repository's own form, or `label_at`; a flag is never taken for one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from helpers.public_codes import PARAMETERS, edited, loop, potion_batches, ssd_batches
from helpers.toys import assert_same_weights, batches, weights
from potion_fast import drop_in
from potion_fast.drop_in import potion, ssd
from potion_fast.errors import DataError

POTION = [potion.ParameterPerturber, potion.ParameterPerturber_old]
CLASSES = [*POTION, ssd.ParameterPerturber]


def same(got, want):
    return all(torch.equal(got[name], want[name]) for name in want)


def perturber(cls, model, **options):
    return cls(model, None, "cpu", PARAMETERS, **options)


@pytest.mark.parametrize("cls", CLASSES)
def test_in_a_batch_of_two_the_label_is_second(blobs, cls):
    want = loop(blobs.model, blobs.forget(size=3))
    assert same(perturber(cls, blobs.model).calc_importance(blobs.forget(size=3)), want)
    assert same(perturber(cls, blobs.model).calc_importance([list(b) for b in blobs.forget(size=3)]), want)


@pytest.mark.parametrize("other", ["int64", "int32", "bool", "float", "names", "none", "empty", "labels"])
def test_in_a_batch_of_three_it_is_where_the_repository_has_it_whatever_the_other_is(blobs, other):
    others = {
        "int64": lambda y: 1 - y,
        "int32": lambda y: (1 - y).int(),
        "bool": lambda y: y == 0,
        "float": lambda y: y / 2,
        "names": lambda y: ["a name"] * len(y),
        "none": lambda y: None,
        "empty": lambda y: torch.empty(len(y), 0),
        "labels": lambda y: 1 - y,
    }[other]
    want = loop(blobs.model, blobs.forget(size=3))
    for cls in CLASSES:
        second = [(x, y, others(y)) for x, y in blobs.forget(size=3)]
        third = [(x, others(y), y) for x, y in blobs.forget(size=3)]
        assert same(perturber(cls, blobs.model).calc_importance(second if cls in POTION else third), want)
        assert same(perturber(cls, blobs.model, label_at=1).calc_importance(second), want)
        assert same(perturber(cls, blobs.model, label_at=2).calc_importance(third), want)


@pytest.mark.parametrize("cls", CLASSES)
def test_batches_of_four_need_the_labels_position(blobs, cls):
    four = [(x, 1 - y, 1 - y, y) for x, y in blobs.forget()]
    with pytest.raises(DataError, match=r"not of 4; say where the label is: label_at="):
        perturber(cls, blobs.model).calc_importance(four)
    assert same(perturber(cls, blobs.model, label_at=3).calc_importance(four), loop(blobs.model, blobs.forget()))
    with pytest.raises(DataError, match="label_at=3 and the loader gives batches of 3"):
        perturber(cls, blobs.model, label_at=3).calc_importance(potion_batches(blobs.forget(), 0))


@pytest.mark.parametrize("cls", POTION)
@pytest.mark.parametrize(
    "empty", [lambda y: torch.empty(len(y), 0), lambda y: torch.empty(0), lambda y: [], lambda y: None]
)
def test_an_empty_label_is_said_to_be_of_ssds_form(blobs, cls, empty):
    loader = [(x, empty(y), y) for x, y in blobs.forget()]
    with pytest.raises(DataError, match=r"position 1 of a batch.*is empty.*potion_fast\.drop_in\.ssd"):
        perturber(cls, blobs.model).calc_importance(loader)
    assert same(perturber(cls, blobs.model, label_at=2).calc_importance(loader), loop(blobs.model, blobs.forget()))


@pytest.fixture
def three_classes():
    """A model of three classes, and batches of inputs and labels of all of them."""
    torch.manual_seed(0)
    return nn.Linear(4, 3), batches(torch.randn(24, 4), torch.arange(24) % 3, 8)


@pytest.mark.parametrize("flags", [lambda y: 0 * y, lambda y: 0 * y + 1, lambda y: torch.arange(len(y)) % 2])
def test_integer_flags_are_not_taken_for_labels_by_ssds_class_and_function(three_classes, flags):
    model, loader = three_classes
    flagged = [(x, y, flags(y)) for x, y in loader]
    before = weights(model)
    with pytest.raises(DataError, match=r"a class up to 2: these are Potion's batches.*drop_in\.potion.*label_at=2"):
        perturber(ssd.ParameterPerturber, model).calc_importance(flagged)
    unread = iter(())
    with pytest.raises(DataError, match="these are Potion's batches"):
        ssd.ssd_tuning(model, model, unread, unread, loader, unread, unread, 1, 2, flagged, "cpu")
    assert_same_weights(model, before)
    want = loop(model, [(x, third) for x, _, third in flagged])
    assert same(perturber(ssd.ParameterPerturber, model, label_at=2).calc_importance(flagged), want)


def test_bool_flags_are_not_taken_for_labels_anywhere(three_classes):
    model, loader = three_classes
    for cls in CLASSES:
        third = cls is ssd.ParameterPerturber
        flagged = [(x, y, y == 0) if third else (x, y == 0, y) for x, y in loader]
        with pytest.raises(DataError, match=f"position {1 + third} of a batch is bool, a flag and no label"):
            perturber(cls, model).calc_importance(flagged)


@pytest.mark.parametrize("cls", CLASSES)
def test_labels_of_other_kinds_are_read_or_refused_in_words(three_classes, cls):
    model, loader = three_classes
    want = loop(model, loader)
    for change in (torch.Tensor.int, torch.Tensor.short, torch.Tensor.float, lambda y: y[:, None]):
        assert same(perturber(cls, model).calc_importance([(x, change(y)) for x, y in loader]), want)
    one_hot = [(x, nn.functional.one_hot(y, 3)) for x, y in loader]
    assert same(perturber(cls, model).calc_importance(one_hot), want)
    with pytest.raises(DataError, match="labels count from 0"):
        perturber(cls, model).calc_importance([(x, y + 1) for x, y in loader])
    with pytest.raises(DataError, match="labels count from 0"):
        perturber(cls, model).calc_importance([*loader, (loader[0][0], loader[0][1] + 1)])


def test_labels_of_two_classes_next_to_finer_ones_are_labels(three_classes):
    """As in SSD's data of super-classes: the second is a class that the model does not have."""
    model, loader = three_classes
    coarse = [(x, 3 * y + 4, y.clamp(max=1)) for x, y in loader]
    want = loop(model, [(x, y) for x, _, y in coarse])
    assert same(perturber(ssd.ParameterPerturber, model).calc_importance(coarse), want)


def test_label_free_importances_read_no_label(blobs):
    want = None
    for change in (lambda x, y: (x, y), lambda x, y: x, lambda x, y: (x,), lambda x, y: (x, None, ["a"], 1)):
        forget, retain = ([change(x, y) for x, y in loader] for loader in (blobs.forget(), blobs.retain()))
        model = potion.alfssd_tuning(copy.deepcopy(blobs.model), forget, 1, 1, None, "cpu", 0.3, retain, True)
        want = weights(model) if want is None else want
        assert_same_weights(model, want)


# --- The package itself ----------------------------------------------------------------------------------------------


def test_the_package_has_an_ssd_tuning_for_batches_of_two_alone(blobs):
    model = copy.deepcopy(blobs.model)
    assert drop_in.ssd_tuning(model, blobs.forget(), 1, 2, blobs.retain(), "cpu") is model
    want = edited(blobs.model, loop(blobs.model, blobs.retain()), loop(blobs.model, blobs.forget()), 2)
    assert_same_weights(model, want)
    for form in (ssd_batches, lambda loader: potion_batches(loader, 0)):
        model = copy.deepcopy(blobs.model)
        with pytest.raises(DataError, match=r"drop_in\.potion or potion_fast\.drop_in\.ssd.*label_at="):
            drop_in.ssd_tuning(model, form(blobs.forget()), 1, 2, form(blobs.retain()), "cpu")
        assert_same_weights(model, weights(blobs.model))
    forget, retain = potion_batches(blobs.forget(), 1), potion_batches(blobs.retain(), 0)
    assert_same_weights(drop_in.ssd_tuning(model, forget, 1, 2, retain, "cpu", label_at=1), want)


def test_the_classes_are_of_one_repository_each():
    assert drop_in.assd_tuning is potion.assd_tuning and drop_in.alfssd_tuning is potion.alfssd_tuning
    for name in ("ParameterPerturber", "ParameterPerturber_old"):
        with pytest.raises(ImportError, match=rf"{name} is of one repository.*drop_in\.potion,.*drop_in\.ssd,"):
            exec(f"from potion_fast.drop_in import {name}")
    with pytest.raises(AttributeError, match="no attribute 'jit_tuning'"):
        _ = drop_in.jit_tuning
