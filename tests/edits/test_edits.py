from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import potion_fast as pf
from helpers.backends import bits
from helpers.products import threads
from helpers.toys import assert_same_weights, net, weights
from potion_fast import ops
from potion_fast.errors import ImportanceError, ModelError, SearchError
from potion_fast.importances import Importance
from potion_fast.ops import reference
from potion_fast.utils.model import fingerprint, trainable

ALPHAS = [3.0, 30.0, 1.2, float("nan"), 1.2, 0.4, 1e30, 0.0]


def importances(model: nn.Module, seed: int = 0) -> tuple[Importance, Importance]:
    """Importances over many orders of magnitude with zeros, ties and subnormals among them."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: tuple(p.shape) for name, p in trainable(model).items()}
    n = sum(p.numel() for p in trainable(model).values())
    special = torch.tensor([0.0, 1.0, 2.0, 1e-45, 1e-40, 3e38])

    def values() -> Tensor:
        smooth = 10 ** (torch.rand(n, generator=generator) * 6 - 3)
        pick = special[torch.randint(0, len(special), (n,), generator=generator)]
        return torch.where(torch.rand(n, generator=generator) < 0.4, pick, smooth)

    return tuple(Importance(values(), shapes, 1, 1, "xlf", 1, fingerprint(model)) for _ in range(2))


def dense(
    model: nn.Module, forget: Importance, retain: Importance, alpha: float, dampening: float = 1.0
) -> dict[str, Tensor]:
    """The edit by the reference operation over the whole flat buffer."""
    flat = torch.cat([p.detach().reshape(-1) for p in trainable(model).values()])
    reference.dampen(flat, forget.mean, retain.mean, alpha, dampening)
    return {name: flat[part].view(forget.shapes[name]) for name, part in forget.parts()}


def assert_holds(model: nn.Module, expected: dict[str, Tensor]) -> None:
    for name, parameter in trainable(model).items():
        assert torch.equal(bits(parameter.detach()), bits(expected[name])), name


@pytest.mark.parametrize("dampening", [1.0, 0.3, 40.0])
def test_every_candidate_is_the_dense_edit_to_the_bit_in_any_order(dampening):
    model = net()
    forget, retain = importances(model)
    original = weights(model)
    expected = [dense(model, forget, retain, alpha, dampening) for alpha in ALPHAS]
    plan = pf.EditPlan(model, forget, retain, ALPHAS, dampening)
    assert len(plan) == len(ALPHAS)
    for k in [0, 1, 2, 5, 3, 7, 7, 4, 6, 0]:
        plan.apply(k)
        assert_holds(model, expected[k])
    plan.reset()
    assert_same_weights(model, original)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    alphas=st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=8),
    walk=st.lists(st.integers(0, 7), max_size=8),
)
def test_any_walk_over_any_thresholds_is_exact_and_can_be_undone(seed, alphas, walk):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3, bias=False))
    forget, retain = importances(model, seed)
    original = weights(model)
    expected = [dense(model, forget, retain, alpha) for alpha in alphas]
    plan = pf.EditPlan(model, forget, retain, alphas)
    for k in walk:
        plan.apply(k % len(alphas))
        assert_holds(model, expected[k % len(alphas)])
    plan.reset()
    assert_same_weights(model, original)


def test_the_count_is_of_weights_selected_by_a_factor_below_one():
    model = net()
    forget, retain = importances(model)
    plan = pf.EditPlan(model, forget, retain, ALPHAS)
    f, o = forget.mean, retain.mean
    for k, alpha in enumerate(ALPHAS):
        assert plan.dampened(k) == int(((f > torch.tensor(alpha) * o) & (o / f < 1)).sum())
    assert plan.dampened(3) == 0  # NaN selects nothing
    assert plan.dampened(5) == plan.dampened(7)  # below α = 1 nothing more changes


def test_x_over_zero_is_always_dampened_to_zero_and_zero_over_zero_never():
    model = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0, 3.0]]))
    shapes, mark = {"weight": (1, 3)}, fingerprint(model)
    forget = Importance(torch.tensor([1e-45, 0.0, 5.0]), shapes, 1, 1, "xlf", 1, mark)
    retain = Importance(torch.tensor([0.0, 0.0, 1.0]), shapes, 1, 1, "xlf", 1, mark)
    pf.EditPlan(model, forget, retain, [1e38]).apply(0)
    assert model.weight.tolist() == [[0.0, -2.0, 3.0]]


def test_weights_in_any_memory_format_and_tied_ones_are_edited():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.b.weight = self.a.weight
            self.scale = nn.Parameter(torch.tensor(0.5))

    torch.manual_seed(0)
    model = Tied().to(memory_format=torch.channels_last)
    assert not model.conv.weight.is_contiguous()
    forget, retain = importances(model)
    expected = dense(model, forget, retain, 2.0)
    original = weights(model)
    plan = pf.EditPlan(model, forget, retain, [2.0])
    plan.apply(0)
    assert_holds(model, expected)
    assert model.b.weight is model.a.weight
    plan.reset()
    assert_same_weights(model, original)


@pytest.mark.parametrize("start", [2, 5])  # forward and back
@pytest.mark.parametrize("writes", [0, 1, 2])
@pytest.mark.parametrize("written", [False, True])
def test_a_move_that_is_interrupted_can_be_reset(start, writes, written, monkeypatch):
    model = net()
    forget, retain = importances(model)
    original = weights(model)
    plan = pf.EditPlan(model, forget, retain, [30.0, 10.0, 5.0, 3.0, 2.0, 1.2])
    plan.apply(start)
    done = []

    def interrupted(*arguments):
        if len(done) < writes or written:
            put(*arguments)
        if len(done) == writes:
            raise KeyboardInterrupt
        done.append(True)

    put = ops.put
    monkeypatch.setattr(ops, "put", interrupted)
    with pytest.raises(KeyboardInterrupt):
        plan.apply(5 if start == 2 else 0)
    monkeypatch.setattr(ops, "put", put)
    plan.reset()
    assert_same_weights(model, original)


def test_edits_run_under_deterministic_algorithms():
    model = net().to(memory_format=torch.channels_last)
    forget, retain = importances(model)
    expected = dense(model, forget, retain, 1.2)
    torch.use_deterministic_algorithms(True)
    try:
        pf.EditPlan(model, forget, retain, [3.0, 1.2]).apply(1)
    finally:
        torch.use_deterministic_algorithms(False)
    assert_holds(model, expected)


def test_every_backend_gives_the_same_weights_to_the_bit(backend):
    model = net().to(backend.device)
    forget, retain = (i.to(backend.device) for i in importances(model))
    expected = dense(model.cpu(), forget.to("cpu"), retain.to("cpu"), 1.2)
    model.to(backend.device)
    with backend.use():
        pf.EditPlan(model, forget, retain, [3.0, 1.2]).apply(1)
    assert_holds(model, expected)


def test_no_threshold_and_no_selected_weight_are_fine():
    model = net()
    forget, retain = importances(model)
    original = weights(model)
    assert len(pf.EditPlan(model, forget, retain, [])) == 0
    plan = pf.EditPlan(model, forget, retain, torch.tensor([torch.nan, torch.nan]))
    plan.apply(1)
    assert plan.dampened(1) == 0
    assert_same_weights(model, original)


@pytest.mark.parametrize("percentiles", [[99.9, 60, 95, 0, 95], []])
def test_a_plan_at_percentiles_is_the_plan_at_their_thresholds(backend, percentiles):
    model = net().to(backend.device)
    forget, retain = (i.to(backend.device) for i in importances(model))
    original = weights(model)
    with backend.use():
        alphas = pf.thresholds(forget, retain, percentiles)
        plans = [pf.EditPlan.at_percentiles(model, forget, retain, percentiles, 0.7, 2.0)]
        plans.append(pf.EditPlan(model, forget, retain, alphas, 0.7, 2.0))
        assert torch.equal(plans[0].alphas, alphas) and len(plans[0]) == len(percentiles)
        for k in range(len(percentiles)):
            after = []
            for plan in plans:
                plan.apply(k)
                after.append(weights(model))
                plan.reset()
            assert_same_weights(model, original)
            assert all(torch.equal(after[0][name], after[1][name]) for name in original)
            assert plans[0].dampened(k) == plans[1].dampened(k)


@pytest.mark.parametrize("exponent", [1.0, 0.5, 2.0])
def test_the_values_are_those_of_the_formula_for_any_exponent(exponent):
    model = net()
    forget, retain = importances(model)
    theta = torch.cat([p.detach().reshape(-1) for p in trainable(model).values()])
    f, o = forget.mean, retain.mean
    pf.EditPlan(model, forget, retain, [1.5], 0.8, exponent).apply(0)
    factor = ((torch.tensor(0.8) * o) / f).pow(exponent).clamp(max=1)
    want = torch.where(f > torch.tensor(1.5) * o, theta * factor, theta)
    assert_holds(model, {name: want[part].view(forget.shapes[name]) for name, part in forget.parts()})


def test_one_plan_serves_every_dampening_constant_of_a_grid():
    model = net()
    forget, retain = importances(model)
    original = weights(model)
    dampenings = [3.0, 0.1, 40.0]
    expected = {(k, d): dense(model, forget, retain, a, d) for d in dampenings for k, a in enumerate(ALPHAS)}
    plan = pf.EditPlan(model, forget, retain, ALPHAS, dampening=None)
    f, o = forget.mean, retain.mean
    for call in (lambda: plan.apply(0), lambda: plan.dampened(0)):
        with pytest.raises(SearchError, match="revalue"):
            call()
    for dampening in dampenings:
        plan.revalue(dampening)  # brings the model back first
        assert_same_weights(model, original)
        for k in (0, 5, 2):
            plan.apply(k)
            assert_holds(model, expected[k, dampening])
            scale = torch.tensor(dampening) * o
            assert plan.dampened(k) == int(((f > torch.tensor(ALPHAS[k]) * o) & (scale / f < 1)).sum())
    plan.reset()
    assert_same_weights(model, original)


def test_a_smaller_dampening_constant_than_the_plans_is_refused():
    model = net()
    forget, retain = importances(model)
    plan = pf.EditPlan(model, forget, retain, [0.3], dampening=2.0)
    plan.apply(0)
    expected = weights(model)
    with pytest.raises(SearchError, match="below the plan's 2"):
        plan.revalue(1.9)
    assert_same_weights(model, expected)
    plan.reset()
    want = dense(model, forget, retain, 0.3, 5.0)
    plan.revalue(5.0)
    plan.apply(0)
    assert_holds(model, want)


def test_a_parameter_with_gaps_in_its_memory_is_edited():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3))
    model[0].weight = nn.Parameter(torch.randn(5, 12)[:, ::2])
    forget, retain = importances(model)
    original, expected = weights(model), dense(model, forget, retain, 1.2)
    plan = pf.EditPlan(model, forget, retain, [3.0, 1.2])
    plan.apply(1)
    assert_holds(model, expected)
    plan.apply(0)
    plan.reset()
    assert_same_weights(model, original)


def test_a_plan_of_many_blocks_of_weights_on_any_number_of_threads():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(500, 400), nn.Conv2d(64, 64, 3).to(memory_format=torch.channels_last))
    forget, retain = importances(model)
    percentiles = [99.9, 97.0, 99.0]
    for number in (1, 3):
        with threads(number):
            plan = pf.EditPlan.at_percentiles(model, forget, retain, percentiles)
            expected = [dense(model, forget, retain, alpha) for alpha in plan.alphas.tolist()]
            for k in (1, 0, 2):
                plan.apply(k)
                assert_holds(model, expected[k])
            plan.reset()


def test_what_does_not_fit_is_refused():
    model = net()
    forget, retain = importances(model)
    for dampening in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(SearchError, match="λ"):
            pf.EditPlan(model, forget, retain, [1.0], dampening)
        with pytest.raises(SearchError, match="exponent"):
            pf.EditPlan(model, forget, retain, [1.0], 1.0, dampening)
    with pytest.raises(SearchError, match="percentiles lie in"):
        pf.EditPlan.at_percentiles(model, forget, retain, [101])
    plan = pf.EditPlan(model, forget, retain, [1.0])
    for k in (-1, 1):
        with pytest.raises(SearchError, match="out of range"):
            plan.apply(k)
    plan.apply(0)
    with pytest.raises(ImportanceError, match="compute them again"):
        pf.EditPlan(model, forget, retain, [1.0])
    plan.reset()
    with pytest.raises(ImportanceError, match="another model"):
        pf.EditPlan(nn.Linear(2, 2), forget, retain, [1.0])
    double = net(dtype=torch.float64)
    with pytest.raises(ModelError, match="float64"):
        pf.EditPlan(double, *importances(double), [1.0])
    with torch.no_grad():
        model.head.bias[0] = torch.inf
    with pytest.raises(ModelError, match=r"head\.bias"):
        pf.EditPlan(model, *importances(model), [1.0])
