"""What people do with parameters and between layers, as functions of [B, 4, 4] to [B, 4, 4]."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

WIDTH, STEPS = 4, 4
Function = Callable[..., Tensor]  # (x, *inner modules) -> y


class Part(nn.Module):
    """A function of the samples and of some modules or parameters."""

    def __init__(self, function: Function, *inner: nn.Module) -> None:
        super().__init__()
        self.function, self.inner = function, nn.ModuleList(inner)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.inner)


class Values(nn.Module):
    """A parameter that no layer owns."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.values = nn.Parameter(0.3 * torch.randn(shape) + 1)


def fitted(x: Tensor, *shape: int) -> Tensor:
    """[B, ...] -> [B, *shape]: each sample repeated or cut off."""
    flat, size = x.flatten(1), prod(shape)
    return flat.repeat(1, -(-size // flat.shape[1]))[:, :size].reshape(len(x), *shape)


def standard(x: Tensor) -> Tensor:
    return fitted(x, STEPS, WIDTH)


def _linear() -> tuple[nn.Module, ...]:
    return (nn.Linear(WIDTH, WIDTH),)


def _rows_of_long_tokens(x: Tensor, layer: nn.Module) -> Tensor:
    kept = x[..., 0] > 0  # [B, 4]: some tokens of a sample, or none
    y = torch.zeros_like(x)
    y[kept] = layer(x[kept])
    return y + x


def _token_in_front(x: Tensor, token: Values) -> Tensor:
    return standard(torch.cat([token.values.expand(len(x), -1, -1), x], 1))


def _attend(x: Tensor, query: Values, attention: nn.Module) -> Tensor:
    return x + attention(query.values.expand(len(x), -1, -1), x, x)[0]


def _normalised_weight(x: Tensor, layer: nn.Module) -> Tensor:
    weight: Tensor = layer.weight  # type: ignore[assignment]
    return F.linear(x, (weight - weight.mean(1, keepdim=True)) / weight.std(1, keepdim=True), layer.bias)  # type: ignore[arg-type]


def _by_data(x: Tensor, table: Values) -> Tensor:
    return x + table.values[x.mean(2).argmax(1)][:, None]  # a row for each sample


def _written(x: Tensor, p: Values) -> Tensor:
    y = x.clone()
    y[:, 1] = p.values
    y[:, 2] += p.values
    return y


def _spectrum(x: Tensor, p: Values) -> Tensor:
    return torch.fft.irfft(torch.fft.rfft(x, dim=1) * p.values, n=STEPS, dim=1)


class Doubled(torch.autograd.Function):
    """x · 2p, with a backward pass of its own."""

    @staticmethod
    def forward(context: Any, x: Tensor, p: Tensor) -> Tensor:
        context.save_for_backward(x, p)
        return x * (2 * p)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, p = context.saved_tensors
        return gradient * 2 * p, (gradient * 2 * x).sum_to_size(p.shape)


# Uses of parameters that hooks on layers do not see, or see with another order of the samples.
PARAMETERS: dict[str, tuple[Function, Callable[[], tuple[nn.Module, ...]]]] = {
    "linear": (lambda x, layer: layer(x), _linear),
    "linear, time first": (lambda x, layer: layer(x.transpose(0, 1)).transpose(0, 1), _linear),
    "linear, samples folded": (lambda x, layer: layer(x.reshape(-1, WIDTH)).view(x.shape), _linear),
    "linear, time folded": (
        lambda x, layer: layer(x.transpose(0, 1).reshape(-1, WIDTH)).view(STEPS, -1, WIDTH).transpose(0, 1),
        _linear,
    ),
    "linear over steps": (lambda x, layer: layer(x.transpose(1, 2)).transpose(1, 2), _linear),
    "linear over some tokens": (_rows_of_long_tokens, _linear),
    "linear by name": (lambda x, layer: F.linear(x, layer.weight), _linear),
    "linear, call and name": (lambda x, layer: layer(x) + x @ layer.weight, _linear),
    "weight standardised": (_normalised_weight, _linear),
    "bias in place": (lambda x, layer: (x @ layer.weight.t()).add_(layer.bias), _linear),
    "for each step": (lambda x, layer: torch.stack([layer(step) for step in x.unbind(1)], 1), _linear),
    "position [1, 4, 4]": (lambda x, p: x + p.values, lambda: (Values(1, STEPS, WIDTH),)),
    "position [4, 4]": (lambda x, p: x * p.values, lambda: (Values(STEPS, WIDTH),)),
    "position, looked up": (
        lambda x, table: x + table(torch.arange(STEPS)),
        lambda: (nn.Embedding(STEPS, WIDTH),),
    ),
    "scale [4]": (lambda x, p: x * p.values, lambda: (Values(WIDTH),)),
    "scalar": (lambda x, p: x * p.values, lambda: (Values(),)),
    "matrices [4, 4, 4]": (lambda x, p: torch.einsum("btc,tcd->btd", x, p.values), lambda: (Values(4, 4, 4),)),
    "token in front": (_token_in_front, lambda: (Values(1, 1, WIDTH),)),
    "learned query": (
        _attend,
        lambda: (Values(1, STEPS, WIDTH), nn.MultiheadAttention(WIDTH, 2, batch_first=True)),
    ),
    "row by data": (_by_data, lambda: (Values(STEPS, WIDTH),)),
    "weights by data": (
        lambda x, layer: torch.einsum("btc,bcd->btd", x, layer(x).tanh()),
        _linear,
    ),
    "norm by name": (lambda x, p: F.layer_norm(x, (WIDTH,), p.values, p.values.sin()), lambda: (Values(WIDTH),)),
    "table by constants": (
        lambda x, table: x + F.embedding(torch.tensor([2, 0, 0, 1]), table.values),
        lambda: (Values(STEPS, WIDTH),),
    ),
    "slope by name": (lambda x, p: F.prelu(x, p.values), lambda: (Values(STEPS),)),
    "convolution by name": (
        lambda x, p: F.conv1d(x, p.values.flip(-1), p.values[0, 0].repeat(2)[:4], padding=1),
        lambda: (Values(STEPS, STEPS, 3),),
    ),
    "product of two": (lambda x, a, b: x @ (a.values @ b.values), lambda: (Values(WIDTH, 2), Values(2, WIDTH))),
    "low rank beside": (
        lambda x, layer, a, b: layer(x) + (x @ a.values) @ b.values,
        lambda: (*_linear(), Values(WIDTH, 1), Values(1, WIDTH)),
    ),
    "weight of two": (
        lambda x, a, b: F.linear(x, torch.cat([a.values, b.values])),
        lambda: (Values(1, WIDTH), Values(3, WIDTH)),
    ),
    "expanded": (lambda x, p: torch.bmm(x, p.values.expand(len(x), -1, -1)), lambda: (Values(WIDTH, WIDTH),)),
    "repeated": (lambda x, p: x + p.values.repeat(len(x), STEPS, 1), lambda: (Values(1, WIDTH),)),
    "transposed times": (lambda x, p: torch.matmul(p.values, x), lambda: (Values(STEPS, STEPS),)),
    "added with a factor": (lambda x, p: torch.add(x, p.values, alpha=-2.5), lambda: (Values(WIDTH),)),
    "subtracted from": (lambda x, p: p.values - x, lambda: (Values(STEPS, 1),)),
    "divided by": (lambda x, p: x / (p.values.square() + 1), lambda: (Values(1, WIDTH),)),
    "divides": (lambda x, p: p.values / (x.square() + 1), lambda: (Values(WIDTH),)),
    "added in place": (lambda x, p: x.clone().add_(p.values, alpha=0.5), lambda: (Values(STEPS, WIDTH),)),
    "times in place by": (lambda x, p: x.clone().mul_(p.values), lambda: (Values(WIDTH),)),
    "written in place": (_written, lambda: (Values(WIDTH),)),
    "chosen by data": (lambda x, p: torch.where(x > 0, x, p.values), lambda: (Values(WIDTH),)),
    "maximum with": (lambda x, p: torch.maximum(x, p.values - 1), lambda: (Values(WIDTH),)),
    "interpolated": (lambda x, p: torch.lerp(x, x.sin(), p.values), lambda: (Values(WIDTH),)),
    "times and added": (
        lambda x, a, b: torch.addcmul(a.values, x, b.values, value=0.5),
        lambda: (Values(4), Values(4, 4)),
    ),
    "length of": (lambda x, p: x * p.values.norm(), lambda: (Values(WIDTH),)),
    "used twice in one": (lambda x, p: x * p.values + p.values * x.sin() + p.values, lambda: (Values(WIDTH),)),
    "spectrum": (_spectrum, lambda: (Values(STEPS // 2 + 1, WIDTH),)),
    "autograd function": (lambda x, p: Doubled.apply(x, p.values), lambda: (Values(WIDTH),)),
    "parameter to a power": (lambda x, p: x.abs().add(0.1) ** p.values, lambda: (Values(WIDTH),)),
}

ACTIVATIONS: dict[str, Function] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "relu in place": lambda x: F.relu_(x.clone()),
    "gelu": F.gelu,
    "sin": torch.sin,
    "softmax": lambda x: x.softmax(-1),
    "attention without weights": lambda x: F.scaled_dot_product_attention(x, x, x),
    "times in place": lambda x: (x + 0).mul_(1.5),
    "zeroed in place": lambda x: x.clone().index_fill_(2, torch.tensor([1]), 0.0),
    "dropout": lambda x: F.dropout(x, 0.5, training=False),
    "max over steps": lambda x: x - x.amax(1, keepdim=True),
    "sorted steps": lambda x: x.sort(1).values,
    "own detached scale": lambda x: x / (1 + x.detach().abs().amax((1, 2), keepdim=True)),
    "transposed": lambda x: x.transpose(1, 2),
    "masked by data": lambda x: x.masked_fill(x < -0.5, 0.0),
    "float32 and back": lambda x: (x + 0).to(x.dtype),
}


def _slices(x: Tensor, inner: nn.Module) -> Tensor:
    return torch.cat([inner(part) for part in x.split(2)])


def _each(x: Tensor, inner: nn.Module) -> Tensor:
    return torch.cat([inner(x[k : k + 1]) for k in range(len(x))])


def _sorted_samples(x: Tensor, inner: nn.Module) -> Tensor:
    order = x.detach().sum((1, 2)).argsort()
    return inner(x[order])[order.argsort()]


def _some_samples(x: Tensor, inner: nn.Module) -> Tensor:
    chosen = x[:, 0, 0] > 0
    if not chosen.any():
        return x
    return x.masked_scatter(chosen[:, None, None].expand(x.shape), inner(x[chosen]))


def _experts(x: Tensor, first: nn.Module, second: nn.Module) -> Tensor:
    chosen, y = x[:, 0, 0] > 0, torch.zeros_like(x)
    for mask, expert in ((chosen, first), (~chosen, second)):
        if mask.any():
            y[mask] = expert(x[mask])
    return y


def _without_gradient(x: Tensor, inner: nn.Module) -> Tensor:
    with torch.no_grad():
        y = inner(x)
    return x + y


def _force(x: Tensor, inner: nn.Module) -> Tensor:
    """The gradient of an energy with respect to positions, as in models of molecules."""
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        energy = inner(x).tanh().sum()
        return x + torch.autograd.grad(energy, x, create_graph=True)[0]


def _two_views(x: Tensor, inner: nn.Module) -> Tensor:
    first, second = inner(torch.cat([x, x.flip(1)])).chunk(2)
    return first + second.tanh()


# Steps around other steps: how many sequences, and the function of them. No samples mix.
WRAPPERS: dict[str, tuple[int, Function]] = {
    "residual": (1, lambda x, f: x + f(x)),
    "sum of branches": (2, lambda x, f, g: f(x) + g(x)),
    "product of branches": (2, lambda x, f, g: f(x) * g(x).sigmoid()),
    "joined branches": (2, lambda x, f, g: torch.cat([f(x)[..., :2], g(x)[..., 2:]], -1)),
    "twice": (1, lambda x, f: f(f(x))),
    "twice, with others between": (2, lambda x, f, g: f(g(f(x)))),
    "slices of the batch": (1, _slices),
    "one sample at a time": (1, _each),
    "reversed batch": (1, lambda x, f: f(x.flip(0)).flip(0)),
    "sorted batch": (1, _sorted_samples),
    "some samples": (1, _some_samples),
    "experts": (2, _experts),
    "two views, batch major": (1, _two_views),
    "two views, sample major": (1, lambda x, f: f(x.repeat_interleave(2, 0)).unflatten(0, (-1, 2)).sum(1)),
    "checkpoint": (1, lambda x, f: checkpoint(f, x, use_reentrant=False)),
    "reentrant checkpoint": (1, lambda x, f: checkpoint(f, x, use_reentrant=True)),
    "without gradient": (1, _without_gradient),
    "detached": (1, lambda x, f: x * f(x).detach()),
    "detached input": (1, lambda x, f: x + f(x.detach())),
    "force": (1, _force),
}


def _late_sample(x: Tensor) -> Tensor:
    return x if len(x) < 4 else torch.cat([x[:3], x[3:] + 0.5 * x[:1].tanh()])


def _branch_of_batch(x: Tensor) -> Tensor:
    return x.sin() if x.mean() > 0 else x.tanh()


def _batch_statistics(x: Tensor) -> Tensor:
    return F.batch_norm(x.flatten(1), None, None, training=True).view(x.shape) if len(x) > 1 else x


# Samples of a batch see each other.
MIXERS: dict[str, Function] = {
    "batch mean": lambda x: x - x.mean(0),
    "batch mean, detached": lambda x: x - x.mean(0).detach(),
    "batch maximum, detached": lambda x: x / (1 + x.detach().abs().max()),
    "batch deviation": lambda x: x / (0.1 + x.var(0, unbiased=False)).sqrt(),
    "batch statistics": lambda x: (
        F.batch_norm(x.flatten(1), None, None, training=True).view(x.shape) if len(x) > 1 else x
    ),
    "softmax over the batch": lambda x: x.softmax(0),
    "sum so far": lambda x: x.cumsum(0),
    "rolled": lambda x: x + 0.5 * x.roll(1, 0),
    "attention over the batch": lambda x: F.scaled_dot_product_attention(*[x.transpose(0, 1)] * 3).transpose(0, 1),
    "late sample": _late_sample,
    "branch of the batch": _branch_of_batch,
    "rank in the batch": lambda x: x + x.argsort(0).argsort(0).to(x.dtype),
    "number of samples": lambda x: x / len(x),
}
