"""Checks of what a fine-tuning is given, before any work."""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
from torch import Tensor

from ..errors import DataError, ModelError
from ..utils.memory import check, needs_of_copy
from ..utils.model import ModelParameters, check_amp
from ..utils.training_data import check_indices


def check_options(
    amp: torch.dtype | None, max_damage: float, checkpoint: str | os.PathLike[str] | None, resume: bool
) -> None:
    """Raise ModelError or DataError unless these options of `finetune` are in range."""
    check_amp(amp)
    if not (isinstance(max_damage, int | float) and 0 <= max_damage <= 100):
        raise DataError(f"max_damage is a number of points from 0 to 100, not {max_damage!r}")
    if resume and checkpoint is None:
        raise DataError("resume=True needs the file to resume from: checkpoint=PATH")


def check_model(parameters: ModelParameters, inplace: bool) -> None:
    """Raise ModelError unless the model can be fine-tuned, OutOfMemoryError unless it fits."""
    if parameters.sharded:
        raise ModelError("the model is sharded by FSDP2, and fine-tuning is of a model that each rank holds whole")
    for name, parameter in parameters.parameters.items():
        if parameter.dtype != torch.float32:
            raise ModelError(
                f"parameter {name!r} is {parameter.dtype}; only float32 weights are fine-tuned: take model.float(), "
                "and amp=torch.bfloat16 for speed"
            )
    parameters.check_dampenable(to_be_copied=not inplace)
    size = 4 * parameters.numel
    needs = {
        "the given and the best weights": 2 * size,
        "the moments of Adam": 2 * size,
        "gradients": 2 * size,
        **needs_of_copy(parameters, inplace),
    }
    check(parameters.device, needs)


def checked_pairs(
    indices: Iterable[int] | Tensor, labels: Iterable[int] | Tensor, samples: int
) -> tuple[Tensor, Tensor]:
    """Suspects, ascending, and their labels, both int64 [K]. Raises DataError."""
    given = torch.as_tensor(indices if isinstance(indices, Tensor) else list(indices)).cpu()
    ascending = check_indices(given, samples, "indices")
    labels = torch.as_tensor(labels if isinstance(labels, Tensor) else list(labels)).cpu()
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool or labels.ndim != 1:
        raise DataError(f"labels must be classes, whole numbers [K], not {labels.dtype} {list(labels.shape)}")
    if len(labels) != len(given):
        raise DataError(f"there are {len(given)} suspects and {len(labels)} labels; give one label for each")
    if len(ascending) != len(given):
        values, counts = given.unique(return_counts=True)
        raise DataError(f"the suspect {int(values[counts > 1][0])} is given twice; give each index once")
    return ascending, labels.long()[given.argsort()]
