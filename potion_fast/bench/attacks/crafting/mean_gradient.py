"""The gradient of a training on clean and poisoned samples together, and how it changes with the perturbations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....errors import DataError, ModelError
from ....utils.model import ModelParameters

Which = Literal["all", "first"]  # of the trainable parameters, in the model's order


def chosen(model: nn.Module, parameters: Which) -> list[nn.Parameter]:
    """The parameters that gradients are taken in.

    Args:
        model: whose they are.
        parameters: "all" that require a gradient, or the "first" of them.

    Raises:
        ModelError: there is none, or one that is not finite.
        DataError: an unknown choice.
    """
    if parameters not in ("all", "first"):
        raise DataError(f"parameters must be 'all' or 'first', not {parameters!r}")
    trained = ModelParameters(model)
    if not trained.parameters:
        raise ModelError("the model has no parameter that requires a gradient: there is none to cancel")
    trained.check()
    every = list(trained.parameters.values())
    return every if parameters == "all" else every[:1]


def gradients(
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    images: Tensor,  # [B, C, H, W]
    labels: Tensor,  # [B]
    create_graph: bool = False,
) -> tuple[Tensor, ...]:
    """Gradients of the summed cross-entropy, in each parameter; 0 in one that the model does not use."""
    outputs = model(images.to(parameters[0].device, parameters[0].dtype))
    loss = F.cross_entropy(outputs, labels.to(outputs.device), reduction="sum")
    return torch.autograd.grad(loss, parameters, create_graph=create_graph, materialize_grads=True)


@dataclass(frozen=True)
class MeanGradient:
    """G(δ) = (S_c + Σ_i g_i(δ_i)) / (n + P): the mean gradient of n clean samples, whose sum is S_c, and P poisons.

    The sums are in float64. The model must be in evaluation mode until it is done.

    Attributes:
        model: whose gradients they are.
        parameters: that the gradients are taken in.
        clean: S_c, in their shapes.
        samples: n + P.
        read: the poisons' images without perturbations: rows -> [B, C, H, W].
        labels: int64 [P].
        batch_size: of images that are read at once.

    Raises:
        DataError: no poison, or sums, images or labels that do not fit.
        ModelError: sums that are not finite.
    """

    model: nn.Module
    parameters: Sequence[nn.Parameter]
    clean: Sequence[Tensor]
    samples: int
    read: Callable[[slice], Tensor]
    labels: Tensor
    batch_size: int

    def __post_init__(self) -> None:
        if self.labels.ndim != 1 or not len(self.labels):
            raise DataError(f"labels has shape {list(self.labels.shape)}: pass one of each poison, and at least one")
        shapes = [[list(tensor.shape) for tensor in tensors] for tensors in (self.clean, self.parameters)]
        if shapes[0] != shapes[1]:
            raise DataError(
                f"the clean gradient has tensors of shapes {shapes[0]}, the parameters {shapes[1]}; "
                "take it with summed_gradient of the same model and parameters"
            )
        if not all(tensor.isfinite().all() for tensor in self.clean):
            raise ModelError("the clean gradient is not finite; look for images that are not")
        with torch.no_grad():
            images = next(self.images())[1][:1]
            classes = self.model(images.to(self.parameters[0].device, self.parameters[0].dtype)).shape[1]
        if self.labels.min() < 0 or self.labels.max() >= classes:
            raise DataError(
                f"labels holds {self.labels.min()} to {self.labels.max()}; the model has classes 0 to {classes - 1}"
            )

    def images(self) -> Iterator[tuple[slice, Tensor]]:
        """Rows and images [B, C, H, W], without perturbations.

        Raises:
            DataError: images that do not fit the rows.
        """
        for first in range(0, len(self.labels), self.batch_size):
            rows = slice(first, min(first + self.batch_size, len(self.labels)))
            images = self.read(rows)
            if images.ndim != 4 or len(images) != rows.stop - rows.start:
                raise DataError(
                    f"read({rows}) gave images {list(images.shape)}, not {rows.stop - rows.start} of [C, H, W]"
                )
            yield rows, images

    def gradient(
        self,
        delta: Tensor,  # [P, C, H, W]
    ) -> list[Tensor]:  # float64
        """The mean gradient G, in the parameters' shapes."""
        device = self.parameters[0].device
        total = [tensor.to(device, torch.float64, copy=True) for tensor in self.clean]
        for rows, images in self.images():
            perturbed = images.to(delta.dtype) + delta[rows]
            for sums, gradient in zip(
                total, gradients(self.model, self.parameters, perturbed, self.labels[rows]), strict=True
            ):
                sums += gradient
        return [sums / self.samples for sums in total]

    def slope(
        self,
        delta: Tensor,  # [P, C, H, W]
        gradient: Sequence[Tensor],  # G
    ) -> Tensor:  # [P, C, H, W]
        """The gradient of 1/2 ‖G‖² in the perturbations δ.

        Of sample i it is ∂<G, g_i>/∂δ_i / (n + P) with G held fixed, so that no graph is larger than a batch's.
        """
        fixed = [(tensor / self.samples).to(self.parameters[0].dtype) for tensor in gradient]
        slope = torch.empty_like(delta)
        for rows, images in self.images():
            perturbed = (images.to(delta.dtype) + delta[rows]).to(fixed[0].device).requires_grad_()
            of_batch = gradients(self.model, self.parameters, perturbed, self.labels[rows], create_graph=True)
            inner = torch.stack([(a * b).sum() for a, b in zip(fixed, of_batch, strict=True)]).sum()
            slope[rows] = torch.autograd.grad(inner, perturbed)[0].to(slope.device)
        return slope
