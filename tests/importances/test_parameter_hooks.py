"""Gradient hooks of parameters and of modules: each group's gradient is what one backward pass for it would leave."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import potion_fast as pf
from helpers.loops import LABELS
from helpers.toys import batches
from potion_fast.errors import ImportanceError
from potion_fast.importances.objectives import OBJECTIVES, norm_power


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 3)).double()


def half(gradient: Tensor) -> Tensor:
    """A mask: the second half of the rows is kept as it is."""
    mask = torch.ones_like(gradient)
    mask[len(mask) // 2 :] = 0
    return gradient * mask


def doubled(gradient: Tensor) -> Tensor:
    return 2 * gradient


def clamped(gradient: Tensor) -> Tensor:
    return gradient.clamp(-0.02, 0.02)


def normalised(gradient: Tensor) -> Tensor:
    return gradient / (gradient.norm() + 1e-3)


def seen(gradient: Tensor) -> None:
    """Changes nothing."""


HOOKS: dict[str, dict[str, list[Callable[[Tensor], Tensor | None]]]] = {
    "mask": {"0.weight": [half]},
    "clamp": {"0.weight": [clamped], "3.bias": [clamped]},
    "norm": {"3.weight": [normalised], "2.weight": [normalised]},
    "several": {"0.weight": [doubled, clamped, seen, half], "0.bias": [half, doubled]},
    "all": {name: [clamped, doubled] for name, _ in network().named_parameters()},
}


def hooked(kind: str) -> nn.Module:
    model = network()
    for name, hooks in HOOKS[kind].items():
        for hook in hooks:
            model.get_parameter(name).register_hook(hook)
    return model


def by_backward(model: nn.Module, inputs: Tensor, objective: str | pf.Objective, m: int) -> dict[str, Tensor]:
    """Mean |.grad| or .grad² over groups, of `Tensor.backward` for each."""
    chosen = OBJECTIVES[objective] if isinstance(objective, str) else objective
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    parts = list(zip(inputs.split(m), LABELS[: len(inputs)].split(m), strict=True))
    for x, y in parts:
        model.zero_grad()
        chosen.losses(model(x), y).mean().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            total[name] += parameter.grad.square() if chosen.square else parameter.grad.abs()
    model.zero_grad()
    return {name: sums / len(parts) for name, sums in total.items()}


@pytest.mark.parametrize("objective", ["xlf", "ssd"])
@pytest.mark.parametrize("group_size", [1, 4, 12, 24])
@pytest.mark.parametrize("kind", HOOKS)
def test_hooks_change_the_gradient_of_each_group(kind: str, group_size: int, objective: str) -> None:
    model, inputs = hooked(kind), torch.randn(24, 6, dtype=torch.float64)
    want = by_backward(model, inputs, objective, group_size)
    for size in (1, 5, 8, 24):  # groups within a batch, a batch each, in parts
        data = batches(inputs, LABELS[:24], size)
        got = pf.importance(model, data, objective, group_size=group_size, dtype=torch.float64)
        for name, right in want.items():
            torch.testing.assert_close(got[name], right, rtol=1e-11, atol=1e-14)
    for name, right in by_backward(model, inputs, objective, group_size).items():  # the hooks are on again
        assert torch.equal(right, want[name])


@pytest.mark.parametrize("group_size", [1, 4, "batch"])
def test_hooks_see_one_objective_at_a_time(group_size) -> None:
    model, inputs = hooked("clamp"), torch.randn(24, 6, dtype=torch.float64)
    objectives = ["xlf", "lf", "ssd", 0.5]
    data = batches(inputs, LABELS[:24], 8)
    results = pf.importance(model, data, objectives, group_size=group_size, dtype=torch.float64)
    for got, objective in zip(results, ["xlf", "lf", "ssd", norm_power(0.5)], strict=True):
        want = by_backward(model, inputs, objective, 8 if group_size == "batch" else group_size)
        for name, right in want.items():
            torch.testing.assert_close(got[name], right, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("group_size", [1, 4, 24])
def test_hooks_get_gradients_without_the_scale_of_float16(group_size: int) -> None:
    model, inputs = network().float(), torch.randn(24, 6)
    largest: list[float] = []
    model[0].weight.register_hook(lambda gradient: largest.append(float(gradient.abs().max())))
    pf.importance(model, batches(inputs, LABELS[:24], 8), group_size=group_size, amp=torch.float16)
    assert len(largest) == 24 // group_size and max(largest) < 10


def test_hooks_are_called_once_for_each_group_in_order() -> None:
    model, inputs = network(), torch.arange(1.0, 13.0, dtype=torch.float64)[:, None].expand(12, 6) / 6
    for size in (1, 4, 12):
        scales: list[float] = []
        handle = model[3].bias.register_hook(lambda gradient, scales=scales: scales.append(float(gradient.sum())))
        pf.importance(model, batches(inputs, LABELS[:12], size), lambda y, labels: y.square().sum(1), group_size=2)
        handle.remove()
        want = []
        for x in inputs.split(2):
            (gradient,) = torch.autograd.grad(model(x).square().sum(1).mean(), model[3].bias)
            want.append(float(gradient.sum()))
        assert scales == pytest.approx(want)
        assert not model[3].bias._backward_hooks


class Seldom(nn.Module):
    """A layer that some samples alone go through."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.some, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x).tanh()
        chosen = x[:, 0] > 0
        if chosen.any():
            hidden = hidden.index_put((chosen.nonzero()[:, 0],), self.some(hidden[chosen]).tanh())
        return self.head(hidden)


@pytest.mark.parametrize("size", [1, 8])
def test_a_group_without_a_gradient_calls_no_hook(size: int) -> None:
    torch.manual_seed(0)
    model, inputs = Seldom().double(), torch.randn(16, 6, dtype=torch.float64)
    model.some.weight.register_hook(lambda gradient: gradient + 1)
    got = pf.importance(model, batches(inputs, LABELS[:16], size), group_size=1, dtype=torch.float64)
    want = torch.zeros_like(model.some.weight)
    for x in inputs.split(1):
        (gradient,) = torch.autograd.grad(model(x).norm(), model.some.weight, allow_unused=True)
        want += 0 if gradient is None else gradient.abs()
    torch.testing.assert_close(got["some.weight"], want / 16, rtol=1e-12, atol=1e-15)


def test_handles_stay_valid_and_hooks_come_back_after_an_error() -> None:
    model = network()
    handle = model[0].weight.register_hook(half)
    with pytest.raises(ImportanceError):
        pf.importance(model, [(torch.full((4, 6), torch.nan, dtype=torch.float64),)], group_size=1)
    assert list(model[0].weight._backward_hooks.values()) == [half]
    handle.remove()
    assert not model[0].weight._backward_hooks


@pytest.mark.parametrize("group_size", [1, 8, "batch"])
def test_hooks_of_accumulated_gradients_are_refused_before_any_work(group_size) -> None:
    model = network()
    model[3].bias.register_post_accumulate_grad_hook(lambda parameter: None)

    class Unread:
        def __iter__(self):
            raise AssertionError

    with pytest.raises(ImportanceError, match=r"'3\.bias'.*register_post_accumulate_grad_hook.*remove"):
        pf.importance(model, Unread(), group_size=group_size)


@pytest.mark.parametrize("objective", ["xlf", "ssd"])
@pytest.mark.parametrize("group_size", [1, 4, 12])
def test_backward_hooks_of_modules_are_as_autograd_has_them(group_size: int, objective: str) -> None:
    def turned(module: nn.Module, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(3 * gradient for gradient in inputs)

    def before(module: nn.Module, outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(gradient * torch.arange(1, gradient.shape[-1] + 1) for gradient in outputs)

    model, inputs = network(), torch.randn(24, 6, dtype=torch.float64)
    model[2].register_full_backward_hook(turned)
    model[3].register_full_backward_pre_hook(before)
    want = by_backward(model, inputs, objective, group_size)
    for size in (8, 24):
        data = batches(inputs, LABELS[:24], size)
        got = pf.importance(model, data, objective, group_size=group_size, dtype=torch.float64)
        for name, right in want.items():
            torch.testing.assert_close(got[name], right, rtol=1e-11, atol=1e-14)
