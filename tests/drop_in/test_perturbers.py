"""The classes of both public codes, against plain loops written from the formulas, to the bit."""

from __future__ import annotations

import copy
import inspect
import io
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import potion_fast as pf
from helpers.public_codes import FLAGS, PARAMETERS, changed, edited, loop, percentile, potion_batches, ssd_batches
from helpers.toys import assert_same_weights, batches, net, samples, weights
from potion_fast.drop_in import potion, ssd
from potion_fast.errors import DataError, ImportanceError, ModelError, SearchError

CLASSES = [ssd.ParameterPerturber, potion.ParameterPerturber_old, potion.ParameterPerturber]


def importances(model, seed=0):
    """Two dicts of importances over many orders of magnitude, with zeros, ties and subnormals among them."""
    generator = torch.Generator().manual_seed(seed)
    special = torch.tensor([0.0, 1.0, 2.0, 1e-45, 1e-40, 3e38])

    def values(like):
        smooth = 10 ** (torch.rand(like.shape, generator=generator) * 6 - 3)
        pick = special[torch.randint(0, len(special), like.shape, generator=generator)]
        return torch.where(torch.rand(like.shape, generator=generator) < 0.4, pick, smooth)

    return tuple({name: values(p) for name, p in model.named_parameters()} for _ in range(2))


def formed(cls, loader, flag=0):
    """The batches of the repository that a class is of."""
    return ssd_batches(loader) if cls is ssd.ParameterPerturber else potion_batches(loader, flag)


# --- Signatures and attributes ---------------------------------------------------------------------------------------


def test_the_signatures_are_those_of_the_repositories():
    def names(function):
        kinds = (inspect.Parameter.KEYWORD_ONLY,)
        return [name for name, one in inspect.signature(function).parameters.items() if one.kind not in kinds]

    first = ["self", "model", "opt", "device", "parameters"]
    assert names(ssd.ParameterPerturber.__init__) == names(potion.ParameterPerturber_old.__init__) == first
    assert names(potion.ParameterPerturber.__init__) == [*first, "adaptive", "label_free", "x_D"]
    assert names(ssd.ParameterPerturber.calc_importance) == ["self", "dataloader"]
    assert names(potion.ParameterPerturber.calc_importance) == ["self", "dataloader", "extra_noise"]
    both = ["self", "original_importance", "forget_importance"]
    assert names(ssd.ParameterPerturber.modify_weight) == both
    assert names(potion.ParameterPerturber.modify_weight) == [*both, "PERCENTILE", "x_D"]


@pytest.mark.parametrize("cls", CLASSES)
def test_the_numbers_are_attributes_and_the_device_may_be_left_out(cls):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    perturber = cls(model, optimizer, parameters=PARAMETERS)
    assert perturber.model is model and perturber.opt is optimizer
    assert {name: getattr(perturber, name) for name in PARAMETERS} == PARAMETERS
    assert perturber.xmin is None and torch.device(perturber.device).type in ("cpu", "cuda")
    assert perturber.alpha == (2 if cls is potion.ParameterPerturber else None)
    assert perturber.get_layer_num("layer.12.weight") == 12 and perturber.get_layer_num("conv.weight") == -1
    assert perturber.get_layer_num("weight") == -1
    zeros = perturber.zerolike_params_dict(model)
    assert list(zeros) == [name for name, _ in model.named_parameters()]
    assert all(not zeros[name].any() and zeros[name].shape == p.shape for name, p in model.named_parameters())


def test_with_adaptive_the_attributes_hold_what_the_edit_used(blobs):
    flags = (True, True, True)  # positional: adaptive, label_free, x_D
    parameters = {**PARAMETERS, "dampening_constant": None, "selection_weighting": None}
    perturber = potion.ParameterPerturber(copy.deepcopy(blobs.model), None, "cpu", parameters, *flags)
    assert (perturber.adaptive, perturber.label_free, perturber.x_D) == flags
    assert perturber.selection_weighting == perturber.dampening_constant == "Adaptive" and perturber.alpha is None
    forget = perturber.calc_importance(potion_batches(blobs.forget(), 1), False)
    original = perturber.calc_importance(potion_batches(blobs.retain(), 0), extra_noise=False)
    perturber.modify_weight(original, forget, PERCENTILE=90.0, x_D=True)
    assert perturber.selection_weighting == percentile(original, forget, 90.0).item()
    assert perturber.dampening_constant == 1
    perturber.modify_weight(original, forget, 99.0)
    assert perturber.selection_weighting == percentile(original, forget, 99.0).item()


@pytest.mark.parametrize("cls", CLASSES)
def test_the_attributes_are_read_when_the_weights_are_modified(blobs, cls):
    model = copy.deepcopy(blobs.model)
    perturber = cls(model, None, "cpu", PARAMETERS)
    forget, original = (perturber.calc_importance(formed(cls, d)) for d in (blobs.forget(), blobs.retain()))
    perturber.selection_weighting, perturber.exponent, perturber.lower_bound = 3, 2, 0.5
    perturber.modify_weight(original, forget)
    assert_same_weights(model, edited(blobs.model, original, forget, 3, exponent=2, lower_bound=0.5))
    perturber.selection_weighting = "Adaptive"
    with pytest.raises(ImportanceError, match="selection_weighting"):
        perturber.modify_weight(original, forget)


def test_what_else_ssds_class_has():
    model = nn.Linear(3, 2)
    perturber = ssd.ParameterPerturber(model, None, parameters=PARAMETERS)
    lists = perturber.fulllike_params_dict(model, 0.1)
    assert lists == {"weight": [[0.1] * 3] * 2, "bias": [0.1] * 2}
    tensors = perturber.fulllike_params_dict(model, 7, as_tensor=True)
    assert torch.equal(tensors["weight"], torch.full((2, 3), 7)) and tensors["bias"].shape == (2,)
    data = [(torch.zeros(1), label) for label in (0, 1, 1, 0, 2)]
    assert [subset.indices for subset in perturber.split_dataset_by_class(data)] == [[0, 3], [1, 2], [4]]
    assert list(perturber.subsample_dataset(data, 0.4).indices) == [0, 2, 4]


# --- Importances -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", CLASSES)
def test_ssd_by_the_class_is_the_plain_loop(blobs, cls):
    model = copy.deepcopy(blobs.model).train()
    perturber = cls(model, torch.optim.SGD(model.parameters(), lr=0.1), "cpu", PARAMETERS)
    forget = perturber.calc_importance(formed(cls, blobs.forget(), 1))
    original = perturber.calc_importance(formed(cls, blobs.retain()))
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
    perturber = potion.ParameterPerturber(model, None, "cpu", PARAMETERS, adaptive=True, **FLAGS[objective])
    forget = perturber.calc_importance(potion_batches(blobs.forget(), 1))
    original = perturber.calc_importance(potion_batches(blobs.retain(), 0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pf.PotionWarning)  # SSD does not find Blobs' trigger
        result = pf.unlearn(blobs.model, blobs.retain(), blobs.forget(), objective, mode="reference")
    for got, loader, reference in (
        (forget, blobs.forget(), result.forget),
        (original, blobs.retain(), result.retain),
    ):
        for name, want in loop(blobs.model, loader, objective).items():
            assert torch.equal(got[name], want) and torch.equal(got[name], reference[name]), name
    step = result.trace[-1]
    perturber.modify_weight(original, forget, step.percentile)
    assert_same_weights(model, weights(result.model))
    assert changed(model, weights(blobs.model)) == step.dampened


def test_lf_has_another_form_outside_of_mode_reference(blobs):
    """The two differ by rounding, so that the test of equal bits above means something."""
    ours = pf.importance(blobs.model, blobs.retain(), "lf", group_size="batch")
    theirs = loop(blobs.model, blobs.retain(), "lf")
    assert any(not torch.equal(ours[name], want) for name, want in theirs.items())
    for name, want in theirs.items():
        torch.testing.assert_close(ours[name], want, rtol=1e-3, atol=1e-6)


class Sequences(nn.Module):
    """Outputs [B, C, T]."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(2, 5, 3)

    def forward(self, x):  # [B, 2, T + 2] -> [B, 5, T]
        return torch.tanh(self.conv(x))


@pytest.mark.parametrize("objective", ["lf", "xlf"])
def test_the_norm_of_outputs_with_more_dimensions_is_over_dimension_1(objective):
    torch.manual_seed(0)
    model, loader = Sequences(), [(x, None) for x in torch.randn(24, 2, 9).split(8)]
    perturber = potion.ParameterPerturber(model, None, "cpu", {}, True, **FLAGS[objective])
    got = perturber.calc_importance([(x, torch.zeros(8), torch.zeros(8)) for x, _ in loader])
    for name, want in loop(model, loader, objective).items():
        torch.testing.assert_close(got[name], want, rtol=1e-5, atol=1e-8)


def test_extra_noise_is_drawn_for_each_batch_and_leaves_the_data_alone(blobs):
    loader = potion_batches(blobs.retain(), 0)
    before = [x.clone() for x, _, _ in loader]
    perturber = potion.ParameterPerturber(blobs.model, None, "cpu", PARAMETERS)
    torch.manual_seed(3)
    got = perturber.calc_importance(loader, True)
    state = torch.get_rng_state()
    torch.manual_seed(3)
    noisy = [(x + torch.randn_like(x) * 0.01, y) for x, y in blobs.retain()]
    assert torch.equal(state, torch.get_rng_state())
    for name, want in loop(blobs.model, noisy).items():
        torch.testing.assert_close(got[name], want, rtol=1e-5, atol=1e-9)
    assert all(torch.equal(x, kept) for (x, _, _), kept in zip(loader, before, strict=True))
    with pytest.raises(DataError, match=r"floating-point numbers, not torch\.int64"):
        perturber.calc_importance([(torch.arange(4), torch.arange(4), torch.arange(4))], extra_noise=True)


# --- The edit --------------------------------------------------------------------------------------------------------


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
    ssd.ParameterPerturber(model, None, "cpu", parameters).modify_weight(retain, forget)
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
    ssd.ParameterPerturber(model, None, "cpu", numbers).modify_weight(retain, forget)
    assert_same_weights(model, want)


def test_adaptive_ignores_all_numbers_of_the_parameters_and_takes_those_of_the_attributes():
    for change in ({}, {"exponent": 2}, {"lower_bound": 0.5}):
        model = net()
        forget, retain = importances(model)
        want = edited(model, retain, forget, percentile(retain, forget, 80.0), **change)
        parameters = {**PARAMETERS, "dampening_constant": 1e-3, "selection_weighting": 1e9}
        perturber = potion.ParameterPerturber(model, None, "cpu", parameters, adaptive=True)
        for name, value in change.items():
            setattr(perturber, name, value)
        perturber.modify_weight(retain, forget, 80.0)
        assert_same_weights(model, want)
    with pytest.warns(pf.PotionWarning, match="exponent of parameters have no effect") as caught:
        perturber = potion.ParameterPerturber(net(), None, "cpu", {**PARAMETERS, "exponent": 2}, True)
    assert perturber.exponent == 1 and caught[0].filename == __file__


def test_the_seldom_keys_default_to_one_and_unused_ones_change_nothing(blobs):
    got = []
    for parameters in (PARAMETERS, {"dampening_constant": 1.0, "selection_weighting": 2.0}):
        model = copy.deepcopy(blobs.model)
        perturber = ssd.ParameterPerturber(model, None, "cpu", parameters)
        forget, original = (perturber.calc_importance(d) for d in (blobs.forget(), blobs.retain()))
        perturber.modify_weight(original, forget)
        got.append(weights(model))
    assert_same_weights(model, got[0])
    for cls in CLASSES:
        with pytest.warns(pf.PotionWarning, match="dampening_const, label_free") as caught:
            cls(model, None, "cpu", {**PARAMETERS, "dampening_const": 1, "label_free": True})
        assert caught[0].filename == __file__


def test_importances_may_be_stored_and_changed_on_the_way(blobs):
    model = copy.deepcopy(blobs.model)
    perturber = potion.ParameterPerturber(model, None, "cpu", PARAMETERS, label_free=True)
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
    perturber = potion.ParameterPerturber(model, None, "cpu", PARAMETERS)
    forget, original = (perturber.calc_importance(loader) for loader in loaders)
    assert "head.bias" in forget and "also.bias" not in forget and not forget["head.bias"].any()
    perturber.modify_weight(original, forget)
    assert_same_weights(model, want)
    assert not model.conv.weight.is_contiguous() and changed(model, weights(net()))


# --- Bad input -------------------------------------------------------------------------------------------------------


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
        ssd.ParameterPerturber(blobs.model, None, "cpu", {**PARAMETERS, **change})


def test_a_perturber_that_makes_no_sense_is_refused(blobs):
    def made(model=blobs.model, device="cpu", parameters=PARAMETERS, **flags):
        return potion.ParameterPerturber(model, None, device, parameters, **flags)

    with pytest.raises(ImportanceError, match="label_free=True"):
        made(x_D=True)
    for cls in CLASSES:
        with pytest.raises(ImportanceError, match="NoneType"):
            cls(blobs.model, None)
        for place in (0, -1, True, 1.0):
            with pytest.raises(DataError, match=f"1 or more, not {place}"):
                cls(blobs.model, None, "cpu", PARAMETERS, label_at=place)
        with pytest.raises(ModelError, match="no device"):
            cls(blobs.model, None, "the fast one", PARAMETERS)
        with pytest.raises(ModelError, match=r"0\.weight.*float64"):
            cls(copy.deepcopy(blobs.model).double(), None, "cpu", PARAMETERS)
        with pytest.raises(ImportanceError, match="no trainable parameter"):
            cls(copy.deepcopy(blobs.model).requires_grad_(False), None, "cpu", PARAMETERS)
    with pytest.raises(ModelError, match="meta"):
        ssd.ParameterPerturber(blobs.model, None, "meta", PARAMETERS)  # which, unlike Potion's, moves no model


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
    perturber = potion.ParameterPerturber(model, None, "cpu", PARAMETERS, label_free=True)
    forget, original = (perturber.calc_importance(d) for d in (blobs.forget(), blobs.retain()))
    spoil(original)
    with pytest.raises(ImportanceError, match=match):
        perturber.modify_weight(original, forget)
    with pytest.raises(ImportanceError, match="list"):
        perturber.modify_weight(forget, [forget])
    assert_same_weights(model, weights(blobs.model))


def test_percentiles_out_of_range_are_named(blobs):
    model = copy.deepcopy(blobs.model)
    adaptive = potion.ParameterPerturber(model, None, "cpu", {}, adaptive=True)
    forget, original = (adaptive.calc_importance(d) for d in (blobs.forget(), blobs.retain()))
    with pytest.raises(SearchError, match="give PERCENTILE"):
        adaptive.modify_weight(original, forget)
    for p in (-1, 100.1, float("nan"), "99", torch.ones(2)):
        with pytest.raises(SearchError, match="PERCENTILE must be"):
            adaptive.modify_weight(original, forget, p)
    assert_same_weights(model, weights(blobs.model))
    with pytest.warns(pf.PotionWarning, match="finite ratio") as caught:
        adaptive.modify_weight({name: 0 * o for name, o in original.items()}, forget, torch.tensor(90.0))
    assert caught[0].filename == __file__
    assert_same_weights(model, weights(blobs.model))
    plain = potion.ParameterPerturber(model, None, "cpu", PARAMETERS)
    with pytest.warns(pf.PotionWarning, match="no effect without adaptive") as caught:
        plain.modify_weight(original, forget, 90.0)
    assert caught[0].filename == __file__
    assert_same_weights(model, edited(blobs.model, original, forget, 2))
