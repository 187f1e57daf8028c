"""The pass over the data: the gradient of every group of samples, its absolute value or square summed up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .. import ops
from ..errors import DataError, ImportanceError, ModelError
from ..modes import GroupSize
from .objectives import Losses, Objective, resolve
from .stored import Importance, fingerprint, trainable


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

    samples = terms = 0
    with evaluating(model), torch.inference_mode(False), torch.enable_grad(), _bar(loader, progress) as bar:
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
            bar.update(len(inputs))
    if samples == 0:
        raise DataError("the loader gave no samples; importances need at least one")

    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    result = Importance(sums, shapes, samples, terms, chosen.name, group_size, fingerprint(model))
    for name, part in result.parts():
        if not torch.isfinite(sums[part]).all():
            raise ImportanceError(f"the importances of parameter {name!r} are not finite: its gradient overflowed")
    return result


def groups(loader: Iterable[object], size: GroupSize) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Regroup a loader's batches: exactly `size` samples each, in order, the last one what is left.

    Yields inputs [m, ...] and labels [m], or None where the loader gives none.
    """
    if size == "batch":
        yield from map(_inputs_and_labels, loader)
        return
    held: tuple[Tensor, Tensor | None] | None = None
    for batch in loader:
        inputs, labels = _inputs_and_labels(batch)
        if held is not None:
            inputs = torch.cat([held[0], inputs])
            labels = torch.cat([held[1], labels]) if held[1] is not None and labels is not None else None
        whole = len(inputs) - len(inputs) % size
        for start in range(0, whole, size):
            stop = start + size
            yield inputs[start:stop], None if labels is None else labels[start:stop]
        held = None if whole == len(inputs) else (inputs[whole:], None if labels is None else labels[whole:])
    if held is not None:
        yield held


def checked_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable parameters, checked: at least one, all finite, all on one device."""
    parameters = trainable(model)
    if not parameters:
        raise ImportanceError("the model has no trainable parameter; set requires_grad on those that may be dampened")
    for name, parameter in parameters.items():
        if not torch.isfinite(parameter).all():
            raise ModelError(f"parameter {name!r} holds values that are not finite")
    devices = {str(parameter.device) for parameter in parameters.values()}
    if len(devices) > 1:
        raise ModelError(f"the model's parameters lie on several devices ({', '.join(sorted(devices))}); move it to one")
    return parameters


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode for the block; afterwards every module is back in the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _inputs_and_labels(batch: object) -> tuple[Tensor, Tensor | None]:
    inputs, labels = batch, None
    if isinstance(batch, (tuple, list)) and batch:
        inputs, labels = batch[0], batch[1] if len(batch) > 1 else None
    if not isinstance(inputs, Tensor) or not (labels is None or isinstance(labels, Tensor)):
        raise DataError(f"the loader must give (input, label, ...) tensors, not {type(batch).__name__}")
    if inputs.ndim == 0 or (labels is not None and (labels.ndim == 0 or len(labels) != len(inputs))):
        raise DataError("the loader gave a batch whose inputs and labels differ in number")
    return inputs, labels


def _bar(loader: Iterable[object], shown: bool) -> tqdm:
    dataset = getattr(loader, "dataset", None)
    total = len(dataset) if hasattr(dataset, "__len__") else None
    return tqdm(total=total, desc="importances", unit="sample", disable=not shown, leave=False)
