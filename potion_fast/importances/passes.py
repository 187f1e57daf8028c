"""The pass over the data: the gradient of every group of samples, its absolute value or square summed up."""

from __future__ import annotations

from collections.abc import Iterable, Sized

import torch
from torch import nn

from .. import ops
from ..batches import groups
from ..errors import DataError, ImportanceError
from ..modes import GroupSize
from ..modules import checked_parameters, evaluating, fingerprint
from ..progress import bar
from .objectives import Losses, Objective, resolve
from .stored import Importance


def importance(
    model: nn.Module,
    loader: Iterable[object],
    objective: str | Losses | Objective | None = None,
    *,
    w: float | None = None,
    group_size: GroupSize = 1,
    dtype: torch.dtype = torch.float32,
    progress: bool = False,
) -> Importance:
    """Importance of every trainable parameter over the samples of a loader (paper A, eq. 3 and 4; eq. 1 for SSD).

    model       any nn.Module with its parameters on one device; it runs in eval mode and is left as it was
    loader      batches (input [B, ...], label [B], ...); what follows the label is ignored, and objectives that need
                no labels take batches without them
    objective   "xlf" (default), "lf", "ssd", a registered name, an Objective, or a callable
                (outputs [B, ...], labels [B]) -> losses [B] whose |gradient| is summed
    w           instead of an objective: the exponent of ‖f(x)‖₂ in eq. 4
    group_size  the loss is averaged over groups of this many samples in the loader's order, whatever its batch size;
                1 is the equations as printed, "batch" the loader's batches, what the public code does. The last group
                may be smaller and weighs as much as the others
    dtype       float32 or float64, of the sums and of the arithmetic on gradients
    progress    show a progress bar

    Exact: one backward pass per group, accumulated over a flat buffer.

    Raises ImportanceError (no trainable parameter, non-finite loss or importance with its parameter's name, an
    objective of the wrong shape), ModelError (weights not finite, or on several devices), DataError (empty loader,
    labels missing, batches that are not (input, label)).
    """
    chosen = resolve(objective, w)
    if group_size != "batch" and (not isinstance(group_size, int) or isinstance(group_size, bool) or group_size < 1):
        raise ImportanceError(f'group_size is a whole number of at least 1 or "batch", not {group_size!r}')
    if dtype not in (torch.float32, torch.float64):
        raise ImportanceError(f"importances are float32 or float64, not {dtype}")
    parameters = checked_parameters(model)
    device = next(iter(parameters.values())).device
    sums = torch.zeros(sum(p.numel() for p in parameters.values()), dtype=dtype, device=device)

    sampler = getattr(loader, "sampler", None)
    total = len(sampler) if isinstance(sampler, Sized) else None
    samples_done = bar(total=total, what="importances", unit="sample", shown=progress)
    samples = terms = 0
    with evaluating(model), torch.inference_mode(False), torch.enable_grad(), samples_done:
        for inputs, labels in groups(loader, group_size):
            if labels is None and chosen.needs_labels:
                raise DataError(f"the objective {chosen.name!r} needs labels and the loader gives none")
            losses = chosen.losses(model(inputs.to(device)), labels if labels is None else labels.to(device))
            if losses.shape != inputs.shape[:1]:
                raise ImportanceError(
                    f"objective {chosen.name!r} gave losses of shape {list(losses.shape)} for {len(inputs)} samples; "
                    "it must give one per sample"
                )
            loss = losses.mean()
            if not torch.isfinite(loss):
                where = f"sample {samples}" if len(inputs) == 1 else f"samples {samples} to {samples + len(inputs) - 1}"
                raise ImportanceError(f"the loss of {where} is {loss.item()}; look for bad inputs or weights")
            gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
            ops.accumulate(sums, [gradient.to(dtype) for gradient in gradients], square=chosen.square)
            samples += len(inputs)
            terms += 1
            samples_done.update(len(inputs))
    if samples == 0:
        raise DataError("the loader gave no samples; importances need at least one")

    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    result = Importance(sums, shapes, samples, terms, chosen.name, group_size, fingerprint(model))
    for name, part in result.parts():
        if not torch.isfinite(sums[part]).all():
            raise ImportanceError(f"the importances of parameter {name!r} are not finite: its gradient overflowed")
    return result
