"""A program whose default dtype is another one gets the same bits for its float32 models."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

import potion_fast as pf
from helpers.backends import Backend
from helpers.toys import Blobs
from potion_fast.bench.metrics.gaussian import fresh_dependence
from potion_fast.search import STRATEGIES, ssd_grid
from potion_fast.search.ptn import RankedPlan
from potion_fast.utils.predict import predict

pytestmark = pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])


@contextmanager
def default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def assert_same_bits(compute: Callable[[], list[Tensor]], dtype: torch.dtype) -> None:
    want = compute()
    with default(dtype):
        got = compute()
    assert len(want) == len(got) > 0
    for ours, theirs in zip(got, want, strict=True):
        assert ours.dtype == theirs.dtype and torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8))


def images() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)
    )


@pytest.mark.parametrize("objective", ["xlf", "lf", "ssd", ["xlf", 0.5]])
@pytest.mark.parametrize("group_size", [1, 3, "batch"])
def test_importances_have_the_same_bits(objective, group_size, dtype):
    model = images()
    inputs, labels = torch.randn(10, 3, 6, 6), torch.arange(10) % 3
    model(inputs)

    def compute():
        found = pf.importance(model, [(inputs, labels)], objective, group_size=group_size)
        return [importance.sums for importance in (found if isinstance(found, list) else [found])]

    assert_same_bits(compute, dtype)


@pytest.mark.parametrize("ops_backend", ["reference", "cpu"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_healed_model_has_the_same_bits(blobs, strategy, ops_backend, dtype):
    def compute():
        with Backend(ops_backend, "cpu").use():
            result = pf.unlearn(blobs.model, blobs.retain(), blobs.forget(), strategy=strategy)
        assert result.kept is not None
        return [result.retain.sums, *result.model.state_dict().values()]

    assert_same_bits(compute, dtype)


@pytest.mark.parametrize("ops_backend", ["reference", "cpu"])
def test_thresholds_plans_grids_and_predictions_have_the_same_bits(blobs, ops_backend, dtype):
    def compute():
        with Backend(ops_backend, "cpu").use():
            forget, retain = (pf.importance(blobs.model, b, group_size=10) for b in (blobs.forget(), blobs.retain()))
            alphas = pf.thresholds(forget, retain, [99.9, 99, 90])
            tensors = [alphas]
            for alpha in (alphas, [float(alpha) for alpha in alphas]):
                model = copy.deepcopy(blobs.model)
                plan = pf.EditPlan(model, forget, retain, alpha)
                plan.apply(1)
                tensors += [weight.clone() for weight in model.state_dict().values()]
                plan.revalue(3.0, 0.5)
                plan.apply(0)
                tensors += model.state_dict().values()
            ranked = RankedPlan(copy.deepcopy(blobs.model), forget, retain)
            while ranked.more():
                pass
            grid = ssd_grid(blobs.model, forget, retain, blobs.forget(), blobs.retain(), alphas=[1, 10])
        return [*tensors, ranked.alphas, *grid.model.state_dict().values(), *predict(grid.model, blobs.forget())]

    assert_same_bits(compute, dtype)


def test_a_pass_that_is_interrupted_resumes_with_the_same_bits(blobs: Blobs, tmp_path, dtype):
    def broken():
        yield from blobs.retain()[:2]
        raise OSError("disk")

    def compute():
        path = tmp_path / "pass"
        with pytest.raises(OSError, match="disk"):
            pf.importance(blobs.model, broken(), group_size=7, checkpoint=path)
        return [pf.importance(blobs.model, blobs.retain(), group_size=7, checkpoint=path, resume=True).sums]

    assert_same_bits(compute, dtype)


def test_the_noise_of_the_gaussian_score_is_drawn_alike(dtype):
    gradients = torch.randn(3, 20)
    assert_same_bits(lambda: [fresh_dependence(gradients, 5, torch.Generator().manual_seed(0))], dtype)
