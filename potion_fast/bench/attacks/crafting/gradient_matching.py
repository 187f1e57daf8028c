"""Gradient matching: perturbations under which training on the poisons is training on a target with a wrong label."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ....errors import DataError
from ....utils.model import evaluating, fingerprint
from ....utils.progress import bar
from .augmentation import draw
from .checkpoints import checksum
from .crafted import Crafted
from .matching import Matching, Over, Poisons
from .projection import Box
from .restarts import MatchingDescent, MatchingSettings


def gradient_matching(
    model: nn.Module,
    read: Callable[[slice], Tensor],  # rows -> [B, C, H, W] float32
    labels: Tensor,  # [P] int64
    target_images: Tensor,  # [T, C, H, W]
    intended: Tensor,  # [T] int64
    *,
    epsilon: float = 16 / 255,
    mean: Sequence[float],  # [C]
    std: Sequence[float],  # [C]
    restarts: int = 8,
    steps: int = 250,
    batch_size: int = 512,
    optimizer: Literal["sign-adam", "adam"] = "sign-adam",
    lr: float | None = None,
    over: Over = "batch",
    augment: bool = True,
    shift: float | None = None,
    flip: bool = True,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 25,
    progress: bool = False,
) -> Crafted:
    """Perturb P samples of the intended class so that training on them takes the targets for that class.

    Geiping et al., *Witches' Brew*, 2021; *Machine Unlearning Fails to Remove Data Poisoning Attacks*, algorithm 1.

    Of `restarts` random starts, normal with deviation epsilon, the one is kept whose φ over all poisons is the lowest
    at its end, measured without augmentation. Perturbations are projected to |δ| <= epsilon and to valid pixels at
    every step. The model's weights, modes and gradients stay as they are, and no generator of the caller's is drawn
    from. Of the poisons one batch at a time is on the model's device; a CPU gives the same bits every time.

    Args:
        model: trained on the clean data; used in evaluation mode, with the gradients of all parameters that need one.
        read: the poisons' clean images, not augmented, in normalised units; it is called for the same rows many times.
        labels: of the poisons, which they keep.
        target_images: that the attack aims at, in normalised units.
        intended: labels that it wants for them.
        epsilon: max norm in [0, 1] pixel space.
        mean: that the images were normalised with.
        std: the same.
        restarts: random starts.
        steps: of each restart, each over all poisons.
        batch_size: poisons on the device at a time.
        optimizer: "sign-adam" is Adam on the gradient's sign, its rate times 0.1 after 3/8, 5/8 and 7/8 of the steps,
            as in the public code of Witches' Brew; "adam" takes the gradient itself at a constant rate, as that of
            *Hidden Poison* does.
        lr: in normalised units; by default 0.1 · batch_size / 512 for "sign-adam", and 0.1 for "adam".
        over: "all" is equation 3 of *Machine Unlearning Fails to Remove Data Poisoning Attacks*, the cosine of the
            gradient of all poisons; "batch" matches each batch by itself, as the public code of Witches' Brew does,
            whose procedure that paper says it follows, and which saves a pass over the poisons. They are the same where
            P <= batch_size.
        augment: shift and mirror the perturbed images, drawn anew for every sample and step.
        shift: pixels at most each way, with 0 brought in; by default a quarter of the shorter side: 8 of CIFAR's 32.
        flip: mirror with probability 1/2.
        seed: of the starts and the augmentation.
        checkpoint: a file that a crafting under way is kept in, and resumed from; it is removed at the end.
        checkpoint_every: steps between two writings.
        progress: show a progress bar.

    Returns:
        Perturbations in normalised units, and what was minimised, by restart and step (the mean over the batches).
        The facts hold the settings, "unperturbed_loss" and, of each restart, "final_losses": φ as it is compared.

    Raises:
        DataError: no poison, no target, shapes or labels that do not fit each other or the model, a number out of
            range.
        ModelError: weights or a loss that are not finite, or a model without a trainable parameter.
        FileError: a checkpoint that is truncated, foreign, or of other settings, poisons or weights.
    """
    _check(labels, target_images, intended, checkpoint_every)
    side = min(target_images.shape[2:])
    shift = side / 4 if shift is None else shift
    lr = 0.1 * (batch_size / 512 if optimizer == "sign-adam" else 1) if lr is None else lr
    settings = MatchingSettings(epsilon, restarts, steps, batch_size, optimizer, lr, over, augment, shift, flip, seed)
    if augment and shift >= side:
        raise DataError(f"shift={shift} moves images of {side} pixels out of sight; choose a smaller one")
    poisons = Poisons(read, labels.cpu(), Box(epsilon, tuple(mean), tuple(std)), batch_size)
    shape = poisons.images(poisons.rows[0]).shape[1:]
    if shape != target_images.shape[1:]:
        raise DataError(f"the poisons are images of {list(shape)}, the targets of {list(target_images.shape[1:])}")

    # The fused kernels of attention have no second derivative.
    with evaluating(model), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        matching = Matching(model, target_images, intended, poisons)
        zeros = torch.zeros((len(labels), *shape), dtype=torch.promote_types(matching.dtype, torch.float32))
        unperturbed = matching.value(zeros)
        descent = MatchingDescent(settings, zeros, torch.Generator().manual_seed(seed))
        identity = {}
        if checkpoint is not None:
            identity = _checksums(model, poisons, target_images, intended)
            descent.load(checkpoint, identity)
        with bar(total=restarts * steps, label="crafting", unit="step", shown=progress) as shown:
            shown.update(descent.restart * steps + descent.step)
            while descent.restart < restarts:
                descent.begin(poisons.box)
                while descent.step < steps:
                    draws = draw(len(labels), shift, flip, descent.generator) if augment else None
                    descent.descend(*matching.slope(descent.delta, draws, over))
                    shown.update()
                    if checkpoint is not None and descent.step % checkpoint_every == 0:
                        descent.save(checkpoint, identity)
                descent.end(matching.value(descent.delta))
                if checkpoint is not None:
                    descent.save(checkpoint, identity)
    if checkpoint is not None:
        Path(checkpoint).unlink(missing_ok=True)
    facts = {**asdict(settings), "unperturbed_loss": unperturbed, "final_losses": descent.finals}
    return Crafted(descent.best.float(), descent.losses, descent.kept, facts)


def _check(labels: Tensor, target_images: Tensor, intended: Tensor, checkpoint_every: int) -> None:
    """Raises DataError where there is nothing to craft, or what belongs together differs in number."""
    if labels.ndim != 1 or not len(labels):
        raise DataError(f"labels has shape {list(labels.shape)}: pass one of each poison, and at least one")
    if target_images.ndim != 4 or not len(target_images) or list(intended.shape) != [len(target_images)]:
        raise DataError(
            f"target_images {list(target_images.shape)} and intended {list(intended.shape)} do not fit "
            "[T, C, H, W] and [T] with at least one target"
        )
    if checkpoint_every < 1:
        raise DataError(f"checkpoint_every={checkpoint_every} must be at least 1")


def _checksums(model: nn.Module, poisons: Poisons, target_images: Tensor, intended: Tensor) -> dict[str, int | str]:
    """The identity of a crafting: another one must not be resumed."""
    images = 0
    for rows in poisons.rows:
        images = checksum(poisons.images(rows), start=images)
    return {
        "mean and std": repr((poisons.box.mean, poisons.box.std)),
        "poisons": checksum(poisons.labels, start=images),
        "targets": checksum(target_images, intended),
        "model": f"{fingerprint(model)} {checksum(*model.buffers()):08x}",
    }
