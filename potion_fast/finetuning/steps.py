"""Steps of a fine-tuning: gradients of a batch, of all ranks together, and the update that they make."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..distributed import Ranks
from ..errors import DataError
from ..utils.adapter import Adapter, mistakes_named, read_logits
from ..utils.halving import Halving
from ..utils.inputs import BatchInputs, map_tensors, rows_of
from ..utils.labels import single_labels
from ..utils.model import ModelParameters
from .batches import AS_GIVEN
from .learning_rate import tensor_scales

Losses = Callable[[Any, Tensor], Tensor]  # outputs, labels int64 [B] -> losses [B]

BETAS, EPSILON = (0.9, 0.999), 1e-8  # of Adam (Kingma and Ba, 2015)
DISTILLED, TEMPERATURE = 0.5, 2.0  # share of the other samples' loss that keeps the given model's predictions, their T
FIGURES = ("loss", "probabilities of the given labels", "samples with another")  # summed up with the gradients
FLOAT16_SCALE = 2.0**16  # of float16 losses at first; halved where gradients overflow


class Steps:
    """Adam whose step is relative: each tensor's rate is a share of the size of its weights, see `tensor_scales`.

    θ ← θ − r · size(θ⁰) · m̂ / (√v̂ + ε), m̂ and v̂ Adam's moments, θ⁰ the given weights: a rate r that needs to know
    neither the optimiser nor the rate that the model was trained with. No weight decay, no dropout; batch norms use the
    statistics that they have.

    Suspects are learnt by the cross-entropy of their new labels, the other samples half by that of their own labels and
    half by what the given model says of them (distillation, Hinton, Vinyals and Dean, 2015): T² KL(softmax(z⁰ / T) ‖
    softmax(z / T)) with the logits z and z⁰ of both models. Labels alone, which training has seen many times, cost a
    vision transformer that knows them by heart a point of clean accuracy; predictions alone cost a ResNet-9 half a
    point. With a loss of the caller's, that and the labels teach all samples.

    Args:
        parameters: Of the model that is fine-tuned, in evaluation mode.
        adapter: Calls the model and finds its logits.
        losses: Of samples, from outputs and labels; None for the cross-entropy.
        amp: Autocast's dtype, or None.
        compiled: Let torch.compile make the forward and backward pass.
        ranks: Whose gradients are added up.

    Attributes:
        given: The weights at the start, [n].
        moments: m and v, [2, n].
        done: Steps since the moments were zero.
        scale: Of the losses, against underflow; 1 but for float16.
    """

    def __init__(
        self,
        parameters: ModelParameters,
        adapter: Adapter,
        losses: Losses | None,
        amp: torch.dtype | None,
        compiled: bool,
        ranks: Ranks,
    ) -> None:
        self.parameters, self.adapter, self.losses, self.ranks = parameters, adapter, losses, ranks
        self.amp, self.device = amp, parameters.device
        self.model: Any = torch.compile(parameters.module, dynamic=False) if compiled else parameters.wrapped
        self.given = self.weights()
        self.scales = tensor_scales(parameters.tensors)
        self.moments = torch.zeros(2, parameters.numel, device=self.device)
        self.done = 0
        self.scale = FLOAT16_SCALE if amp == torch.float16 else 1.0
        self.halving = Halving()

    def outputs(self, inputs: BatchInputs) -> Any:
        """The model's outputs for a batch, float32 where they were in half precision."""
        inputs = map_tensors(inputs, lambda tensor: tensor.to(self.device, non_blocking=True))
        with (
            mistakes_named(inputs),
            torch.autocast(self.device.type, dtype=self.amp) if self.amp is not None else nullcontext(),
        ):
            outputs = self.adapter.call(self.model, inputs)
        half = isinstance(outputs, Tensor) and outputs.dtype in (torch.float16, torch.bfloat16)
        return outputs.float() if half else outputs

    def step(
        self, rate: float, batch: tuple[BatchInputs, Tensor] | None, new_labels: Tensor, total: int
    ) -> tuple[float, float | None]:
        """One step on a batch of all ranks.

        Args:
            rate: Relative.
            batch: This rank's part, inputs and labels as the training set gives them; None where there is none for it.
            new_labels: int64 [b] of this part; `AS_GIVEN` for the given ones.
            total: Samples of all ranks.

        Returns:
            The mean loss, and the mean probability of the given label for the samples with another, None where there
            is none. Where the loss or a gradient is not finite there is no step, and the loss is NaN.
        """
        while True:
            sums = torch.zeros(self.parameters.numel + len(FIGURES), device=self.device)
            with self.ranks.raising_together():
                if batch is not None:
                    self._add_gradients(sums, *batch, new_labels, total)
            self.ranks.all_reduce(sums)
            if bool(torch.isfinite(sums).all()):
                break
            if self.scale <= 1:
                return math.nan, None
            self.scale /= 2
        self._update(rate, sums[: -len(FIGURES)])
        loss, probability, changed = sums[-len(FIGURES) :].tolist()
        return loss, probability / changed if changed else None

    def _add_gradients(self, sums: Tensor, inputs: BatchInputs, labels: Tensor, new_labels: Tensor, total: int) -> None:
        places = torch.arange(len(labels))
        function = partial(self._gradients, labels=labels, new_labels=new_labels, total=total)
        sizes = [parameter.numel() for parameter in self.parameters.parameters.values()]
        parts = sums.split([*sizes, len(FIGURES)])
        for terms in self.halving(function, inputs, places):
            for part, term in zip(parts, terms, strict=True):
                part += term.reshape(-1)

    def _gradients(
        self, inputs: BatchInputs, places: Tensor, labels: Tensor, new_labels: Tensor, total: int
    ) -> list[Tensor]:
        """Gradients of a part of a batch, divided by the samples of the whole, and its `FIGURES`."""
        given, new = labels[places], new_labels[places]
        others = (new == AS_GIVEN).nonzero()[:, 0] if self.losses is None else torch.arange(0)
        said = self._given_predictions(rows_of(inputs, others)) if len(others) else None  # it changes the weights
        outputs = self.outputs(inputs)
        logits = read_logits(outputs, self.adapter)
        given = single_labels(logits, given).to(self.device)
        new = new.to(self.device)
        chosen = torch.where(new == AS_GIVEN, given, new)
        if self.losses is None:
            losses = F.cross_entropy(logits.float(), chosen, reduction="none")
            if said is not None:
                rows = others.to(self.device)
                distilled = divergence(said, logits[rows])
                losses = losses.index_copy(0, rows, (1 - DISTILLED) * losses[rows] + DISTILLED * distilled)
        else:
            losses = checked_losses(self.losses(outputs, chosen), len(chosen))
        loss = losses.sum() / total
        parameters = list(self.parameters.parameters.values())
        scaled = torch.autograd.grad(loss * self.scale, parameters, allow_unused=True)
        gradients = [
            p.new_zeros(p.shape) if g is None else (g.to_dense() if g.layout != torch.strided else g) / self.scale
            for p, g in zip(parameters, scaled, strict=True)
        ]
        changed = (chosen != given).float()
        probabilities = logits.detach().float().softmax(1).gather(1, given[:, None])[:, 0]
        figures = torch.stack([loss.detach(), (changed * probabilities).sum(), changed.sum()])
        return [*gradients, figures]

    def _given_predictions(self, inputs: BatchInputs) -> Tensor:
        """Probabilities [k, C] of the given model, at the temperature: its weights are put in place for the pass."""
        now = self.weights()
        self.put(self.given)
        try:
            with torch.no_grad():
                logits = read_logits(self.outputs(inputs), self.adapter)
        finally:
            self.put(now)
        return (logits.float() / TEMPERATURE).softmax(1)

    def _update(self, rate: float, gradient: Tensor) -> None:
        self.done += 1
        first, second = self.moments
        first.lerp_(gradient, 1 - BETAS[0])
        second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        corrections = [1 - beta**self.done for beta in BETAS]
        update = (first / corrections[0]) / ((second / corrections[1]).sqrt_() + EPSILON)
        tensors = self.parameters.tensors
        parts = update.split([tensor.numel() for tensor in tensors.values()])
        for (name, tensor), part in zip(tensors.items(), parts, strict=True):
            tensor.sub_(part.view(tensor.shape), alpha=rate * self.scales[name])

    def weights(self) -> Tensor:
        """A copy of the weights, [n]."""
        return torch.cat([tensor.reshape(-1) for tensor in self.parameters.tensors.values()])

    def put(self, weights: Tensor) -> None:
        """Put a copy of the weights back, [n]."""
        tensors = self.parameters.tensors.values()
        for tensor, part in zip(tensors, weights.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view(tensor.shape))


def divergence(p: Tensor, logits: Tensor) -> Tensor:
    """T² KL(p ‖ softmax(logits / T)) of samples, [k].

    Args:
        p: Probabilities [k, C] at the temperature T; a class with 0 may have a logit of -inf.
        logits: [k, C].
    """
    log_q = (logits.float() / TEMPERATURE).log_softmax(1).masked_fill(p == 0, 0.0)
    return TEMPERATURE**2 * (torch.special.xlogy(p, p) - p * log_q).sum(1)


def checked_losses(losses: object, samples: int) -> Tensor:
    """Losses of the caller's. Raises DataError unless they are a real one for each sample."""
    if not isinstance(losses, Tensor) or losses.shape != (samples,) or losses.is_complex():
        kind = f"a tensor {list(losses.shape)}" if isinstance(losses, Tensor) else f"a {type(losses).__name__}"
        raise DataError(
            f"loss gave {kind} for {samples} samples; it is called as loss(outputs, labels) and gives a real loss for "
            'each, [B], as cross_entropy(..., reduction="none") does'
        )
    return losses.float()
