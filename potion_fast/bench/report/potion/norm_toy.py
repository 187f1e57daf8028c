"""Figures 4 and 5 as the paper's toy: ‖f(x)‖₂^w and its derivative where the outputs f(x) are uniformly distributed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ....importances.objectives import norm_power

EXPONENTS = (0.5, 1.0, 2.0, 3.0)
SAMPLES, CLASSES = 20_000, 10  # the paper does not say: as many outputs as CIFAR-10 has classes, each uniform in [0, 1)


@dataclass(frozen=True)
class Toy:
    """values [N] are ‖f‖^w of every sample, importances [N · C] are |∂‖f‖^w / ∂f_i| of every sample and output.

    An output's bias has that derivative, so it is what eq. 4 averages over the samples.
    """

    w: float
    values: np.ndarray
    importances: np.ndarray


def toy(w: float, samples: int = SAMPLES, classes: int = CLASSES, seed: int = 0) -> Toy:
    """By autograd, of the losses that the library's own importances are made from."""
    outputs = torch.rand(samples, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    outputs.requires_grad_()
    losses = norm_power(w).losses(outputs, None)  # [N]
    (slopes,) = torch.autograd.grad(losses.sum(), outputs)  # [N, C]
    return Toy(w, losses.detach().numpy(), slopes.abs().flatten().numpy())


def scaled(values: np.ndarray) -> np.ndarray:
    """Min-max scaled to [0, 1]; all 0 where they do not differ."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def tails(values: np.ndarray) -> tuple[float, float]:
    """Shares in the lowest and in the highest tenth of the range, in [0, 1]."""
    unit = scaled(values)
    return float((unit < 0.1).mean()), float((unit > 0.9).mean())
