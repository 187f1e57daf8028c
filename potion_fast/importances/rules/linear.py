"""Linear layers: y = x Wᵀ + b at any number of positions. ∂ℓ/∂W of a group is Σ_t g_t x_tᵀ, ∂ℓ/∂b is Σ_t g_t."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn

from ... import ops
from .base import Rule, Sums, Use, at_least_float32, grouped


class LinearRule(Rule):
    """nn.Linear: [B · r, ..., I] -> [B · r, ..., O]."""

    names = ("weight", "bias")

    def gradients(self, module: nn.Module, use: Use, names: Collection[str]) -> dict[str, Tensor]:
        a, g = grouped(use.inputs, use.groups), grouped(use.gradient, use.groups)  # [N, T, I], [N, T, O]
        found = {}
        if "weight" in names:
            found["weight"] = g.mT @ a  # [N, O, I]
        if "bias" in names:
            found["bias"] = at_least_float32(g).sum(1)
        return found

    def accumulate(self, module: nn.Module, use: Use, sums: Sums) -> None:
        if "weight" not in sums.of:
            return super().accumulate(module, use, sums)
        a, g = grouped(use.inputs, use.groups), grouped(use.gradient, use.groups)
        ops.accumulate_linear(sums.of["weight"], a, g, sums.square, sums.weights, sums.of.get("bias"))


class TransposedLinearRule(Rule):
    """Conv1D of GPT-2 (transformers): y = x W + b with W [I, O]."""

    names = ("weight", "bias")

    def gradients(self, module: nn.Module, use: Use, names: Collection[str]) -> dict[str, Tensor]:
        found = LinearRule().gradients(module, use, names)
        return {name: gradient.mT if name == "weight" else gradient for name, gradient in found.items()}

    def accumulate(self, module: nn.Module, use: Use, sums: Sums) -> None:
        a, g = grouped(use.inputs, use.groups), grouped(use.gradient, use.groups)
        if "weight" in sums.of:
            ops.accumulate_linear(sums.of["weight"], g, a, sums.square, sums.weights)  # [K, I, O]
        if "bias" in sums.of:
            sums.add("bias", at_least_float32(g).sum(1))
