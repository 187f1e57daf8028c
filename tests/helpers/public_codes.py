"""What the two public codes compute, as plain loops written from the formulas; and their forms of batches."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from helpers.toys import Batches, weights

# As a user of the public code has it, with the keys that it does not use.
PARAMETERS = {
    "lower_bound": 1,
    "exponent": 1,
    "magnitude_diff": None,
    "min_layer": -1,
    "max_layer": -1,
    "forget_threshold": 1,
    "dampening_constant": 1,
    "selection_weighting": 2,
}
LOSSES = {
    "ssd": lambda outputs, labels: nn.CrossEntropyLoss()(outputs, labels),
    "lf": lambda outputs, labels: torch.linalg.vector_norm(outputs, dim=1).pow(2).mean(),
    "xlf": lambda outputs, labels: torch.linalg.vector_norm(outputs, dim=1).mean(),
}
FLAGS: dict[str, dict[str, bool]] = {"ssd": {}, "lf": {"label_free": True}, "xlf": {"label_free": True, "x_D": True}}


def loop(model: nn.Module, loader: Iterable[Any], objective: str = "ssd") -> dict[str, Tensor]:
    """Importances over batches (x, y): a backward pass per batch, into .grad, squared or absolute, and their mean."""
    model = copy.deepcopy(model).eval()
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    batches = list(loader)
    for x, y in batches:
        model.zero_grad()
        LOSSES[objective](model(x), y).backward()
        for name, p in model.named_parameters():
            if p.grad is not None:
                total[name] += p.grad.clone().pow(2) if objective == "ssd" else p.grad.clone().abs()
    return {name: t.div_(len(batches)) for name, t in total.items()}


def percentile(retain: dict[str, Tensor], forget: dict[str, Tensor], p: float) -> Tensor:
    """As NumPy has it, of the ratios that are finite."""
    ratio = torch.cat([(forget[name] / retain[name]).flatten() for name in forget]).numpy()
    ratio[np.isinf(ratio)] = np.nan
    return torch.tensor(np.nanpercentile(ratio, np.float64(p)), dtype=torch.float32)


def edited(
    model: nn.Module,
    retain: dict[str, Tensor],
    forget: dict[str, Tensor],
    alpha: float | Tensor,
    dampening: float = 1,
    exponent: float = 1,
    lower_bound: float = 1,
) -> dict[str, Tensor]:
    """The edit by indices, one parameter after the other."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for name, p in model.named_parameters():
            f, o = forget[name], retain[name]
            where = torch.where(f > o.mul(alpha))
            factor = o.mul(dampening).div(f).pow(exponent)[where]
            factor[factor > lower_bound] = lower_bound
            p[where] = p[where].mul(factor)
    return weights(model)


def potion_batches(loader: Batches, flag: int, dtype: torch.dtype = torch.int64) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(image, label, manipulation flag), as Potion's collated batches are: the flag is an integer."""
    return [(x, y, torch.full((len(y),), flag, dtype=dtype)) for x, y in loader]


def ssd_batches(loader: Batches) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(image, _, label), where _ is empty, as SSD's data sets give it."""
    return [(x, torch.empty(len(y), 0), y) for x, y in loader]


def changed(model: nn.Module, original: dict[str, Tensor]) -> int:
    """How many weights are not what they were."""
    return sum(int((p != original[name]).sum()) for name, p in model.named_parameters())
