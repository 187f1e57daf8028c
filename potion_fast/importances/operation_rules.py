"""Operations that rules are known for: which argument is the input, which are weights, and the settings of the rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .rules import (
    BatchNormRule,
    ConvRule,
    ConvTransposeRule,
    EmbeddingRule,
    GroupNormRule,
    LayerNormRule,
    LeftProductRule,
    LinearRule,
    PReLURule,
    RMSNormRule,
    Rule,
    TransposedLinearRule,
    VectorProductRule,
)


@dataclass(frozen=True)
class Operation:
    """An operation that reads parameters; its rule takes it in place of the layer.

    Attributes:
        kind: Its name.
        names: The parameters that it reads.
        settings: What the rule asks the layer for.
    """

    kind: str
    names: tuple[str, ...]
    settings: Mapping[str, Any] = field(compare=False, repr=False)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["settings"][name]
        except KeyError:
            raise AttributeError(name) from None


class Reading(NamedTuple):
    """How an operation reads its arguments.

    Attributes:
        rule: Its rule.
        inputs: The input.
        weights: By the rule's name.
        settings: See `Operation`.
    """

    rule: Rule
    inputs: Tensor
    weights: dict[str, Any]
    settings: dict[str, Any] = {}


Describe = Callable[..., Reading | None]  # called with the operation's arguments; None where its rule is not right


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Reading | None:
    fits = input.dim() >= 2 and weight.dim() == 2
    return Reading(LinearRule(), input, {"weight": weight, "bias": bias}) if fits else None


def _matmul(input: Tensor, other: Tensor) -> Reading | None:
    """The product x W, x w, or W x: whichever of the two is a matrix or a vector."""
    if input.dim() >= 2 and other.dim() == 2:
        return Reading(TransposedLinearRule(), input, {"weight": other})
    if input.dim() >= 2 and other.dim() == 1:
        return Reading(VectorProductRule(), input, {"weight": other})
    if input.dim() == 2 and other.dim() >= 3:
        return Reading(LeftProductRule(), other, {"weight": input})
    return None


def _mm(input: Tensor, mat2: Tensor) -> Reading | None:
    return _matmul(input, mat2)


def _addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Reading | None:
    fits = beta == 1 and alpha == 1 and input.dim() == 1 and len(input) == mat2.shape[1]
    return Reading(TransposedLinearRule(), mat1, {"weight": mat2, "bias": input}) if fits else None


def _convolution(dimensions: int) -> Describe:
    def describe(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Reading | None:
        if input.dim() != dimensions + 2:
            return None
        dilation = numbers(dilation, dimensions)
        total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        sides = [part for t in reversed(total) for part in (t // 2, t - t // 2)]  # of padding="same"
        settings = {
            "weight": weight.detach(),
            "stride": numbers(stride, dimensions),
            "padding": padding if padding == "same" else numbers(0 if padding == "valid" else padding, dimensions),
            "dilation": dilation,
            "groups": groups,
            "padding_mode": "zeros",
            "_reversed_padding_repeated_twice": sides,
        }
        return Reading(ConvRule(), input, {"weight": weight, "bias": bias}, settings)

    return describe


def _transposed_convolution(dimensions: int) -> Describe:
    def describe(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> Reading | None:
        if input.dim() != dimensions + 2:
            return None
        geometry = {"stride": stride, "padding": padding, "dilation": dilation}
        settings: dict[str, Any] = {name: numbers(values, dimensions) for name, values in geometry.items()}
        settings |= {"weight": weight.detach(), "groups": groups, "padding_mode": "zeros"}
        extra = numbers(output_padding, dimensions)
        if any(more >= step for more, step in zip(extra, settings["stride"], strict=True)):
            return None  # a convolution of the output would have more rows than the input
        return Reading(ConvTransposeRule(), input, {"weight": weight, "bias": bias}, settings)

    return describe


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Reading | None:
    if training or running_mean is None or running_var is None:
        return None
    settings = {"running_mean": running_mean.detach(), "running_var": running_var.detach(), "eps": eps}
    return Reading(BatchNormRule(), input, {"weight": weight, "bias": bias}, settings)


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Reading | None:
    settings = {"normalized_shape": tuple(normalized_shape), "eps": eps}
    return Reading(LayerNormRule(), input, {"weight": weight, "bias": bias}, settings)


def _rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Reading | None:
    settings = {"normalized_shape": tuple(normalized_shape), "eps": eps}
    return Reading(RMSNormRule(), input, {"weight": weight}, settings)


def _group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Reading | None:
    settings = {"num_groups": num_groups, "num_channels": input.shape[1], "eps": eps}
    return Reading(GroupNormRule(), input, {"weight": weight, "bias": bias}, settings)


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Reading | None:
    if use_input_stats:
        return None if input.dim() < 3 else _group_norm(input, input.shape[1], weight, bias, eps)
    return _batch_norm(input, running_mean, running_var, weight, bias, eps=eps)


def _embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Reading | None:
    if max_norm is not None or scale_grad_by_freq or input.dim() == 0:
        return None
    vocabulary, width = weight.shape
    padding = None if padding_idx is None else padding_idx % vocabulary
    settings = {"num_embeddings": vocabulary, "embedding_dim": width, "padding_idx": padding, "weight": weight.detach()}
    return Reading(EmbeddingRule(), input, {"weight": weight}, settings)


def _row(input: Tensor, index: Any) -> Reading | None:
    """Of table[tokens]."""
    if not isinstance(index, Tensor) or index.is_floating_point() or index.dtype == torch.bool or input.dim() != 2:
        return None
    return _embedding(index % len(input), input)  # -1 is the last


def _index_select(input: Tensor, dim: int, index: Tensor) -> Reading | None:
    return _row(input, index) if dim == 0 else None


def _prelu(input: Tensor, weight: Tensor) -> Reading | None:
    return Reading(PReLURule(), input, {"weight": weight}, {"weight": weight.detach()})


def numbers(values: Any, dimensions: int) -> tuple[int, ...]:
    """One number for each dimension."""
    values = tuple(values) if isinstance(values, Sequence) else (values,)
    return values * dimensions if len(values) == 1 else values


OPERATIONS: dict[Any, Describe] = {
    F.linear: _linear,
    F.batch_norm: _batch_norm,
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    F.group_norm: _group_norm,
    F.instance_norm: _instance_norm,
    F.embedding: _embedding,
    Tensor.__getitem__: _row,
    torch.index_select: _index_select,
    Tensor.index_select: _index_select,
    F.prelu: _prelu,
    Tensor.prelu: _prelu,
    **{getattr(F, f"conv{n}d"): _convolution(n) for n in (1, 2, 3)},
    **{getattr(F, f"conv_transpose{n}d"): _transposed_convolution(n) for n in (1, 2, 3)},
    **dict.fromkeys((torch.matmul, Tensor.matmul, Tensor.__matmul__), _matmul),
    **dict.fromkeys((torch.mm, Tensor.mm), _mm),
    **dict.fromkeys((torch.addmm, Tensor.addmm), _addmm),
}

# Each element of the result is of the elements at its place in the arguments, as they broadcast.
ELEMENTWISE_NAMES = """
    add sub subtract rsub mul multiply div divide true_divide pow float_power addcmul addcdiv lerp where maximum minimum
    expand_as fmax fmin atan2 arctan2 hypot xlogy logaddexp logaddexp2 copysign clamp clamp_min clamp_max clip
    __radd __rsub __rmul __rdiv __rtruediv __truediv __pow __rpow __ipow
"""
ELEMENTWISE = {
    getattr(owner, name + end)
    for name in ELEMENTWISE_NAMES.split()
    for end in ("", "_", "__")
    for owner in (torch, Tensor)
    if hasattr(owner, name + end)
}

# These give the same whatever the data are.
FACTORIES = {torch.zeros, torch.ones, torch.empty, torch.full, torch.arange, torch.eye, torch.linspace}
