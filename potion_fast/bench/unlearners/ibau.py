"""I-BAU: unlearning of the worst change that all images share, by implicit gradients (Zeng et al., 2022)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from typing_extensions import override

from ...errors import DataError
from ...utils.copies import copy_model
from .base import Loaders, Unlearned, Unlearner
from .clean_data import clean_samples
from .paired_batches import labelled
from .registry import register_unlearner


@register_unlearner("i-bau")
class IBAU(Unlearner):
    """min_θ max_{‖δ‖₂ ≤ C} mean L(f_θ(x + δ), y) over the clean samples, with one δ for all of them.

    *Adversarial Unlearning of Backdoors via Implicit Hypergradient*, equation 1. Each round finds δ from zero, by
    `ascents` steps of Adam on the first batch, each projected onto the ball; then every batch makes a step of Adam on
    θ with the hypergradient ∇_θ L + (∂Φ/∂θ)ᵀ (I − ∂Φ/∂δ)⁻ᵀ ∇_δ L, where Φ(δ) = δ + η ∇_δ L − 2 η λ δ is the step that δ
    is a fixed point of, and the inverse is the sum of the first `terms` of its series. The model is in evaluation mode:
    batch norms keep their statistics. Of a text with room for noise δ moves the embedded tokens; token ids cannot be
    moved: a DataError.

    Attributes:
        rounds: of both.
        lr: of θ.
        radius: C, in units of the normalised images.
        ascents: steps of δ in a round.
        ascent_lr: of them.
        terms: of the series.
        eta: η.
        decay: λ.
    """

    rounds: PositiveInt = 5
    lr: PositiveFloat = 1e-4
    radius: PositiveFloat = 10.0
    ascents: PositiveInt = 5
    ascent_lr: PositiveFloat = 10.0
    terms: PositiveInt = 5
    eta: PositiveFloat = 0.1
    decay: NonNegativeFloat = 1e-3

    @override
    def unlearn(self, model: nn.Module, loaders: Loaders, progress: bool) -> Unlearned:
        start, healed, loader = time.perf_counter(), copy_model(model).eval(), clean_samples(loaders, self.name)
        parameters = [parameter for parameter in healed.parameters() if parameter.requires_grad]
        optimizer, steps = torch.optim.Adam(parameters, lr=self.lr), 0
        device = parameters[0].device

        def loss(batch: tuple[Tensor, Tensor], change: Tensor) -> Tensor:
            with sdpa_kernel(SDPBackend.MATH):  # the other kernels of attention have no second derivative
                return F.cross_entropy(healed(batch[0] + change), batch[1])

        for _ in range(self.rounds):
            change: Tensor | None = None
            for raw in loader:
                inputs, labels = labelled(raw)
                if not inputs.is_floating_point():
                    raise DataError(
                        f"{self.name} changes its inputs, and token ids cannot be moved; read the texts with room for "
                        "noise, [B, L, 1 + D]"
                    )
                batch = inputs.to(device), labels.to(device)
                if change is None:
                    change = self._worst(loss, batch)
                    steps += self.ascents
                gradients = self.hypergradient(loss, batch, change, parameters)
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.grad = gradient
                optimizer.step()
                steps += 1
        optimizer.zero_grad()
        return Unlearned(
            model=healed,
            method=self.name,
            gradient_steps=steps,
            seconds={"training": time.perf_counter() - start},
            learning_rate=self.lr,
        )

    def _worst(self, loss: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
        """δ, from zero."""
        change = torch.zeros_like(batch[0][:1], requires_grad=True)
        ascent = torch.optim.Adam([change], lr=self.ascent_lr)
        for _ in range(self.ascents):
            objective = self.decay * change.square().sum() - loss(batch, change)
            (change.grad,) = torch.autograd.grad(objective, [change])
            ascent.step()
            with torch.no_grad():
                change.mul_((self.radius / change.norm().clamp(min=1e-12)).clamp(max=1.0))
        return change.detach()

    def hypergradient(
        self, loss: Any, batch: tuple[Tensor, Tensor], change: Tensor, parameters: Sequence[nn.Parameter]
    ) -> list[Tensor]:
        """The gradient of the loss at δ as θ moves δ along.

        Args:
            loss: of a batch and a change.
            batch: inputs [B, ...] and labels [B].
            change: δ, [1, ...].
            parameters: θ.
        """
        change = change.detach().requires_grad_()
        value = loss(batch, change)
        (slope,) = torch.autograd.grad(value, [change], create_graph=True)
        mapped = change + self.eta * (slope - 2 * self.decay * change)
        direct = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        outer, series = slope.detach(), torch.zeros_like(change)
        for _ in range(self.terms):
            (carried,) = torch.autograd.grad(mapped, [change], grad_outputs=series, retain_graph=True)
            series = carried + outer
        indirect = torch.autograd.grad(mapped, parameters, grad_outputs=series, allow_unused=True)
        return [
            sum((part for part in parts if part is not None), torch.zeros_like(parameter))
            for parameter, *parts in zip(parameters, direct, indirect, strict=True)
        ]
