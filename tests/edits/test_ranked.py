from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import potion_fast as pf
from helpers.backends import bits
from helpers.toys import assert_same_weights, net, weights
from potion_fast.edits import ranked
from potion_fast.edits.ranked import RankedPlan
from potion_fast.errors import ImportanceError, ModelError
from potion_fast.importances import Importance
from potion_fast.utils.model import fingerprint, trainable


def importances(model: nn.Module, seed: int = 0, special: tuple[float, ...] = (0.0, 1.0, 2.0, 3e38)):
    """Importances over six orders of magnitude, with x/0, 0/0, overflowing ratios and ties among them."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: tuple(p.shape) for name, p in trainable(model).items()}
    n = sum(p.numel() for p in trainable(model).values())

    def values() -> Tensor:
        smooth = 10 ** (torch.rand(n, generator=generator) * 6 - 3)
        pick = torch.tensor(special)[torch.randint(0, len(special), (n,), generator=generator)]
        return torch.where(torch.rand(n, generator=generator) < 0.4, pick, smooth)

    return tuple(Importance(values(), shapes, 1, 1, "xlf", 1, fingerprint(model)) for _ in range(2))


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in trainable(model).values()])


def in_order(forget: Importance, retain: Importance) -> Tensor:
    """Every weight that may be dampened, by falling ratio, then by falling Ω_f, then by index."""
    f, o = forget.mean, retain.mean
    chosen = ((f > o) & (o / f < 1)).nonzero().squeeze(1).tolist()
    return torch.tensor(sorted(chosen, key=lambda i: (-float(f[i] / o[i]), -float(f[i]), i)))


def dense(original: Tensor, forget: Importance, retain: Importance, chosen: Tensor) -> Tensor:
    edited = original.clone()
    edited[chosen] *= retain.mean[chosen] / forget.mean[chosen]
    return edited


def complete(plan: RankedPlan) -> RankedPlan:
    while plan.more():
        pass
    return plan


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_each_candidate_is_the_dense_edit_of_the_first_weights_in_order(memory_format):
    model = net().to(memory_format=memory_format)
    forget, retain = importances(model, special=(0.0, 1.0, 2.0, 1e-45, 1e-40, 3e38))
    original, start, order = weights(model), flat(model), in_order(forget, retain)
    plan = complete(RankedPlan(model, forget, retain))
    assert torch.equal(plan.alphas, (forget.mean / retain.mean)[order])
    assert plan.alphas[0] == torch.inf  # x/0 comes first
    for count in (1, 2, 3, 100, 7, 1, len(order), 64, 65):
        plan.apply(count - 1)
        assert plan.dampened(count - 1) == count
        assert torch.equal(bits(flat(model)), bits(dense(start, forget, retain, order[:count])))
    plan.reset()
    assert_same_weights(model, original)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    first=st.integers(1, 80),
    growth=st.integers(2, 20),
    walk=st.lists(st.integers(1, 60), min_size=1, max_size=8),
)
def test_however_few_are_put_in_order_at_a_time_each_candidate_adds_a_weight(seed, first, growth, walk):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3, bias=False))
    forget, retain = importances(model, seed)
    original, start, order = weights(model), flat(model), in_order(forget, retain)
    whole = dense(start, forget, retain, order)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranked, "FIRST", first)
        patch.setattr(ranked, "GROWTH", growth)
        plan = RankedPlan(model, forget, retain)
        for count in walk:
            while len(plan.alphas) < count and plan.more():
                pass
            count = min(count, len(plan.alphas))
            plan.apply(count - 1) if count else plan.reset()
            dampened = bits(flat(model)) != bits(start)
            assert torch.equal(bits(flat(model))[dampened], bits(whole)[dampened])
            assert dampened.sum() == (bits(start) != bits(whole))[plan._index[:count]].sum()  # 0 · 0 is no change
        complete(plan)
    alphas = plan.alphas
    assert sorted(plan._index.tolist()) == sorted(order.tolist())
    assert (alphas[1:] <= alphas[:-1] * (1 + 2**-22)).all()  # by the product test and by the ratio: the same to an ulp
    plan.reset()
    assert_same_weights(model, original)


def test_only_the_top_is_put_in_order_as_long_as_it_suffices():
    model = nn.Linear(300, 300)
    forget, retain = importances(model, special=(1.0, 2.0))
    plan = RankedPlan(model, forget, retain)
    assert len(plan.alphas) == 0
    assert plan.more()
    assert 4000 < len(plan.alphas) <= ranked.FIRST
    top = plan.alphas
    assert plan.more() and not plan.more()  # 16 times as many are more than there are above 1
    assert torch.equal(plan.alphas[: len(top)], top)


def test_equal_ratios_come_one_by_one_in_the_order_of_the_model():
    model = nn.Linear(100, 100, bias=False)
    shapes, mark = {"weight": (100, 100)}, fingerprint(model)
    forget, retain = (Importance(torch.full((10_000,), x), shapes, 1, 1, "xlf", 1, mark) for x in (2.0, 1.0))
    start = flat(model)
    plan = RankedPlan(model, forget, retain)
    assert plan.more() and len(plan.alphas) == 0  # all or none: the first threshold selects none
    complete(plan).apply(41)
    assert torch.equal(flat(model), torch.cat([start[:42] / 2, start[42:]]))


def test_of_weights_without_a_retain_importance_the_largest_forget_importance_comes_first():
    model = nn.Linear(4, 1, bias=False)
    shapes, mark = {"weight": (1, 4)}, fingerprint(model)
    forget = Importance(torch.tensor([1e-45, 3.0, 0.0, 5.0]), shapes, 1, 1, "xlf", 1, mark)
    retain = Importance(torch.tensor([0.0, 0.0, 0.0, 1.0]), shapes, 1, 1, "xlf", 1, mark)
    kept = flat(model)
    plan = complete(RankedPlan(model, forget, retain))
    assert plan.alphas.tolist() == [torch.inf, torch.inf, 5.0]
    plan.apply(0)
    assert (flat(model) == torch.tensor([kept[0], 0.0, kept[2], kept[3]])).all()
    plan.apply(1)
    assert (flat(model) == torch.tensor([0.0, 0.0, kept[2], kept[3]])).all()  # 0/0 is no candidate


@pytest.mark.parametrize("start", [30, 200])  # forward and back
@pytest.mark.parametrize("interrupted", ["before", "after"])
def test_a_move_that_is_interrupted_can_be_reset(start, interrupted, monkeypatch):
    model = net()
    original = weights(model)
    plan = complete(RankedPlan(model, *importances(model)))
    plan.apply(start)
    put = ranked.WeightIndex.put

    def broken(self, group, values):
        if interrupted == "after":
            put(self, group, values)
        raise KeyboardInterrupt

    monkeypatch.setattr(ranked.WeightIndex, "put", broken)
    with pytest.raises(KeyboardInterrupt):
        plan.apply(100)
    monkeypatch.setattr(ranked.WeightIndex, "put", put)
    plan.reset()
    assert_same_weights(model, original)


def test_every_backend_gives_the_same_order_and_weights(backend):
    model = net()
    forget, retain = importances(model)
    want, other = copy.deepcopy(model), copy.deepcopy(model).to(backend.device)
    plan = complete(RankedPlan(want, forget, retain))
    with backend.use():
        got = complete(RankedPlan(other, forget.to(backend.device), retain.to(backend.device)))
        got.apply(50)
    plan.apply(50)
    assert torch.equal(got.alphas.cpu(), plan.alphas)
    assert torch.equal(bits(flat(other).cpu()), bits(flat(want)))


def test_what_does_not_fit_is_refused():
    model = net()
    forget, retain = importances(model)
    with pytest.raises(ImportanceError, match="another model"):
        RankedPlan(nn.Linear(2, 2), forget, retain)
    plan = complete(RankedPlan(model, forget, retain))
    plan.apply(9)
    with pytest.raises(ImportanceError, match="compute them again"):
        RankedPlan(model, forget, retain)
    double = net(dtype=torch.float64)
    with pytest.raises(ModelError, match="float64"):
        RankedPlan(double, *importances(double))
    assert pf.search.RankedPlan is RankedPlan
