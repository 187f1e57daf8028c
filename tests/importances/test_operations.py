"""Rules by operation against the loop over groups: operations, weights derived from parameters, what no rule fits."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils.weight_norm import weight_norm
from torch.utils.checkpoint import checkpoint

import potion_fast as pf
from helpers.loops import assert_equals_loop, perturbed
from potion_fast.errors import PotionWarning
from potion_fast.importances import fallback

B = 8  # samples


class Op(nn.Module):
    """A function of the input and of parameters of its own."""

    def __init__(self, function: Callable[..., Tensor], **shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape) * 0.5 + 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, **self._parameters)


def network(module: nn.Module, *shape: int) -> tuple[nn.Module, Tensor]:
    """The module between two layers with rules of their own, and inputs [B, *shape]."""
    inputs = torch.randn(B, *shape, dtype=torch.float64)
    first = nn.Sequential(nn.Linear(shape[-1], shape[-1]), nn.Tanh())
    body = nn.Sequential(first, module, nn.Tanh(), nn.Flatten()).double()
    model = nn.Sequential(body, nn.Linear(body(inputs).shape[1], 3))
    return perturbed(model, inputs), inputs


def equals_loop(module: nn.Module, *shape: int) -> set[str]:
    """For all group sizes and both objectives; the names that went through torch.func or a loop."""
    torch.manual_seed(0)
    model, inputs = network(module, *shape)
    left = set()
    for group_size in (1, 4, B):
        for objective in ("xlf", "ssd"):
            left.update(assert_equals_loop(model, inputs, objective, group_size, batch=16).fallback)
    return left


BOTH = {"weight": (5,), "bias": (5,)}
OPERATIONS = {
    "linear": (lambda: Op(lambda x, w, b: F.linear(x, w, b), w=(3, 5), b=(3,)), 5),
    "linear-without-bias": (lambda: Op(lambda x, w: F.linear(x, w), w=(3, 5)), 2, 5),
    "linear-by-keyword": (lambda: Op(lambda x, w, b: F.linear(input=x, weight=w, bias=b), w=(3, 5), b=(3,)), 2, 5),
    "linear-of-one-output": (lambda: Op(lambda x, w: F.linear(x, w), w=(1, 5)), 2, 5),
    "conv1d": (lambda: Op(lambda x, w, b: F.conv1d(x, w, b, 2, 1, groups=2), w=(6, 2, 3), b=(6,)), 4, 9),
    "conv2d": (lambda: Op(lambda x, w, b: F.conv2d(x, w, b, (2, 1), 1, (1, 2)), w=(4, 2, 3, 2), b=(4,)), 2, 7, 6),
    "conv2d-same": (lambda: Op(lambda x, w: torch.conv2d(x, w, None, padding="same"), w=(4, 2, 3, 5)), 2, 7, 6),
    "conv2d-valid": (lambda: Op(lambda x, w: F.conv2d(x, w, padding="valid"), w=(4, 2, 3, 2)), 2, 7, 6),
    "conv2d-depthwise": (lambda: Op(lambda x, w: F.conv2d(x, w, padding=1, groups=4), w=(4, 1, 3, 3)), 4, 6, 6),
    "conv2d-padded": (lambda: Op(lambda x, w: F.conv2d(F.pad(x, (0, 1, 1, 2)), w, stride=2), w=(4, 2, 3, 3)), 2, 7, 6),
    "conv3d": (lambda: Op(lambda x, w, b: F.conv3d(x, w, b, padding=1), w=(2, 2, 2, 3, 2), b=(2,)), 2, 3, 4, 3),
    "conv-transpose1d": (lambda: Op(lambda x, w, b: F.conv_transpose1d(x, w, b, 2, 1, 1), w=(2, 3, 3), b=(3,)), 2, 6),
    "conv-transpose2d": (
        lambda: Op(lambda x, w, b: F.conv_transpose2d(x, w, b, 2, 1, 1, 2, (1, 2)), w=(4, 3, 3, 2), b=(6,)),
        *(4, 4, 5),
    ),
    "conv-transpose3d": (lambda: Op(lambda x, w: F.conv_transpose3d(x, w), w=(2, 3, 2, 1, 2)), 2, 3, 2, 3),
    "layer-norm": (lambda: Op(lambda x, weight, bias: F.layer_norm(x, (5,), weight, bias), **BOTH), 2, 5),
    "layer-norm-of-two": (lambda: Op(lambda x, w: F.layer_norm(x, (2, 5), w, eps=1e-3), w=(2, 5)), 2, 5),
    "layer-norm-shift-only": (lambda: Op(lambda x, b: F.layer_norm(x, (5,), bias=b), b=(5,)), 2, 5),
    "rms-norm": (lambda: Op(lambda x, w: F.rms_norm(x, (5,), w), w=(5,)), 2, 5),
    "group-norm": (lambda: Op(lambda x, weight, bias: F.group_norm(x, 1, weight, bias), **BOTH), 5, 3, 2),
    "instance-norm": (lambda: Op(lambda x, w, b: F.instance_norm(x, None, None, w, b), w=(4,), b=(4,)), 4, 3, 5),
    "prelu": (lambda: Op(lambda x, w: F.prelu(x - 0.1, w), w=(4,)), 4, 3),
    "prelu-of-one": (lambda: Op(lambda x, w: torch.prelu(x - 0.1, w), w=(1,)), 4, 3),
    "matmul": (lambda: Op(lambda x, w: x @ w, w=(5, 3)), 2, 5),
    "matmul-of-a-vector": (lambda: Op(lambda x, w: torch.matmul(x, w), w=(5,)), 2, 5),
    "matmul-from-the-left": (lambda: Op(lambda x, w: w @ x, w=(3, 4)), 4, 5),
    "mm": (lambda: Op(lambda x, w: torch.mm(x, w), w=(5, 3)), 5),
    "addmm": (lambda: Op(lambda x, w, b: torch.addmm(b, x, w), w=(5, 3), b=(3,)), 5),
    "scale": (lambda: Op(lambda x, w: x * w, w=(5,)), 2, 5),
    "scale-first": (lambda: Op(lambda x, w: w * x, w=(2, 5)), 2, 5),
    "scale-of-one-number": (lambda: Op(lambda x, w: x * w, w=()), 2, 5),
    "scale-of-channels": (lambda: Op(lambda x, w: x.mul(w.reshape(1, -1, 1, 1)), w=(4,)), 4, 3, 2),
    "scale-in-place": (lambda: Op(lambda x, w: x.clone().mul_(w), w=(5,)), 2, 5),
    "scale-a-view-in-place": (lambda: Op(_scale_of_a_view, w=(5,)), 3, 5),
    "shift": (lambda: Op(lambda x, b: x + b, b=(2, 5)), 2, 5),
    "shift-in-place": (lambda: Op(_shift_in_place, b=(5,)), 2, 5),
    "shift-with-alpha": (lambda: Op(lambda x, b: torch.add(x, b, alpha=-3), b=(5,)), 2, 5),
    "subtract": (lambda: Op(lambda x, b, c: c - (x - b), b=(5,), c=(2, 1)), 2, 5),
    "reverse-subtract": (lambda: Op(lambda x, b: torch.rsub(x, b), b=(5,)), 2, 5),
    "divide": (lambda: Op(lambda x, w, v: v / (2 + x / w), w=(5,), v=(5,)), 2, 5),
    "power": (lambda: Op(lambda x, p: x.clamp(min=1e-3).pow(p), p=(1,)), 2, 5),
    "power-of-a-parameter": (lambda: Op(lambda x, p: p.abs() ** x, p=(5,)), 2, 5),
    "addcmul": (lambda: Op(lambda x, w, b: torch.addcmul(b, x, w, value=2), w=(5,), b=(5,)), 2, 5),
    "one-weight-in-two-places": (lambda: Op(lambda x, w: torch.addcmul(w, x, w), w=(5,)), 2, 5),
    "lerp": (lambda: Op(lambda x, w, v: torch.lerp(x, w, v), w=(5,), v=(5,)), 2, 5),
    "where": (lambda: Op(lambda x, w: torch.where(x > 0, x, w), w=(5,)), 2, 5),
    "maximum": (lambda: Op(lambda x, w: torch.maximum(x, w - 1), w=(5,)), 2, 5),
    "expanded-token": (lambda: Op(lambda x, c: torch.cat([c.expand(len(x), 1, -1), x], 1), c=(5,)), 2, 5),
    "weights-by-sample": (lambda: Op(_weights_by_sample, w=(5, 4)), 2, 5),
    "repeated-token": (lambda: Op(lambda x, c: torch.cat([c.repeat(len(x), 2, 1), x], 1), c=(1, 5)), 2, 5),
    "expanded-as-the-data": (lambda: Op(lambda x, c: torch.cat([c.expand_as(x), x], 1), c=(2, 1)), 2, 5),
    "rows-by-index": (lambda: Op(lambda x, w: x + w[(x[..., 0] > 0).long() - 1], w=(4, 5)), 2, 5),
    "selected-rows": (lambda: Op(lambda x, w: x * w.index_select(0, (x[:, 0] > 0).long()), w=(4, 5)), 5),
    "gradient-of-the-inputs": (lambda: Op(_force, w=(3, 5)), 2, 5),
    "several-operations": (lambda: Op(lambda x, w, b: F.linear(x * b, w) + b.sum() * b[:3], w=(3, 5), b=(5,)), 2, 5),
    "the-same-twice": (lambda: Op(lambda x, w: F.linear(torch.tanh(F.linear(x, w)), w), w=(5, 5)), 2, 5),
    "with-its-transpose": (lambda: Op(lambda x, w: F.linear(torch.tanh(F.linear(x, w)), w.T), w=(3, 5)), 2, 5),
    "scale-and-shift-of-one": (lambda: Op(lambda x, w: F.layer_norm(x, (5,), w, w), w=(5,)), 2, 5),
    "in-place-afterwards": (lambda: Op(lambda x, w, b: F.linear(x, w, b).mul_(2).relu_(), w=(3, 5), b=(3,)), 2, 5),
}


def _weights_by_sample(x: Tensor, w: Tensor) -> Tensor:
    return torch.bmm(x, w * x.detach().mean((1, 2)).view(-1, 1, 1).exp())


def _force(x: Tensor, w: Tensor) -> Tensor:
    with torch.enable_grad():
        own = x.detach().requires_grad_()
        return F.linear(own, w) + x[..., :3]


def _scale_of_a_view(x: Tensor, w: Tensor) -> Tensor:
    x = x.clone()
    x[:, 1].mul_(w)
    return x


def _shift_in_place(x: Tensor, b: Tensor) -> Tensor:
    x = x.clone()
    x += b
    return x * x


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_equal_the_loop(name: str) -> None:
    make, *shape = OPERATIONS[name]
    assert equals_loop(make(), *shape) == set()


# --- Weights that are computed from parameters ------------------------------------------------------------------------


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0]))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


class Skew(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu(1) - weight.triu(1).mT


class Normalised(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, F.normalize(self.weight, dim=1), self.bias)


class CosineClassifier(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 4 * F.linear(F.normalize(x, dim=-1), F.normalize(self.weight, dim=-1))


class LowRank(nn.Linear):
    """A weight and the product of two low ones, each with its own gradient."""

    def __init__(self) -> None:
        super().__init__(5, 4)
        self.down, self.up = nn.Parameter(torch.randn(2, 5)), nn.Parameter(torch.randn(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight + 0.5 * self.up @ self.down, self.bias)


class PartlyBiased(nn.Module):
    """One matrix for three projections, and a bias for two of them."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(5, 6, bias=False)
        self.q_bias, self.v_bias = nn.Parameter(torch.randn(2)), nn.Parameter(torch.randn(2))
        self.register_buffer("k_bias", torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.qkv.weight, torch.cat([self.q_bias, self.k_bias, self.v_bias]))


class Positions(nn.Module):
    """A table of offsets that is looked up by fixed indices."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(7, 2))
        self.register_buffer("index", torch.randint(7, (3, 3)))

    def forward(self, x: Tensor) -> Tensor:  # [B, 2, 3, 3]
        bias = self.table[self.index.view(-1)].view(3, 3, 2).permute(2, 0, 1)
        return x + (16 * torch.sigmoid(bias)).unsqueeze(0)


class Pruned(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
        prune.l1_unstructured(self[0], "weight", 0.4)
        prune.random_unstructured(self[2], "bias", 1)


def _old_weight_norm(layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return weight_norm(layer)


def _parametrized(layer: nn.Module, *by: nn.Module) -> nn.Module:
    for parametrization in by:
        parametrize.register_parametrization(layer, "weight", parametrization)
    return layer


DERIVED = {
    "weight-norm": (lambda: parametrizations.weight_norm(nn.Linear(5, 4)), 2, 5),
    "weight-norm-of-a-convolution": (lambda: parametrizations.weight_norm(nn.Conv2d(2, 4, 3)), 2, 5, 6),
    "weight-norm-old": (lambda: _old_weight_norm(nn.Conv1d(2, 4, 3)), 2, 6),
    "spectral-norm": (lambda: parametrizations.spectral_norm(nn.Linear(5, 4)), 2, 5),
    "spectral-norm-old": (lambda: nn.utils.spectral_norm(nn.Conv2d(2, 4, 3)), 2, 5, 6),
    "orthogonal": (lambda: parametrizations.orthogonal(nn.Linear(5, 5)), 2, 5),
    "parametrized": (lambda: _parametrized(nn.Linear(5, 5), Skew(), Masked()), 2, 5),
    "pruned": (Pruned, 2, 5),
    "standardised": (lambda: timm.layers.StdConv2d(2, 4, 3, bias=True), 2, 5, 6),
    "scaled-standardised": (lambda: timm.layers.ScaledStdConv2d(2, 4, 3), 2, 5, 6),
    "standardised-and-padded": (lambda: timm.layers.ScaledStdConv2dSame(2, 4, 3, stride=2), 2, 5, 6),
    "normalised-rows": (lambda: Normalised(5, 4), 2, 5),
    "cosine-classifier": (lambda: CosineClassifier(5, 4, bias=False), 2, 5),
    "low-rank": (LowRank, 2, 5),
    "partly-biased": (PartlyBiased, 2, 5),
    "table-of-offsets": (Positions, 2, 3, 3),
    "softmax-of-weights": (lambda: Op(lambda x, w: x * w.softmax(0), w=(5,)), 2, 5),
    "inverse": (lambda: Op(lambda x, w: x @ torch.inverse(w + 5 * torch.eye(5)), w=(5, 5)), 2, 5),
    "weight-used-twice": (lambda: Op(lambda x, w: x * w.exp() + F.linear(x, w.exp().diag()), w=(5,)), 2, 5),
    "view": (lambda: Op(lambda x, w: F.conv2d(x, w.view(4, 2, 1, 1)), w=(4, 2)), 2, 3, 5),
    "part": (lambda: Op(lambda x, w: F.linear(x, w[:3]) * w[3:, 2], w=(6, 5)), 2, 5),
}


@pytest.mark.parametrize("name", DERIVED)
def test_derived_weights_equal_the_loop(name: str) -> None:
    make, *shape = DERIVED[name]
    torch.manual_seed(0)
    assert equals_loop(make(), *shape) == set()


# --- Layers of a kind that has a rule, in a class of their own --------------------------------------------------------


class Centred(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(-1, keepdim=True))


SUBCLASSES = {
    "linear": (lambda: Centred(5, 4), 2, 5),
    "batch-norm-and-activation": (lambda: timm.layers.BatchNormAct2d(4), 4, 3, 5),
    "group-norm-and-activation": (lambda: timm.layers.GroupNormAct(4, num_groups=2), 4, 3, 5),
    "layer-norm-and-activation": (lambda: timm.layers.LayerNormAct2d(4), 4, 3, 5),
    "padded-convolution": (lambda: timm.layers.Conv2dSame(2, 4, 3, stride=2), 2, 6, 5),
    "linear-of-one-output": (lambda: OneOutput(5, 1), 5),
    "linear-of-positions": (lambda: timm.layers.Linear(5, 4), 3, 5),
    "prelu": (lambda: nn.PReLU(4), 4, 3),
    "instance-norm": (lambda: nn.InstanceNorm1d(4, affine=True), 4, 5),
    "instance-norm-with-statistics": (lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True), 4, 3, 5),
    "transposed-convolution": (lambda: nn.ConvTranspose2d(2, 3, 3, stride=2), 2, 4, 5),
    "generalised-mean": (lambda: _GeneralisedMean(), 4, 3, 5),
    "squeeze-and-excite": (lambda: timm.layers.EcaModule(4), 4, 3, 5),
}


class OneOutput(nn.Linear):
    """Its weight [1, 5] could be a leaf with a row for each sample, were it not for the product."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, :1]


class _GeneralisedMean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.ones(1) * 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x.clamp(min=1e-6).pow(self.p), x.shape[-2:]).pow(1.0 / self.p)


@pytest.mark.parametrize("name", SUBCLASSES)
def test_subclasses_equal_the_loop(name: str) -> None:
    make, *shape = SUBCLASSES[name]
    assert equals_loop(make(), *shape) == set()


@pytest.mark.parametrize("padding_idx", [None, -1])
def test_a_table_of_tokens_that_is_tied_to_the_last_product(padding_idx: int | None) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(7, 4))

        def forward(self, tokens: Tensor) -> Tensor:
            return F.linear(torch.tanh(F.embedding(tokens, self.table, padding_idx)).mean(1), self.table)

    torch.manual_seed(0)
    inputs = torch.randint(7, (B, 5))
    for group_size in (1, 4, B):
        assert assert_equals_loop(Tied().double(), inputs, "ssd", group_size).fallback == ()


# --- What no rule fits, or only seems to ------------------------------------------------------------------------------


class _Outside(nn.Module):
    """The weight is also used by an operation that no rule is known for."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 5))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight) + torch.einsum("btd,od->bto", x, self.weight)


class _Hidden(torch.autograd.Function):
    """Autograd is told of it, and nobody else."""

    @staticmethod
    def forward(ctx, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return x * w

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, Tensor]:
        x, w = ctx.saved_tensors
        return g * w, (g * x).flatten(0, -2).sum(0)


def _time_first(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return (F.linear(x.transpose(0, 1), w) + b).transpose(0, 1)


def _without_gradient(x: Tensor, w: Tensor) -> Tensor:
    with torch.no_grad():
        gate = torch.sigmoid(F.linear(x, w))
    return F.linear(x, w) * gate


def _one_at_a_time(x: Tensor, w: Tensor) -> Tensor:
    return torch.cat([F.linear(sample[None], w * math.exp(float(sample.detach().max()) / 9)) for sample in x])


def _changed_in_place(x: Tensor, w: Tensor) -> Tensor:
    derived = w * 2
    derived[0] += x.detach().mean(0).sum(0) * 0 + 1
    return F.linear(x, derived)


ODD = {
    "also-used-outside": (_Outside, {"1.weight"}, 2, 5),
    "hidden-function": (lambda: Op(lambda x, w: _Hidden.apply(x, w) + x * w, w=(5,)), {"1.w"}, 2, 5),
    "time-first": (lambda: Op(_time_first, w=(4, 5), b=(4,)), {"1.w", "1.b"}, 2, 5),
    "time-first-as-long-as-the-batch": (lambda: Op(_time_first, w=(4, 5), b=(B, 1, 4)), {"1.w", "1.b"}, B, 5),
    "also-without-gradient": (lambda: Op(_without_gradient, w=(5, 5)), {"1.w"}, 2, 5),
    "one-at-a-time": (lambda: Op(_one_at_a_time, w=(4, 5)), {"1.w"}, 2, 5),
    "changed-in-place": (lambda: Op(_changed_in_place, w=(4, 5)), {"1.w"}, 2, 5),
    "running-product": (lambda: Op(lambda x, w: torch.einsum("btd,d->bt", x, w), w=(5,)), {"1.w"}, 2, 5),
    "detached": (lambda: Op(lambda x, w: x * w.detach() + F.linear(x, w), w=(5, 5)), set(), 5, 5),
    "values": (lambda: Op(lambda x, w: x * w.data[0] * float(w.data[0, 0]) + F.linear(x, w), w=(5, 5)), set(), 5, 5),
}


@pytest.mark.parametrize("name", ODD)
def test_what_no_rule_fits_is_exact(name: str) -> None:
    make, left, *shape = ODD[name]
    fallback = {name.removeprefix("0.") for name in equals_loop(make(), *shape)}
    assert fallback >= left
    assert bool(fallback) == bool(left)


def test_what_goes_slowly_is_said_once_with_its_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cells = nn.GRU(5, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.cells(x)[0]

    torch.manual_seed(0)
    model, inputs = network(Recurrent(), 2, 5)
    data = [(inputs, torch.zeros(B, dtype=torch.long))] * 3
    assert all(".1." in name for name in pf.importance(model, data, group_size=1).fallback)
    monkeypatch.setattr(fallback, "SLOW_SECONDS", 0.0)
    with pytest.warns(PotionWarning, match=r"\d+ % .*4 parameters.* of GRU.*add-a-rule") as warned:
        pf.importance(model, data, group_size=1)
    assert len(warned) == 1


@pytest.mark.parametrize("group_size", [1, 2, 16])
def test_the_group_size_does_not_shrink_the_batch_of_torch_func(
    group_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    seen: list[int] = []
    by_vmap = fallback.Fallback._by_vmap

    def counted(self, names, x, y, c):
        seen.append(x.shape[0] * x.shape[1])
        return by_vmap(self, names, x, y, c)

    monkeypatch.setattr(fallback.Fallback, "_by_vmap", counted)
    model = Op(lambda x, w: torch.einsum("bi,io->bo", x, w), w=(5, 3)).double()
    pf.importance(model, [(torch.randn(128, 5, dtype=torch.float64),)], group_size=group_size)
    assert seen[-2:] == [64, 64]  # after the few whose memory is measured


@pytest.mark.parametrize("batch", [4, 6])
def test_a_parameter_that_a_later_batch_is_the_first_to_read(batch: int) -> None:
    class Late(nn.Module):
        """Its second factor is read where an input is above 2."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.late = nn.Parameter(torch.randn(5)), nn.Parameter(torch.randn(5))

        def forward(self, x: Tensor) -> Tensor:
            weight = self.first * self.late if (x > 2).any() else self.first
            return x * torch.where((x > 2).any(1, keepdim=True), weight, self.first)

    torch.manual_seed(0)
    model, inputs = nn.Sequential(Late(), nn.Linear(5, 3)).double(), torch.rand(12, 5, dtype=torch.float64)
    inputs[[7, 11], 2] = 3.0
    for group_size in (1, 2):
        assert "0.late" in assert_equals_loop(model, inputs, group_size=group_size, batch=batch).fallback


def everything() -> tuple[nn.Module, Tensor]:
    """Weights by type, by operation, derived, and a leaf in one model."""
    layers = [
        timm.layers.Conv2dSame(3, 4, 3, stride=2),
        timm.layers.BatchNormAct2d(4),
        timm.layers.ScaledStdConv2d(4, 4, 3),
        Op(lambda x, w, b: x * w.view(-1, 1, 1) + b, w=(4,), b=(1, 4, 1, 1)),
        nn.Flatten(),
        parametrizations.weight_norm(nn.Linear(4 * 3 * 3, 5)),
        nn.PReLU(),
        nn.Linear(5, 3),
    ]
    inputs = torch.randn(12, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return perturbed(nn.Sequential(*layers), inputs), inputs


@pytest.mark.parametrize("group_size", [1, 3])
def test_several_objectives_of_one_pass_equal_passes_of_their_own(group_size: int) -> None:
    model, inputs = everything()
    data = [(inputs, torch.arange(12) % 3)]
    specs = ["ssd", "lf", "xlf", 3.0]
    together = pf.importance(model, data, specs, group_size=group_size, dtype=torch.float64)
    for spec, got in zip(specs, together, strict=True):
        alone = pf.importance(model, data, [spec], group_size=group_size, dtype=torch.float64)[0]
        torch.testing.assert_close(got.sums, alone.sums, rtol=1e-12, atol=1e-15)
        assert got.fallback == ()
    assert_equals_loop(model, inputs, "ssd", group_size)


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_pass_leaves_them_to_torch_func() -> None:
    model, inputs = everything()
    data = [(inputs, torch.arange(12) % 3)] * 4
    want = pf.importance(model, data, group_size=1, dtype=torch.float64)
    got = pf.importance(model, data, group_size=1, dtype=torch.float64, compiled=True)
    torch.testing.assert_close(got.sums, want.sums, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("amp", [torch.bfloat16, torch.float16])
def test_under_autocast_they_are_those_of_the_model_within_its_rounding(amp: torch.dtype) -> None:
    model, inputs = everything()
    data = [(inputs.float(), torch.arange(12) % 3)]
    want = pf.importance(model, [(inputs, torch.arange(12) % 3)], group_size=1, dtype=torch.float64)
    got = pf.importance(model.float(), data, group_size=1, amp=amp)
    assert got.fallback == ()
    for name in want.shapes:
        error = torch.linalg.vector_norm(got[name] - want[name])
        assert error <= 0.05 * torch.linalg.vector_norm(want[name]), name


def test_nothing_of_the_pass_stays_on_the_model() -> None:
    model, inputs = everything()
    model.requires_grad_(True)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    pf.importance(model, [(inputs, torch.arange(12) % 3)], group_size=1)
    assert all(parameter.requires_grad and parameter.grad_fn is None for parameter in model.parameters())
    assert [name for name, parameter in model.named_parameters() if parameter.grad is not None] == ["0.weight"]
    assert model[0].weight.grad.eq(1).all()


class Checkpointed(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.module, x, use_reentrant=False)


@pytest.mark.parametrize("name", ["linear", "scale", "prelu", "with-its-transpose", "expanded-token", "part", "pruned"])
@pytest.mark.parametrize("first", [False, True])
def test_activation_checkpointing_recomputes_what_was_recorded(name: str, first: bool) -> None:
    torch.manual_seed(0)
    make, *shape = {**OPERATIONS, **DERIVED}[name]
    if first:  # its inputs require no gradient
        inputs = torch.randn(B, *shape, dtype=torch.float64)
        body = nn.Sequential(Checkpointed(nn.Sequential(make(), nn.Tanh())), nn.Flatten()).double()
        model = perturbed(nn.Sequential(body, nn.Linear(body(inputs).shape[1], 3)), inputs)
    else:
        model, inputs = network(Checkpointed(make()), *shape)
    for group_size in (1, 4):
        assert assert_equals_loop(model, inputs, "ssd", group_size).fallback == ()


def test_a_weight_that_vmap_cannot_pull_back_goes_row_by_row() -> None:
    torch.manual_seed(0)
    model, inputs = network(Op(lambda x, w: F.linear(x, w.exp().cumprod(0)), w=(3, 5)), 2, 5)
    refused: list[bool] = []
    grad = torch.autograd.grad

    def without_vmap(*args, is_grads_batched: bool = False, **keywords):
        if is_grads_batched:
            refused.append(True)
            raise RuntimeError("no batching rule")
        return grad(*args, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.autograd, "grad", without_vmap)
        got = pf.importance(model, [(inputs,)], group_size=1, dtype=torch.float64)
    want = pf.importance(model, [(inputs,)], group_size=1, dtype=torch.float64)
    assert refused
    assert got.fallback == ()
    torch.testing.assert_close(got.sums, want.sums, rtol=1e-12, atol=1e-15)
