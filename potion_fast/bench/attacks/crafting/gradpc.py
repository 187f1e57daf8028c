"""Gradient-based parameter corruption: the worst weights near a model's own, for gradient canceling to aim at."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....errors import DataError, ModelError
from ....utils.batches import inputs_and_labels
from ....utils.copies import copy_model
from ....utils.model import ModelParameters
from ....utils.progress import bar
from ...training.train import seeded


def gradpc(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    budget: float = 1.0,
    lr: float = 1.0,
    epochs: int = 1,
    seed: int = 0,
    progress: bool = False,
) -> nn.Module:
    """A copy of the model whose parameters θ + a are bad: the loss is ascended within ‖a‖₂ ≤ budget.

    Sun et al., *Exploring the Vulnerability of Deep Neural Networks: A Study of Parameter Corruption*, 2020; *Machine
    Unlearning Fails to Remove Data Poisoning Attacks*, appendix C.1.3. For each batch, a ← Π(a + lr · g / ‖g‖₂), where
    g is the gradient of the batch's mean cross-entropy at θ + a; the norm and the projection Π are those of all
    trainable parameters together. A batch whose gradient is 0 changes nothing.

    The forward passes are in training mode, as in the public code. So the running statistics of batch norms follow the
    corrupted weights, as they would in a training that ends there; they are no parameters, and no part of the budget.

    The copy comes in evaluation mode, on the model's device. The caller's model stays as it is, and so do the global
    generators of random numbers.

    Args:
        model: trained on the clean data.
        loader: batches (input [B, ...], label int64 [B], ...).
        budget: ε_w, an L2 distance; that of *Machine Unlearning Fails to Remove Data Poisoning Attacks* is 1.
        lr: length of a step; at the default the first step reaches the sphere already.
        epochs: passes over the loader; the public code's is 1.
        seed: of dropout, and of a loader that draws from the global generators.
        progress: show a progress bar.

    Returns:
        The copy, in evaluation mode.

    Raises:
        DataError: no batch, no labels, or a number out of range.
        ModelError: weights or gradients that are not finite, or a model without a trainable parameter.
    """
    if not (0 < budget < math.inf and 0 < lr < math.inf and epochs >= 1):
        raise DataError(f"budget={budget} and lr={lr} must be above 0 and finite, and epochs={epochs} at least 1")
    if not ModelParameters(model).parameters:
        raise ModelError("the model has no parameter that requires a gradient: there is none to corrupt")
    model = copy_model(model).train()
    trained = ModelParameters(model)
    trained.check()
    parameters = list(trained.parameters.values())
    device = parameters[0].device
    clean = [parameter.detach().clone() for parameter in parameters]
    perturbation = [torch.zeros_like(parameter) for parameter in clean]  # a
    steps = 0
    with seeded(seed), torch.enable_grad():
        for _ in range(epochs):
            for batch in bar(loader, label="corrupting parameters", unit="batch", shown=progress):
                inputs, labels = inputs_and_labels(batch)
                if labels is None:
                    raise DataError("the loader gives no labels; GradPC ascends the loss of the true ones")
                loss = F.cross_entropy(model(inputs.to(device)), labels.to(device))
                gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
                _ascend(perturbation, gradients, lr, budget)
                with torch.no_grad():
                    for parameter, start, change in zip(parameters, clean, perturbation, strict=True):
                        parameter.copy_(start + change)
                steps += 1
    if not steps:
        raise DataError("the loader gave no batch; GradPC needs at least one")
    return model.eval()


def _ascend(perturbation: list[Tensor], gradients: tuple[Tensor, ...], lr: float, budget: float) -> None:
    """Take the step a ← Π(a + lr · g / ‖g‖₂), in place."""
    length = norm(gradients)
    if not math.isfinite(length):
        raise ModelError("the gradient of the training loss is not finite; look for such images or weights")
    if length == 0:
        return
    for change, gradient in zip(perturbation, gradients, strict=True):
        change.add_(gradient, alpha=lr / length)
    reached = norm(perturbation)
    if reached > budget:
        for change in perturbation:
            change.mul_(budget / reached)


def norm(tensors: Iterable[Tensor]) -> float:
    """L2 norm of all these together, summed in float64."""
    return math.sqrt(float(torch.stack([tensor.detach().double().square().sum() for tensor in tensors]).sum()))
