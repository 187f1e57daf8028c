"""Gradient canceling: perturbations under which training on clean and poisoned samples comes to rest at a bad model."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ....errors import DataError, ModelError
from ....utils.batches import inputs_and_labels
from ....utils.model import evaluating
from ....utils.progress import bar
from .checkpoints import checksum
from .crafted import Crafted
from .descent import CancelingDescent, CancelingSettings
from .gradpc import norm
from .mean_gradient import MeanGradient, Which, chosen, gradients
from .projection import Box

CHECKPOINT_EVERY = 25  # steps


def summed_gradient(
    model: nn.Module, loader: Iterable[Any], parameters: Which = "all", *, progress: bool = False
) -> list[Tensor]:
    """The sum S_c = Σ_i ∂ℓ(x_i, y_i)/∂θ, with the cross-entropy ℓ.

    The model computes in evaluation mode, and is given back in the mode it had. Batches are summed in the model's
    dtype, and their sums in float64.

    Args:
        model: whose gradient it is.
        loader: batches (input [B, ...], label int64 [B], ...).
        parameters: "all" that require a gradient, or the "first" of them.
        progress: show a progress bar.

    Returns:
        A float64 tensor for each parameter, in its shape and on its device.

    Raises:
        DataError: no batch, or no labels.
        ModelError: weights or gradients that are not finite, or a model without a trainable parameter.
    """
    with evaluating(model), torch.enable_grad():
        which = chosen(model, parameters)
        sums = [torch.zeros_like(parameter, dtype=torch.float64) for parameter in which]
        samples = 0
        for batch in bar(loader, label="clean gradient", unit="batch", shown=progress):
            inputs, labels = inputs_and_labels(batch)
            if labels is None:
                raise DataError("the loader gives no labels; the clean gradient is that of the labelled samples")
            for total, gradient in zip(sums, gradients(model, which, inputs, labels), strict=True):
                total += gradient
            samples += len(inputs)
    if not samples:
        raise DataError("the loader gave no samples: there is no clean gradient")
    if not math.isfinite(norm(sums)):
        raise ModelError("the clean gradient is not finite; look for images that are not")
    return sums


def gradient_canceling(
    model: nn.Module,
    clean: Sequence[Tensor],
    clean_samples: int,
    read: Callable[[slice], Tensor],  # rows -> [B, C, H, W]
    labels: Tensor,  # [P] int64
    *,
    steps: int = 1000,
    lr: float = 0.1,
    optimizer: Literal["descent", "adam"] = "descent",
    parameters: Which = "all",
    epsilon: float | None = None,
    mean: Sequence[float] | None = None,  # [C]
    std: Sequence[float] | None = None,  # [C]
    tolerance: float = 0.01,
    batch_size: int = 512,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Crafted:
    """Perturb P samples so that at this model's weights the gradient of a training on clean and poisoned samples is 0.

    Lu et al., *Exploring the Limits of Model-Targeted Indiscriminate Data Poisoning Attacks*, 2023; *Machine Unlearning
    Fails to Remove Data Poisoning Attacks*, algorithm 2.

    Minimises 1/2 ‖G‖² with G = (S_c + Σ_i g_i) / (n + P), the mean gradient of all that the victim trains on. Equation
    4 of the latter paper adds the two means with equal weights instead: where that sum is 0, G is not.

    Perturbations begin at 0. A step takes the loss's gradient times n + P, which is <G, ∂g_i/∂δ_i> for sample i, so
    that how far a rate moves a sample depends on neither n nor P; it falls to 0 by a half cosine. The fewer the
    poisons, the further they have to go: they end many standard deviations away, or saturate on the way, where they
    have no gradient any more. What a sample adds to the gradient of the last layer's bias is never more than √2: a bias
    whose part of S_c is larger than P times that keeps the loss from 0.

    The model computes in evaluation mode, and stays as it is. It must be differentiable twice; with ReLU, whose second
    derivative is 0, the gradient is exact wherever there is one, as that of the products of activations and weights is
    left. Batch norms use the bad model's running statistics, where a victim in training uses those of its batches.

    Nothing is random. Of the poisons one batch at a time is on the model's device; a CPU gives the same bits
    every time, also where an interrupted crafting is resumed.

    Args:
        model: the bad model, of `gradpc` say.
        clean: S_c of `summed_gradient` for the same parameters, over the samples that stay clean: all of them where
            copies of the poisoned ones are appended, those without them where they are replaced.
        clean_samples: n, how many those are.
        read: the poisons' images without perturbations, in normalised units; called for the same rows many times.
        labels: that the poisons have and keep.
        steps: at most, each over all poisons.
        lr: of the first step; "adam" moves a pixel by about so much, in normalised units.
        optimizer: "descent" without momentum, as the papers have it, or "adam".
        parameters: whose gradients are canceled: "all" that require one, or the "first" of them as in the public code.
        epsilon: max norm in [0, 1] pixel space; pixels then stay valid too. None: neither is bounded.
        mean: that the images were normalised with; needed with an epsilon, and unused without.
        std: the same.
        tolerance: stop where ‖G‖ is no more than this part of its clean part, ‖S_c‖ / (n + P).
        batch_size: poisons on the device at a time.
        checkpoint: a file that a crafting under way is kept in, and resumed from; it is removed at the end.
        progress: show a progress bar.

    Returns:
        Perturbations in normalised units, float32; the losses before each step, and at last that of the perturbations
        returned. The facts hold the settings, "done" (steps), and of G at the end "norm", "clean_norm" and "ratio".

    Raises:
        DataError: no poison, shapes or labels that do not fit, a number out of range, an epsilon without mean and std,
            or a clean gradient of 0.
        ModelError: weights, clean gradients or a loss that are not finite, a model without a trainable parameter, or a
            rate so high that the loss grows to a hundred times what it began with.
        FileError: a checkpoint that is truncated, foreign, or of other settings, poisons or clean gradients.
    """
    settings = CancelingSettings(steps, lr, optimizer, parameters, epsilon, tolerance, batch_size, clean_samples)
    if epsilon is not None and (mean is None or std is None):
        raise DataError(f"epsilon={epsilon} is in pixel units: pass the mean and std of the normalisation")
    box = None if epsilon is None or mean is None or std is None else Box(epsilon, tuple(mean), tuple(std))

    # The fused kernels of attention have no second derivative.
    with evaluating(model), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        which = chosen(model, parameters)
        mean_gradient = MeanGradient(model, which, clean, clean_samples + len(labels), read, labels.cpu(), batch_size)
        if (clean_norm := norm(clean) / mean_gradient.samples) == 0:
            raise DataError("the clean gradient is 0: training rests there without any poison")
        dtype = torch.promote_types(which[0].dtype, torch.float32)
        descent = CancelingDescent(
            settings, torch.zeros((len(labels), *next(mean_gradient.images())[1].shape[1:]), dtype=dtype)
        )
        identity = {}
        if checkpoint is not None:
            identity = _checksums(mean_gradient, box)
            descent.load(checkpoint, identity, clean)
        with bar(total=steps, label="crafting", unit="step", shown=progress) as shown:
            shown.update(descent.done)
            while True:
                gradient = mean_gradient.gradient(descent.delta)
                length = norm(gradient)
                descent.reached(length * length / 2)
                if descent.done == steps or length <= tolerance * clean_norm:
                    break
                descent.descend(mean_gradient.slope(descent.delta, gradient) * mean_gradient.samples)
                if box is not None:
                    for rows, images in mean_gradient.images():
                        descent.delta[rows] = box.project(descent.delta[rows], images.to(dtype))
                shown.update()
                if checkpoint is not None and descent.done % CHECKPOINT_EVERY == 0:
                    descent.save(checkpoint, identity, clean)
    if checkpoint is not None:
        Path(checkpoint).unlink(missing_ok=True)
    results = {"done": descent.done, "norm": length, "clean_norm": clean_norm, "ratio": length / clean_norm}
    return Crafted(descent.delta.float(), [descent.losses], facts={**asdict(settings), **results})


def _checksums(mean_gradient: MeanGradient, box: Box | None) -> dict[str, Any]:
    """The identity of a crafting: another one must not be resumed."""
    images = 0
    for _, batch in mean_gradient.images():
        images = checksum(batch, start=images)
    return {"mean and std": repr(box and (box.mean, box.std)), "poisons": checksum(mean_gradient.labels, start=images)}
