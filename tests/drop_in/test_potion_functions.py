"""Potion's functions, called as its own code calls them, against plain loops written from the formulas."""

from __future__ import annotations

import copy
import gc
import inspect
import os
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, SubsetRandomSampler, TensorDataset

import potion_fast as pf
from helpers.public_codes import FLAGS, changed, edited, loop, percentile, potion_batches
from helpers.toys import assert_same_weights, net, samples, weights
from potion_fast.drop_in import kept
from potion_fast.drop_in.potion import alfssd_tuning, assd_tuning, ssd_tuning
from potion_fast.errors import DataError, SearchError
from potion_fast.percentiles import percentile_of

TUNINGS = {"ssd": assd_tuning, "lf": alfssd_tuning, "xlf": alfssd_tuning}


def step(objective, model, forget, retain, s):
    """One step of PTN, positional and by keyword as its three classes call it."""
    if objective == "ssd":
        return assd_tuning(model, forget, None, None, retain, "cpu", s)
    if objective == "lf":
        return alfssd_tuning(model, forget, None, None, retain, "cpu", s, retain)
    return alfssd_tuning(model, forget, None, None, retain, "cpu", s, retain, x_D=True)


def test_the_signatures_are_those_of_the_repository():
    def names(function):
        parameters = inspect.signature(function).parameters.values()
        return [one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]

    first = ["model", "forget_train_dl", "dampening_constant", "selection_weighting", "full_train_dl", "device"]
    assert names(ssd_tuning) == first
    assert names(assd_tuning) == [*first, "frac_dl"]
    assert names(alfssd_tuning) == [*first, "frac_dl", "filtered_loader", "x_D"]


@pytest.mark.parametrize(("dampening", "alpha"), [(1, 2), (0.5, 1), (10, 1.5)])
@pytest.mark.parametrize("flag", [torch.int64, torch.int32, torch.bool, torch.float32])
def test_ssd_tuning_is_the_plain_loop_whatever_the_flags(blobs, dampening, alpha, flag):
    model = copy.deepcopy(blobs.model).train()
    forget, retain = potion_batches(blobs.forget(), 1, flag), potion_batches(blobs.retain(), 0, flag)
    assert ssd_tuning(model, forget, dampening, alpha, retain, torch.device("cpu")) is model
    want = edited(blobs.model, loop(blobs.model, blobs.retain()), loop(blobs.model, blobs.forget()), alpha, dampening)
    assert_same_weights(model, want)
    assert not model.training  # as the public code leaves it


def test_flags_of_both_kinds_in_the_training_data_change_nothing(blobs):
    """Where S_m holds more than S_f, the flags of the training data are 0 and 1."""
    flagged = [(x, y, torch.arange(len(y)) % 2) for x, y in blobs.retain()]
    model = copy.deepcopy(blobs.model)
    ssd_tuning(model, potion_batches(blobs.forget(), 1), 1, 2, flagged, "cpu")
    want = edited(blobs.model, loop(blobs.model, blobs.retain()), loop(blobs.model, blobs.forget()), 2)
    assert_same_weights(model, want)


# --- The search ------------------------------------------------------------------------------------------------------


class Augmented(Dataset):
    """(image, label, flag), the image with fresh noise at every visit, as a random augmentation."""

    def __init__(self, inputs, labels, found, noise=0.02):
        self.inputs, self.labels, self.found, self.noise = inputs, labels, found, noise

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        return self.inputs[index] + self.noise * torch.randn(12), int(self.labels[index]), int(index < self.found)


def loaders(blobs, found=10, noise=0.02):
    """Of S_f and of S_tr without it: subsets of one data set, in random order."""
    data = Augmented(blobs.inputs, blobs.labels, found, noise)
    subsets = range(found), range(found, len(data))
    return tuple(
        DataLoader(data, size, sampler=SubsetRandomSampler(part)) for part, size in zip(subsets, (512, 32), strict=True)
    )


def accuracy(model, loader):
    """As the metric of the public code has it: in float32."""
    model.eval()
    with torch.no_grad():
        hits = torch.cat([model(x).argmax(1) == y for x, y, _ in loader])
    return (hits.sum().float() / torch.tensor(len(hits)).float()).item()


def search(model, forget, retain, rho, take_step, s, tries=100):
    """The public code's loop: accuracies at every step, and the model that it ends at."""
    initial, seen = accuracy(model, forget), []
    for _ in range(tries):
        candidate = copy.deepcopy(model)
        take_step(candidate, s)
        seen.append(accuracy(candidate, forget))
        if seen[-1] <= rho * initial:
            break
        s = 1.1 * s
    return seen, candidate


@pytest.mark.parametrize("objective", FLAGS)
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_a_search_over_the_functions_is_the_plain_loop_with_the_same_random_numbers(blobs, objective, noise):
    forget, retain = loaders(blobs, noise=noise)
    once = {}

    def by_loop(model, s):
        if not once:  # importances are computed once, those of the training data first
            once["retain"] = loop(blobs.model, ((x, y) for x, y, _ in retain), objective)
            once["forget"] = loop(blobs.model, ((x, y) for x, y, _ in forget), objective)
        p = 100 - np.log(1 + s * 100)
        alpha = percentile(once["retain"], once["forget"], p)
        model.load_state_dict(edited(blobs.model, once["retain"], once["forget"], alpha))

    torch.manual_seed(0)
    want, healed = search(blobs.model, forget, retain, 0.2, by_loop, 10 / 200 / 25)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    got, ours = search(
        blobs.model, forget, retain, 0.2, lambda m, s: step(objective, m, forget, retain, s), 10 / 200 / 25
    )
    assert got == want and len(got) > 1
    assert_same_weights(ours, weights(healed))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("objective", FLAGS)
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_a_search_over_the_functions_is_mode_reference_with_the_same_random_numbers(blobs, objective, noise):
    """Both take the accuracy first, then the importances of the training data, then those of S_f."""
    forget, retain = loaders(blobs, noise=noise)
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pf.PotionWarning)
        want = pf.unlearn(blobs.model, retain, forget, objective, mode="reference", max_steps=100)
    state = torch.get_rng_state()
    torch.manual_seed(1)
    got, healed = search(
        blobs.model, forget, retain, 0.2, lambda m, s: step(objective, m, forget, retain, s), 10 / 200 / 25
    )
    steps = len(want.trace)
    assert got[:steps] == pytest.approx([one.accuracy for one in want.trace], abs=1e-7) and steps > 1
    assert_same_weights(healed, weights(want.model))
    if want.reason != "saturated":  # from where the public code's steps change nothing, but go on
        assert (len(got), want.reason) == (steps, "threshold passed")
        assert torch.equal(state, torch.get_rng_state())
    else:
        assert objective == "ssd"


# --- One step --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", FLAGS)
@pytest.mark.parametrize("s", [0.0, 0, 0.03, np.float64(0.03), torch.tensor(0.03, dtype=torch.float64), np.array(0.5)])
def test_a_step_is_that_of_equation_7(blobs, objective, s):
    model = copy.deepcopy(blobs.model)
    forget, retain = loop(blobs.model, blobs.forget(), objective), loop(blobs.model, blobs.retain(), objective)
    step(objective, model, potion_batches(blobs.forget(), 1), potion_batches(blobs.retain(), 0), s)
    alpha = percentile(retain, forget, 100 - np.log(1 + 100 * float(s)))
    assert_same_weights(model, edited(blobs.model, retain, forget, alpha))
    assert percentile_of(0.0) == 100


def test_shares_out_of_range_are_named_before_anything_is_read(blobs):
    model = copy.deepcopy(blobs.model)
    for s in (None, "0.1", -1, float("nan"), float("inf"), np.exp(100), torch.ones(2), blobs.forget()):
        for objective in FLAGS:
            with pytest.raises(SearchError, match="frac_dl"):
                step(objective, model, iter(()), iter(()), s)
    assert_same_weights(model, weights(blobs.model))


class Counted(DataLoader):
    read = 0

    def __iter__(self):
        self.read += 1
        return super().__iter__()


def counted(blobs, part, size):
    flags = torch.zeros(len(blobs.labels[part]), dtype=torch.int64)
    return Counted(TensorDataset(blobs.inputs[part], blobs.labels[part], flags), batch_size=size)


def test_steps_of_a_search_read_the_data_once_and_nothing_is_kept_without_the_loaders(blobs):
    kept._kept.clear()
    forget, retain = counted(blobs, slice(10), 512), counted(blobs, slice(10, None), 32)

    def steps(model, forget, *shares, **flags):
        for s in shares:
            last = alfssd_tuning(copy.deepcopy(model), forget, 1, 1, retain, "cpu", s, retain, **flags)
        return last

    first = steps(blobs.model, forget, 0.01)
    assert changed(steps(blobs.model, forget, 0.2), weights(first))
    assert (forget.read, retain.read) == (1, 1)
    assert_same_weights(steps(blobs.model, forget, 0.01), weights(first))  # a smaller share: another search begins
    assert (forget.read, retain.read) == (2, 2)
    steps(blobs.model, forget, 0.011, 0.0121, 0.01331)
    assert (forget.read, retain.read) == (2, 2)
    steps(blobs.model, forget, 0.01331)  # the same share: another search, of one step
    assert (forget.read, retain.read) == (3, 3)
    steps(blobs.model, forget, 0.02, 0.03, x_D=True)  # another objective
    assert (forget.read, retain.read) == (4, 4)
    steps(first, forget, 0.04, 0.05, x_D=True)  # other weights
    assert (forget.read, retain.read) == (5, 5)
    other = counted(blobs, slice(5), 512)
    steps(first, other, 0.06, x_D=True)
    assert (other.read, retain.read) == (1, 6)
    assert len(kept._kept) == 1
    retain = None
    gc.collect()
    assert len(kept._kept) == 0


def test_a_second_search_with_the_same_loaders_draws_anew(blobs):
    """As the public code does, which removes its files when a search begins."""
    forget, retain = loaders(blobs, noise=0.5)
    first = weights(step("xlf", copy.deepcopy(blobs.model), forget, retain, 0.02))
    step("xlf", copy.deepcopy(blobs.model), forget, retain, 0.03)
    again = step("xlf", copy.deepcopy(blobs.model), forget, retain, 0.02)
    assert changed(again, first)


def test_a_buffer_or_a_frozen_parameter_that_changed_means_other_importances():
    model, (inputs, labels) = net(), samples(40)
    forget, retain = (DataLoader(TensorDataset(inputs[p], labels[p]), 8) for p in (slice(10), slice(10, None)))
    shares = iter([0.5, 0.6, 0.7])

    def both_ways():
        s = next(shares)
        new = [DataLoader(loader.dataset, 8) for loader in (forget, retain)]
        return step("ssd", copy.deepcopy(model), forget, retain, s), step("ssd", copy.deepcopy(model), *new, s)

    both_ways()
    model.norm.running_mean += 1
    got, want = both_ways()
    assert_same_weights(got, weights(want))
    model.head.weight.requires_grad_(False)
    got, want = both_ways()
    assert_same_weights(got, weights(want))
    assert torch.equal(got.head.weight, model.head.weight)


def test_the_passes_come_in_the_public_codes_order(blobs):
    """Which matters to random augmentation: SSD takes the forget set first, PTN the training data."""

    def noted(loader, name):
        for batch in loader:
            read.append(name)
            yield batch

    for objective, order in ((None, "fr"), ("ssd", "rf"), ("lf", "rf"), ("xlf", "rf")):
        read: list[str] = []
        model = copy.deepcopy(blobs.model)
        forget, retain = noted(blobs.forget(), "f"), noted(blobs.retain(size=512), "r")
        if objective is None:
            ssd_tuning(model, forget, 1, 2, retain, "cpu")
        else:
            step(objective, model, forget, retain, 0.1)
        assert "".join(read) == order


def test_lf_and_xlf_read_the_filtered_loader_and_not_all_of_the_training_data(blobs):
    forget, retain = potion_batches(blobs.forget(), 1), potion_batches(blobs.retain(), 0)
    model = copy.deepcopy(blobs.model)
    alfssd_tuning(model, forget, 1, 1, object(), "cpu", 0.3, retain, True)
    assert_same_weights(model, weights(step("xlf", copy.deepcopy(blobs.model), forget, retain, 0.3)))


def test_nothing_is_written_to_the_current_directory(blobs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for objective in FLAGS:
        step(objective, copy.deepcopy(blobs.model), *loaders(blobs), 0.1)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("objective", [None, *FLAGS])
def test_loaders_that_are_not_what_was_asked_for_leave_the_model_alone(blobs, objective):
    model = copy.deepcopy(blobs.model)

    def tuned(forget, retain):
        if objective is None:
            return ssd_tuning(model, forget, 1, 2, retain, "cpu")
        return step(objective, model, forget, retain, 0.1)

    with pytest.raises(DataError, match="no samples"):
        tuned([], blobs.retain())
    with pytest.raises(DataError, match="no samples"):
        tuned(blobs.forget(), [])
    with pytest.raises(DataError, match="tensors"):
        tuned(["a"], blobs.retain())
    with pytest.raises(DataError, match="wrap it in a DataLoader"):
        tuned(blobs.forget(), TensorDataset(blobs.inputs, blobs.labels))
    with pytest.raises(DataError, match="must give batches.*NoneType"):
        tuned(blobs.forget(), None)
    if objective in (None, "ssd"):
        with pytest.raises(DataError, match="gives none"):
            tuned([blobs.inputs], blobs.retain())
    assert_same_weights(model, weights(blobs.model))
