"""Learning rate of a fine-tuning: relative to the weights, so that it needs no knowledge of the training."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

RATE = 0.01  # share of a tensor's root mean square that a weight moves by in a step
WARM_UP = 0.1  # of the steps
SMALLEST = 1e-3  # root mean square of a tensor that its rate is relative to, at least: biases start at 0


def tensor_scales(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """Root mean square of each tensor, `SMALLEST` at least: its learning rate is the relative one times this."""
    return {name: max(SMALLEST, tensor.square().mean().sqrt().item()) for name, tensor in tensors.items()}


def rate_at(step: int, steps: int) -> float:
    """Relative rate of a step: up over the first tenth, then linearly to 0."""
    return RATE * min(1.0, (step + 1) / max(1, round(WARM_UP * steps))) * (1 - step / steps)
