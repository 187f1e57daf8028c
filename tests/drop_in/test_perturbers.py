"""The public code's calling sequences, against plain loops written here and against mode="reference", to the bit."""

from __future__ import annotations

import copy
import gc
import io
import os
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import potion_fast as pf
from helpers.toys import assert_same_weights, batches, net, samples, weights
from potion_fast import drop_in
from potion_fast.drop_in import ParameterPerturber, alfssd_tuning, assd_tuning, ssd_tuning
from potion_fast.errors import DataError, ImportanceError, ModelError, SearchError
from potion_fast.percentiles import percentile_of

# As a user of the public code has it, with the keys that it does not use.
PARAMETERS = {
    "lower_bound": 1,
    "exponent": 1,
    "magnitude_diff": None,
    "min_layer": -1,
    "max_layer": -1,
    "forget_threshold": 1,
    "dampening_constant": 1,
    "selection_weighting": 2,
}
LOSSES = {
    "ssd": lambda outputs, labels: nn.CrossEntropyLoss()(outputs, labels),
    "lf": lambda outputs, labels: outputs.square().sum(1).mean(),
    "xlf": lambda outputs, labels: torch.linalg.vector_norm(outputs, dim=1).mean(),
}
FLAGS = {"ssd": {}, "lf": {"label_free": True}, "xlf": {"label_free": True, "x_D": True}}


def loop(model, loader, objective="ssd"):
    """Importances as the public code's description has them: a backward pass per batch, into .grad."""
    model = copy.deepcopy(model).eval()
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for x, y in loader:
        model.zero_grad()
        LOSSES[objective](model(x), y).backward()
        for name, p in model.named_parameters():
            if p.grad is not None:
                total[name] += p.grad.clone().pow(2) if objective == "ssd" else p.grad.clone().abs()
    return {name: t.div_(len(loader)) for name, t in total.items()}


def percentile(retain, forget, p):
    """As NumPy has it, of the ratios that are finite."""
    ratio = torch.cat([(forget[name] / retain[name]).flatten() for name in forget]).numpy()
    ratio[np.isinf(ratio)] = np.nan
    return torch.tensor(np.nanpercentile(ratio, np.float64(p)), dtype=torch.float32)


def edited(model, retain, forget, alpha, dampening=1, exponent=1, lower_bound=1):
    """The edit by indices, one parameter after the other."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for name, p in model.named_parameters():
            f, o = forget[name], retain[name]
            where = torch.where(f > o.mul(alpha))
            factor = o.mul(dampening).div(f).pow(exponent)[where]
            factor[factor > lower_bound] = lower_bound
            p[where] = p[where].mul(factor)
    return weights(model)


def second(loader, flag, dtype=torch.bool):
    """Potion's batches: (x, y, in the forget set)."""
    return [(x, y, torch.full((len(y),), flag, dtype=dtype)) for x, y in loader]


def third(loader):
    """SSD's batches: (x, _, y), where _ is another label."""
    return [(x, torch.arange(len(y)) % 7, y) for x, y in loader]


def importances(model, seed=0):
    """Two dicts of importances over many orders of magnitude, with zeros, ties and subnormals among them."""
    generator = torch.Generator().manual_seed(seed)
    special = torch.tensor([0.0, 1.0, 2.0, 1e-45, 1e-40, 3e38])

    def values(like):
        smooth = 10 ** (torch.rand(like.shape, generator=generator) * 6 - 3)
        pick = special[torch.randint(0, len(special), like.shape, generator=generator)]
        return torch.where(torch.rand(like.shape, generator=generator) < 0.4, pick, smooth)

    return tuple({name: values(p) for name, p in model.named_parameters()} for _ in range(2))


def changed(model, original):
    return sum(int((p != original[name]).sum()) for name, p in model.named_parameters())


# --- The class -----------------------------------------------------------------------------------------------------


def test_ssd_by_the_class_is_the_plain_loop(blobs):
    model = copy.deepcopy(blobs.model).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    perturber = ParameterPerturber(model, optimizer, "cpu", PARAMETERS)
    forget = perturber.calc_importance(third(blobs.forget()))
    original = perturber.calc_importance(third(blobs.retain()))
    for got, loader in ((forget, blobs.forget()), (original, blobs.retain())):
        want = loop(blobs.model, loader)
        assert list(got) == list(want)
        for name in want:
            assert torch.equal(got[name], want[name]), name
    assert_same_weights(model, weights(blobs.model))
    assert perturber.modify_weight(original, forget) is None
    want = edited(blobs.model, loop(blobs.model, blobs.retain()), loop(blobs.model, blobs.forget()), 2)
    assert_same_weights(model, want)
    assert 0 < changed(model, weights(blobs.model)) < 962
    assert model.training and all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("objective", FLAGS)
def test_the_flags_choose_the_objective_of_mode_reference(blobs, objective):
    model = copy.deepcopy(blobs.model)
    perturber = ParameterPerturber(model, None, "cpu", PARAMETERS, adaptive=True, **FLAGS[objective])
    forget = perturber.calc_importance(second(blobs.forget(), True))
    original = perturber.calc_importance(second(blobs.retain(), False))
    for got, loader in ((forget, blobs.forget()), (original, blobs.retain())):
        reference = pf.importance(blobs.model, loader, objective, group_size="batch")
        for name, want in loop(blobs.model, loader, objective).items():
            assert torch.equal(got[name], want) and torch.equal(got[name], reference[name]), name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pf.PotionWarning)  # SSD does not find Blobs' trigger
        result = pf.unlearn(blobs.model, blobs.retain(), blobs.forget(), objective, mode="reference")
    step = result.trace[-1]
    perturber.modify_weight(original, forget, step.percentile)
    assert_same_weights(model, weights(result.model))
    assert changed(model, weights(blobs.model)) == step.dampened


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"dampening_constant": 0.3},
        {"dampening_constant": 20.0},
        {"dampening_constant": 0},
        {"selection_weighting": 0},
        {"exponent": 0.5},
        {"exponent": 2, "dampening_constant": 3},
        {"exponent": -1},
        {"lower_bound": 0.25},
        {"lower_bound": 0},
        {"lower_bound": 1.5, "dampening_constant": 5},
        {"lower_bound": 0.5, "exponent": 3, "selection_weighting": 0.7},
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_each_number_of_the_parameters_is_its_formula_on_importances_with_zeros_and_ties(change, seed):
    model = net(seed)
    forget, retain = importances(model, seed)
    parameters = {**PARAMETERS, **change}
    alpha, dampening, exponent, bound = (
        parameters[key] for key in ("selection_weighting", "dampening_constant", "exponent", "lower_bound")
    )
    want = edited(model, retain, forget, alpha, dampening, exponent, bound)
    ParameterPerturber(model, None, "cpu", parameters).modify_weight(retain, forget)
    assert_same_weights(model, want)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    alpha=st.floats(0, 100),
    dampening=st.floats(0, 100),
    exponent=st.sampled_from([1, 1.0, 0.5, 2, 3.7]),
    bound=st.sampled_from([1, 1.0, 0.5, 2.0]),
)
def test_any_numbers_are_the_formula(seed, alpha, dampening, exponent, bound):
    model = net(seed)
    forget, retain = importances(model, seed)
    want = edited(model, retain, forget, alpha, dampening, exponent, bound)
    numbers = {"lower_bound": bound, "exponent": exponent}
    numbers |= {"dampening_constant": dampening, "selection_weighting": alpha}
    ParameterPerturber(model, None, "cpu", numbers).modify_weight(retain, forget)
    assert_same_weights(model, want)


def test_adaptive_ignores_both_constants_and_keeps_exponent_and_bound():
    for change in ({}, {"exponent": 2}, {"lower_bound": 0.5}):
        model = net()
        forget, retain = importances(model)
        want = edited(model, retain, forget, percentile(retain, forget, 80.0), **change)
        parameters = {**PARAMETERS, "dampening_constant": 1e-3, "selection_weighting": 1e9, **change}
        ParameterPerturber(model, None, "cpu", parameters, adaptive=True).modify_weight(retain, forget, 80.0)
        assert_same_weights(model, want)


def test_the_seldom_keys_default_to_one_and_unused_ones_change_nothing(blobs):
    got = []
    for parameters in (PARAMETERS, {"dampening_constant": 1.0, "selection_weighting": 2.0}):
        model = copy.deepcopy(blobs.model)
        perturber = ParameterPerturber(model, None, "cpu", parameters)
        forget, original = (perturber.calc_importance(d) for d in (blobs.forget(), blobs.retain()))
        perturber.modify_weight(original, forget)
        got.append(weights(model))
    assert_same_weights(model, got[0])
    with pytest.warns(pf.PotionWarning, match="dampening_const, label_free") as caught:
        ParameterPerturber(model, None, "cpu", {**PARAMETERS, "dampening_const": 1, "label_free": True})
    assert caught[0].filename == __file__


def test_importances_may_be_stored_and_changed_on_the_way(blobs):
    model = copy.deepcopy(blobs.model)
    perturber = ParameterPerturber(model, None, "cpu", PARAMETERS, label_free=True)
    forget, original = (perturber.calc_importance(d) for d in (blobs.forget(), blobs.retain()))
    file = io.BytesIO()
    torch.save({"forget": forget, "original": original}, file)
    file.seek(0)
    read = torch.load(file, weights_only=True)
    read["original"]["0.weight"] *= 0.5
    read["forget"]["2.weight"] = torch.zeros_like(read["forget"]["2.weight"])
    read["forget"]["0.bias"] = read["forget"][
        "0.bias"
    ].double()  # in another dtype, and the parameters in another order
    perturber.modify_weight(dict(reversed(read["original"].items())), read["forget"])
    read["forget"]["0.bias"] = read["forget"]["0.bias"].float()
    assert_same_weights(model, edited(blobs.model, read["original"], read["forget"], 2))
    assert torch.equal(model[2].weight, blobs.model[2].weight)
    assert not torch.equal(model[0].weight, blobs.model[0].weight)


def test_channels_last_tied_and_frozen_parameters(blobs):
    model = net().to(memory_format=torch.channels_last)
    model.head.bias.requires_grad_(False)
    model.also = model.head  # named twice, one parameter
    inputs, labels = samples(40)
    loaders = batches(inputs[:10], labels[:10], 10), batches(inputs[10:], labels[10:], 8)
    want = edited(model, loop(model, loaders[1]), loop(model, loaders[0]), 2)
    perturber = ParameterPerturber(model, None, "cpu", PARAMETERS)
    forget, original = (perturber.calc_importance(loader) for loader in loaders)
    assert "head.bias" in forget and "also.bias" not in forget and not forget["head.bias"].any()
    perturber.modify_weight(original, forget)
    assert_same_weights(model, want)
    assert not model.conv.weight.is_contiguous() and changed(model, weights(net()))


# --- The functions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dampening", "alpha"), [(1, 2), (0.5, 1), (10, 1.5)])
@pytest.mark.parametrize("form", ["two", "third", "flag"])
def test_ssd_tuning_is_the_plain_loop_for_each_form_of_batch(blobs, dampening, alpha, form):
    def formed(loader, flag):
        return {"two": loader, "third": third(loader), "flag": second(loader, flag)}[form]

    model, loaders = copy.deepcopy(blobs.model), (blobs.forget(), blobs.retain())
    got = ssd_tuning(model, formed(loaders[0], True), dampening, alpha, formed(loaders[1], False), "cpu")
    assert got is model
    want = edited(blobs.model, loop(blobs.model, loaders[1]), loop(blobs.model, loaders[0]), alpha, dampening)
    assert_same_weights(model, want)


@pytest.mark.parametrize("objective", FLAGS)
@pytest.mark.parametrize("kind", ["lists", "DataLoaders"])
def test_ptn_looped_over_the_tuning_functions_is_mode_reference(blobs, objective, kind):
    """The public code's search: s = share / 25, s ← 1.1 s, each step from the original weights, stop at ≤ ρ · acc₀."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pf.PotionWarning)
        want = pf.unlearn(blobs.model, blobs.retain(), blobs.forget(), objective, mode="reference", max_steps=60)
    forget, retain = second(blobs.forget(), True), second(blobs.retain(), False)
    if kind == "DataLoaders":
        flags = torch.arange(200) < 10
        data = [TensorDataset(blobs.inputs[at], blobs.labels[at], flags[at]) for at in (flags, ~flags)]
        forget, retain = DataLoader(data[0], batch_size=512), DataLoader(data[1], batch_size=32)

    def accuracy(model):
        with torch.no_grad():
            hits = torch.cat([model(x).argmax(1) == y for x, y, _ in forget])
        return hits.double().mean().item()

    s, initial = 10 / 200 / 25, accuracy(blobs.model)
    for step in range(1, len(want.trace) + 1):  # noqa: B007 - compared below
        model = copy.deepcopy(blobs.model)
        if objective == "ssd":
            assd_tuning(model, forget, 0.1, 7, retain, "cpu", s)
        else:
            alfssd_tuning(model, forget, 0.1, 7, retain, "cpu", s, None, objective == "xlf")
        if accuracy(model) <= 0.2 * initial:
            break
        s = s * 1.1
    assert step == len(want.trace) and (objective == "ssd" or want.reason == "threshold passed")
    assert_same_weights(model, weights(want.model))


@pytest.mark.parametrize("tuning", [assd_tuning, alfssd_tuning])
def test_without_frac_dl_it_is_one_shot_at_the_share_of_the_forget_set(blobs, tuning):
    objective = "ssd" if tuning is assd_tuning else "lf"
    model = copy.deepcopy(blobs.model)
    tuning(model, second(blobs.forget(), True), None, None, second(blobs.retain(), False), "cpu")
    retain, forget = loop(blobs.model, blobs.retain(), objective), loop(blobs.model, blobs.forget(), objective)
    alpha = percentile(retain, forget, 100 - np.log(1 + 100 * (10 / 200)))
    assert_same_weights(model, edited(blobs.model, retain, forget, alpha))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pf.PotionWarning)
        want = pf.unlearn(
            blobs.model, blobs.retain(), blobs.forget(), objective, mode="reference", b_start=1.0, max_steps=1
        )
    assert_same_weights(model, weights(want.model))
    filtered = copy.deepcopy(blobs.model)  # all of S_tr in full_train_dl, and S_tr without S_f as the other
    tuning(filtered, blobs.forget(), 1, 1, blobs.retain(0), "cpu", filtered_loader=blobs.retain())
    assert_same_weights(filtered, weights(model))


class Counted(DataLoader):
    read = 0

    def __iter__(self):
        self.read += 1
        return super().__iter__()


def counted(blobs, part, size):
    return Counted(TensorDataset(blobs.inputs[part], blobs.labels[part]), batch_size=size)


def test_steps_of_a_search_read_the_data_once_and_nothing_is_kept_without_the_loaders(blobs):
    drop_in._cache.clear()
    forget, retain = counted(blobs, slice(10), 512), counted(blobs, slice(10, None), 32)

    def step(model, forget, s=0.01, **flags):
        return alfssd_tuning(copy.deepcopy(model), forget, 1, 1, retain, "cpu", s, **flags)

    first = step(blobs.model, forget)
    assert changed(step(blobs.model, forget, 0.2), weights(first))
    assert_same_weights(step(blobs.model, forget), weights(first))
    assert (forget.read, retain.read) == (1, 1)
    step(blobs.model, forget, x_D=True)  # another objective
    assert (forget.read, retain.read) == (2, 2)
    step(first, forget, x_D=True)  # other weights
    assert (forget.read, retain.read) == (3, 3)
    other = counted(blobs, slice(5), 512)
    step(first, other, x_D=True)
    assert (other.read, retain.read) == (1, 4)
    assert len(drop_in._cache) == 1
    retain = None
    gc.collect()
    assert len(drop_in._cache) == 0


def test_a_buffer_or_a_frozen_parameter_that_changed_means_other_importances():
    model, (inputs, labels) = net(), samples(40)
    forget, retain = (DataLoader(TensorDataset(inputs[p], labels[p]), 8) for p in (slice(10), slice(10, None)))

    def step():
        return weights(assd_tuning(copy.deepcopy(model), forget, 1, 1, retain, "cpu", 0.5))

    def afresh():
        new = [DataLoader(loader.dataset, 8) for loader in (forget, retain)]
        return assd_tuning(copy.deepcopy(model), new[0], 1, 1, new[1], "cpu", 0.5)

    before = step()
    model.norm.running_mean += 1
    assert_same_weights(afresh(), step())
    assert changed(afresh(), before)
    model.head.weight.requires_grad_(False)
    after = step()
    assert_same_weights(afresh(), after)
    assert torch.equal(after["head.weight"], model.head.weight)


def test_the_passes_come_in_the_public_codes_order(blobs):
    """Which matters to random augmentation: SSD takes the forget set first, PTN the training data."""

    def noted(loader, name):
        for batch in loader:
            read.append(name)
            yield batch

    for tuning, order in ((ssd_tuning, "fr"), (assd_tuning, "rf"), (alfssd_tuning, "rf")):
        read: list[str] = []
        model = copy.deepcopy(blobs.model)
        tuning(model, noted(blobs.forget(), "f"), 1, 2, noted(blobs.retain(size=512), "r"), "cpu")
        assert "".join(read) == order


def test_nothing_is_written_to_the_current_directory(blobs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for tuning in (ssd_tuning, assd_tuning, alfssd_tuning):
        tuning(copy.deepcopy(blobs.model), blobs.forget(), 1, 2, blobs.retain(), "cpu")
    assert os.listdir(tmp_path) == []


# --- The label's place ---------------------------------------------------------------------------------------------


def same_importances(got, want):
    return all(torch.equal(got[name], want[name]) for name in want)


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_labels_position_is_recognised_by_what_a_batch_holds(blobs, adaptive):
    perturber = ParameterPerturber(blobs.model, None, "cpu", PARAMETERS, adaptive=adaptive)
    want = loop(blobs.model, blobs.forget(size=3))
    for other in (lambda y: y == y, lambda y: ["a name"] * len(y), lambda y: y / 2, lambda y: None):
        for batch in (lambda x, y, o: (x, y, o), lambda x, y, o: [x, o, y], lambda x, y, o: (x, y, o, 1)):
            loader = [batch(x, y, other(y)) for x, y in blobs.forget(size=3)]
            assert same_importances(perturber.calc_importance(loader), want)


def test_where_both_could_be_labels_it_is_the_third_and_with_adaptive_the_second(blobs):
    loader = [(x, y, 1 - y) for x, y in blobs.forget()]
    second_label = loop(blobs.model, blobs.forget())
    third_label = loop(blobs.model, [(x, 1 - y) for x, y in blobs.forget()])
    for options, want in [
        ({}, third_label),
        ({"adaptive": True}, second_label),
        ({"label_at": 1}, second_label),
        ({"label_at": 2, "adaptive": True}, third_label),
    ]:
        perturber = ParameterPerturber(blobs.model, None, "cpu", PARAMETERS, **options)
        assert same_importances(perturber.calc_importance(loader), want)


def test_whole_number_flags_are_not_taken_for_labels_in_silence(blobs):
    model = copy.deepcopy(blobs.model)
    forget, retain = second(blobs.forget(), 1, torch.int64), second(blobs.retain(), 0, torch.int64)
    with pytest.raises(DataError, match="label_at=1"):
        ssd_tuning(model, forget, 1, 2, retain, "cpu")
    assert_same_weights(model, weights(blobs.model))
    ssd_tuning(model, forget, 1, 2, retain, "cpu", label_at=1)
    want = edited(blobs.model, loop(blobs.model, blobs.retain()), loop(blobs.model, blobs.forget()), 2)
    assert_same_weights(model, want)
    model = copy.deepcopy(blobs.model)
    assd_tuning(model, forget, 1, 2, retain, "cpu", 0.3)
    assert_same_weights(
        assd_tuning(copy.deepcopy(blobs.model), blobs.forget(), 1, 2, blobs.retain(), "cpu", 0.3), weights(model)
    )


def test_label_free_importances_read_no_label(blobs):
    for tuning in (lambda x, y: x, lambda x, y: (x,), lambda x, y: (x, None, ["a"]), lambda x, y: (x, y, y)):
        model = copy.deepcopy(blobs.model)
        forget, retain = ([tuning(x, y) for x, y in loader] for loader in (blobs.forget(), blobs.retain()))
        alfssd_tuning(model, forget, 1, 1, retain, "cpu", 0.3, x_D=True)
        want = alfssd_tuning(copy.deepcopy(blobs.model), blobs.forget(), 1, 1, blobs.retain(), "cpu", 0.3, x_D=True)
        assert_same_weights(model, weights(want))


# --- Bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"dampening_constant": None}, "dampening_constant"),
        ({"selection_weighting": -1}, "selection_weighting"),
        ({"selection_weighting": float("nan")}, "selection_weighting"),
        ({"lower_bound": -0.5}, "lower_bound"),
        ({"exponent": float("inf")}, "exponent"),
        ({"exponent": "1"}, "exponent"),
    ],
)
def test_numbers_that_make_no_sense_are_named(blobs, change, match):
    with pytest.raises(ImportanceError, match=match):
        ParameterPerturber(blobs.model, None, "cpu", {**PARAMETERS, **change})


def test_a_perturber_that_makes_no_sense_is_refused(blobs):
    def made(model=blobs.model, device="cpu", parameters=PARAMETERS, **flags):
        return ParameterPerturber(model, None, device, parameters, **flags)

    with pytest.raises(ImportanceError, match="label_free=True"):
        made(x_D=True)
    with pytest.raises(ImportanceError, match="NoneType"):
        made(parameters=None)
    with pytest.raises(DataError, match="1 or 2, not 0"):
        made(label_at=0)
    with pytest.raises(ModelError, match="meta"):
        made(device="meta")
    with pytest.raises(ModelError, match="no device"):
        made(device="the fast one")
    with pytest.raises(ModelError, match=r"0\.weight.*float64"):
        made(copy.deepcopy(blobs.model).double())
    with pytest.raises(ImportanceError, match="no trainable parameter"):
        made(copy.deepcopy(blobs.model).requires_grad_(False))


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda d: d.pop("2.bias"), r"original importances lack parameter '2\.bias'"),
        (lambda d: d.update(other=torch.zeros(2)), "another model: it has no parameter 'other'"),
        (lambda d: d.update({"2.bias": torch.zeros(3)}), r"'2\.bias' are torch.float32 \[3\]; its shape is \[2\]"),
        (lambda d: d.update({"2.bias": 0.5}), "float"),
        (lambda d: d["2.bias"].fill_(-1), "negative or not finite"),
        (lambda d: d["2.bias"].fill_(float("nan")), "negative or not finite"),
    ],
)
def test_importances_that_do_not_fit_leave_the_weights_alone(blobs, spoil, match):
    model = copy.deepcopy(blobs.model)
    perturber = ParameterPerturber(model, None, "cpu", PARAMETERS, label_free=True)
    forget, original = (perturber.calc_importance(d) for d in (blobs.forget(), blobs.retain()))
    spoil(original)
    with pytest.raises(ImportanceError, match=match):
        perturber.modify_weight(original, forget)
    with pytest.raises(ImportanceError, match="list"):
        perturber.modify_weight(forget, [forget])
    assert_same_weights(model, weights(blobs.model))


def test_percentiles_and_shares_out_of_range_are_named(blobs):
    model = copy.deepcopy(blobs.model)
    adaptive = ParameterPerturber(model, None, "cpu", {}, adaptive=True)
    forget, original = (adaptive.calc_importance(d) for d in (blobs.forget(), blobs.retain()))
    with pytest.raises(SearchError, match="give PERCENTILE"):
        adaptive.modify_weight(original, forget)
    for p in (-1, 100.1, float("nan"), "99"):
        with pytest.raises(SearchError, match="PERCENTILE must be"):
            adaptive.modify_weight(original, forget, p)
    for s in (0, -1, float("nan"), float("inf"), np.exp(100), blobs.forget()):
        with pytest.raises(SearchError, match="frac_dl"):
            assd_tuning(model, blobs.forget(), 1, 1, blobs.retain(), "cpu", s)
    assert_same_weights(model, weights(blobs.model))
    with pytest.warns(pf.PotionWarning, match="finite ratio"):
        adaptive.modify_weight({name: 0 * o for name, o in original.items()}, forget, 90.0)
    assert_same_weights(model, weights(blobs.model))
    plain = ParameterPerturber(model, None, "cpu", PARAMETERS)
    with pytest.warns(pf.PotionWarning, match="no effect without adaptive"):
        plain.modify_weight(original, forget, 90.0)
    assert_same_weights(model, edited(blobs.model, original, forget, 2))


@pytest.mark.parametrize("tuning", [ssd_tuning, assd_tuning, alfssd_tuning])
def test_loaders_that_are_not_what_was_asked_for_leave_the_model_alone(blobs, tuning):
    model = copy.deepcopy(blobs.model)
    with pytest.raises(DataError, match="no samples"):
        tuning(model, [], 1, 2, blobs.retain(), "cpu")
    with pytest.raises(DataError, match="no samples"):
        tuning(model, blobs.forget(), 1, 2, [], "cpu")
    with pytest.raises(DataError, match="tensors"):
        tuning(model, ["a"], 1, 2, blobs.retain(), "cpu")
    if tuning is not alfssd_tuning:
        with pytest.raises(DataError, match="gives none"):
            tuning(model, [blobs.inputs], 1, 2, blobs.retain(), "cpu")
        with pytest.raises(DataError, match="batches of 2"):
            tuning(model, blobs.forget(), 1, 2, blobs.retain(), "cpu", label_at=2)
    assert_same_weights(model, weights(blobs.model))


def test_the_share_of_one_step_is_that_of_equation_7(blobs):
    model = copy.deepcopy(blobs.model)
    alfssd_tuning(model, blobs.forget(), 1, 1, blobs.retain(), "cpu", np.float64(0.03))
    perturber = ParameterPerturber(blobs.model, None, "cpu", {}, adaptive=True, label_free=True)
    forget, original = (perturber.calc_importance(d) for d in (blobs.forget(), blobs.retain()))
    want = edited(blobs.model, original, forget, percentile(original, forget, percentile_of(0.03)))
    assert_same_weights(model, want)
