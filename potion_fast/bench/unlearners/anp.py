"""ANP: channels that a small change of the weights turns against the model are pruned (Wu and Wang, 2021)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from typing_extensions import override

from ...errors import ModelError
from ...utils.copies import copy_model
from .base import Loaders, Unlearned, Unlearner
from .clean_data import clean_samples
from .paired_batches import endless, labelled
from .registry import register_unlearner


@dataclass(frozen=True)
class Pruned:
    """What was pruned.

    Attributes:
        channels: how many.
        of: how many there are.
    """

    channels: int
    of: int


@register_unlearner("anp")
class ANP(Unlearner):
    """min_m α L(m ⊙ w, b) + (1 − α) max_{|δ|, |ξ| ≤ ε} L((m + δ) ⊙ w, (1 + ξ) ⊙ b); channels with m < t become zero.

    *Adversarial Neuron Pruning*, equation 4: w and b are the gains and shifts of the model's norms, a mask m in [0, 1]
    for each channel; L is the cross-entropy on a batch of the clean samples. δ and ξ start at random within ±ε and take
    one step of ε by the gradient's sign; here they are then held within ±ε, which the published code does not do. Batch
    norms use each batch's statistics, and keep those that they had. A pruned channel's gain and shift are both zero.

    Attributes:
        iterations: steps of the masks.
        alpha: α.
        epsilon: ε.
        lr: of SGD on the masks.
        momentum: of it.
        threshold: t.
    """

    iterations: PositiveInt = 2000
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.2
    epsilon: NonNegativeFloat = 0.4
    lr: PositiveFloat = 0.2
    momentum: NonNegativeFloat = 0.9
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.2

    @override
    def unlearn(self, model: nn.Module, loaders: Loaders, progress: bool) -> Unlearned:
        start, loader, pruned = time.perf_counter(), clean_samples(loaders, self.name), copy_model(model)
        names = [name for name, module in pruned.named_modules() if _is_norm(module)]
        if not names:
            raise ModelError(f"{self.name} masks the channels of norms with gains, and the model has none")
        norms: list[Any] = [pruned.get_submodule(name) for name in names]
        buffers = {name: buffer.clone() for name, buffer in pruned.named_buffers()}
        masks = [torch.ones_like(norm.weight, requires_grad=True) for norm in norms]
        optimizer = torch.optim.SGD(masks, lr=self.lr, momentum=self.momentum)
        device = next(pruned.parameters()).device
        pruned.train().requires_grad_(False)

        def loss(batch: tuple[Tensor, Tensor], gains: Iterable[Tensor], shifts: Iterable[Tensor]) -> Tensor:
            values = {}
            for name, norm, gain, shift in zip(names, norms, gains, shifts, strict=True):
                values[f"{name}.weight"] = gain * norm.weight
                if norm.bias is not None:
                    values[f"{name}.bias"] = shift * norm.bias
            return F.cross_entropy(functional_call(pruned, values, (batch[0],)), batch[1])

        ones = [torch.ones_like(mask) for mask in masks]
        batches = _moved(endless(loader), device)
        for _ in range(self.iterations):
            batch = next(batches)
            changes, turned = self._worst(loss, batch, masks, ones)
            moved = [mask + change for mask, change in zip(masks, changes, strict=True)]
            value = self.alpha * loss(batch, masks, ones) + (1 - self.alpha) * loss(batch, moved, turned)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            with torch.no_grad():
                for mask in masks:
                    mask.clamp_(0, 1)
        removed = [mask.detach() < self.threshold for mask in masks]
        with torch.no_grad():
            for name, buffer in pruned.named_buffers():
                buffer.copy_(buffers[name])
            for norm, gone in zip(norms, removed, strict=True):
                norm.weight[gone] = 0
                if norm.bias is not None:
                    norm.bias[gone] = 0
        for parameter, theirs in zip(pruned.parameters(), model.parameters(), strict=True):
            parameter.requires_grad_(theirs.requires_grad)
        kept = Pruned(sum(int(gone.sum()) for gone in removed), sum(len(gone) for gone in removed))
        return Unlearned(
            model=pruned.eval(),
            method=self.name,
            trace=[kept],
            kept=kept,
            gradient_steps=3 * self.iterations,
            seconds={"pruning": time.perf_counter() - start},
        )

    def _worst(
        self, loss: Any, batch: tuple[Tensor, Tensor], masks: list[Tensor], ones: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """δ, and 1 + ξ, after one step of their own."""
        noise = [
            [torch.empty_like(one).uniform_(-self.epsilon, self.epsilon).requires_grad_() for one in ones]
            for _ in range(2)
        ]
        gains = [mask.detach() + change for mask, change in zip(masks, noise[0], strict=True)]
        shifts = [one + change for one, change in zip(ones, noise[1], strict=True)]
        found = torch.autograd.grad(loss(batch, gains, shifts), [*noise[0], *noise[1]], allow_unused=True)
        worst = [
            (change.detach() + self.epsilon * (0 if slope is None else slope.sign())).clamp(-self.epsilon, self.epsilon)
            for change, slope in zip([*noise[0], *noise[1]], found, strict=True)
        ]
        return worst[: len(ones)], [1 + change for change in worst[len(ones) :]]


def _is_norm(module: nn.Module) -> bool:
    """Whether it is a norm with a gain for each channel."""
    kinds = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)
    weight = getattr(module, "weight", None)
    return isinstance(module, kinds) and isinstance(weight, Tensor) and weight.ndim == 1


def _moved(batches: Iterable[Any], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and labels on a device."""
    for batch in batches:
        inputs, labels = labelled(batch)
        yield inputs.to(device), labels.to(device)
