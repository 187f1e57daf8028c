"""The loss of gradient matching, and its gradient in the perturbations, batch by batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ....errors import DataError, ModelError
from ....utils.model import ModelParameters
from .augmentation import shift_and_flip
from .mean_gradient import gradients
from .projection import Box

Over = Literal["batch", "all"]


@dataclass(frozen=True)
class Poisons:
    """The poisoned samples, read as they are needed.

    Attributes:
        read: their clean images, not augmented, in normalised units: rows -> [B, C, H, W].
        labels: int64 [P].
        box: that perturbations are projected to.
        batch_size: of images that are read at once.
    """

    read: Callable[[slice], Tensor]
    labels: Tensor
    box: Box
    batch_size: int

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def rows(self) -> list[slice]:
        """The batches, as slices of the samples."""
        starts = range(0, len(self), self.batch_size)
        return [slice(start, min(start + self.batch_size, len(self))) for start in starts]

    def images(self, rows: slice) -> Tensor:  # [B, C, H, W]
        """Read these images.

        Raises:
            DataError: images that do not fit the rows or the channels.
        """
        images = self.read(rows)
        wanted = [rows.stop - rows.start, len(self.box.std)]
        if images.ndim != 4 or list(images.shape[:2]) != wanted:
            raise DataError(f"read({rows}) gave images {list(images.shape)}, not {wanted} of height and width")
        return images

    def projected(self, perturbations: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Rows, images and perturbations [B, C, H, W] of each batch; `perturbations` [P, C, H, W] is projected."""
        for rows in self.rows:
            images = self.images(rows).to(perturbations.dtype)
            perturbations[rows] = self.box.project(perturbations[rows], images)
            yield rows, images, perturbations[rows]


class Matching:
    """The loss φ = 1 − cos(g_target, Σ_i g_i) of gradient matching.

    g_target is the gradient of the targets' mean cross-entropy with the intended labels, g_i of sample i's with its own
    (*Machine Unlearning Fails to Remove Data Poisoning Attacks*, equation 3). Gradients are in all parameters that
    require one; the model is in evaluation mode, and stays so until it is done.

    Raises:
        ModelError: a model without such a parameter, or whose weights or target gradient are not finite.
        DataError: labels that are none of its classes.
    """

    def __init__(
        self,
        model: nn.Module,
        target_images: Tensor,  # [T, C, H, W]
        intended: Tensor,  # [T] int64
        poisons: Poisons,
    ) -> None:
        trained = ModelParameters(model)
        if not trained.parameters:
            raise ModelError("the model has no parameter that requires a gradient: there is none to match")
        self.model, self.poisons = model, poisons
        trained.check()
        self.parameters = list(trained.parameters.values())
        self.device, self.dtype = self.parameters[0].device, self.parameters[0].dtype
        with torch.no_grad():
            classes = model(target_images.to(self.device, self.dtype)).shape[1]
        for name, labels in {"intended": intended, "labels": poisons.labels}.items():
            if labels.min() < 0 or labels.max() >= classes:
                raise DataError(
                    f"{name} holds labels {labels.min()} to {labels.max()}; the model has classes 0 to {classes - 1}"
                )
        target = self._gradients(target_images, intended)
        length = _norm(target)
        if not 0 < length.item() < math.inf:
            raise ModelError(f"the target's gradient has norm {length:.3g}: there is no direction to match")
        self.direction = [gradient / length for gradient in target]

    def value(self, perturbations: Tensor) -> float:
        """φ of all poisons, without augmentation; `perturbations` [P, C, H, W] is projected."""
        return self._finite(self._loss(self._sum(perturbations, None)))

    def slope(
        self,
        perturbations: Tensor,  # [P, C, H, W], which is projected
        draws: Tensor | None,  # [P, 3], of the augmentation
        over: Over,
    ) -> tuple[float, Tensor]:  # [P, C, H, W]
        """What is minimised, and its gradient in the perturbations.

        Args:
            perturbations: of all poisons; projected in place.
            draws: of the augmentation; None: no augmentation.
            over: "batch": φ of each batch by itself, and of those the mean (the gradient is each batch's own); "all": φ
                of all poisons. That is g_δ = ∂<v, Σ_i g_i>/∂δ with v = ∂φ/∂Σ_i g_i held fixed, so that one pass over
                the batches gives v, and another one g_δ: no graph is larger than a batch's.

        Returns:
            φ, and its gradient.
        """
        objective, values = self._loss, []
        streamed = over == "all" and len(self.poisons.rows) > 1
        if streamed:
            total = [gradient.requires_grad_() for gradient in self._sum(perturbations, draws)]
            loss = self._loss(total)
            values.append(self._finite(loss))
            cotangent = torch.autograd.grad(loss, total)

            def objective(gradients: Sequence[Tensor]) -> Tensor:
                return _dot(cotangent, gradients)

        slope = torch.empty_like(perturbations)
        for rows, images, delta in self.poisons.projected(perturbations):
            delta = delta.to(self.device).requires_grad_()
            inputs = _augmented(images.to(self.device) + delta, draws, rows)
            value = objective(self._gradients(inputs, self.poisons.labels[rows], create_graph=True))
            slope[rows] = torch.autograd.grad(value, delta)[0].to(slope.device)
            if not streamed:
                values.append(self._finite(value))
        return sum(values) / len(values), slope

    def _sum(self, perturbations: Tensor, draws: Tensor | None) -> list[Tensor]:
        """Σ_i g_i."""
        total = [torch.zeros_like(parameter) for parameter in self.direction]
        for rows, images, delta in self.poisons.projected(perturbations):
            inputs = _augmented((images + delta).to(self.device), draws, rows)
            for sums, gradient in zip(total, self._gradients(inputs, self.poisons.labels[rows]), strict=True):
                sums += gradient
        return total

    def _gradients(self, inputs: Tensor, labels: Tensor, create_graph: bool = False) -> tuple[Tensor, ...]:
        return gradients(self.model, self.parameters, inputs, labels, create_graph)

    def _loss(self, gradients: Sequence[Tensor]) -> Tensor:
        return 1 - _dot(self.direction, gradients) / _norm(gradients)

    @staticmethod
    def _finite(loss: Tensor) -> float:
        value = loss.item()
        if not math.isfinite(value):
            raise ModelError(
                f"the matching loss is {value}: the poisons' gradient is 0 or not finite; look for images that are not "
                "finite, or for a model that fits them so closely that its cross-entropy has no gradient"
            )
        return value


def _augmented(images: Tensor, draws: Tensor | None, rows: slice) -> Tensor:  # [B, C, H, W]
    return images if draws is None else shift_and_flip(images, draws[rows])


def _dot(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    return torch.stack([(a * b).sum() for a, b in zip(first, second, strict=True)]).sum()


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([tensor.square().sum() for tensor in tensors]).sum().sqrt()
