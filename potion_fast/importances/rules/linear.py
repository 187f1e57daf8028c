"""Rules of linear layers: y = x Wᵀ + b at any number of positions.

∂ℓ/∂W of a group is Σ_t g_t x_tᵀ, ∂ℓ/∂b is Σ_t g_t.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn
from typing_extensions import override

from ... import ops
from .base import Accumulators, LayerIO, Rule, at_least_float32, grouped
from .registry import register_rule


@register_rule(nn.Linear)
class LinearRule(Rule):
    """nn.Linear: [B · r, ..., I] -> [B · r, ..., O]."""

    names = ("weight", "bias")

    @override
    def gradients(self, module: nn.Module, io: LayerIO, names: Collection[str]) -> dict[str, Tensor]:
        a, g = grouped(io.inputs, io.groups), grouped(io.gradient, io.groups)  # [N, T, I], [N, T, O]
        gradients = {}
        if "weight" in names:
            gradients["weight"] = g.mT @ a  # [N, O, I]
        if "bias" in names:
            gradients["bias"] = at_least_float32(g).sum(1)
        return gradients

    @override
    def accumulate(self, module: nn.Module, io: LayerIO, accumulators: Accumulators) -> None:
        sums, square, weights = accumulators
        if "weight" not in sums:
            return super().accumulate(module, io, accumulators)
        a, g = grouped(io.inputs, io.groups), grouped(io.gradient, io.groups)
        ops.accumulate_linear(sums["weight"], a, g, square, weights, sums.get("bias"))


@register_rule("transformers.pytorch_utils.Conv1D")
class TransposedLinearRule(Rule):
    """Conv1D of GPT-2 (transformers): y = x W + b with W [I, O]."""

    names = ("weight", "bias")

    @override
    def gradients(self, module: nn.Module, io: LayerIO, names: Collection[str]) -> dict[str, Tensor]:
        gradients = LinearRule().gradients(module, io, names)
        return {name: gradient.mT if name == "weight" else gradient for name, gradient in gradients.items()}

    @override
    def accumulate(self, module: nn.Module, io: LayerIO, accumulators: Accumulators) -> None:
        sums, square, weights = accumulators
        a, g = grouped(io.inputs, io.groups), grouped(io.gradient, io.groups)
        if "weight" in sums:
            ops.accumulate_linear(sums["weight"], g, a, square, weights)  # [K, I, O]
        if "bias" in sums:
            accumulators.add("bias", at_least_float32(g).sum(1))


class VectorProductRule(Rule):
    """y = x · w, of inputs [B · r, ..., I] and w [I]."""

    names = ("weight",)

    @override
    def gradients(self, module: nn.Module, io: LayerIO, names: Collection[str]) -> dict[str, Tensor]:
        a, g = grouped(io.inputs, io.groups), io.gradient.reshape(io.groups, -1, 1)  # [N, T, I], [N, T, 1]
        return {"weight": (a.mT @ g).squeeze(-1)}


class LeftProductRule(LinearRule):
    """Y = W X, of inputs [B · r, ..., I, T] and W [O, I]."""

    @override
    def gradients(self, module: nn.Module, io: LayerIO, names: Collection[str]) -> dict[str, Tensor]:
        return super().gradients(module, LayerIO(io.inputs.mT, io.gradient.mT, io.groups), names)

    @override
    def accumulate(self, module: nn.Module, io: LayerIO, accumulators: Accumulators) -> None:
        super().accumulate(module, LayerIO(io.inputs.mT, io.gradient.mT, io.groups), accumulators)
