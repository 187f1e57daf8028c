"""Statistics of parameters without a rule: by torch.func, or group by group where that refuses the model."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vmap

from ..utils.adapter import DEFAULT, Adapter, functional_outputs
from ..utils.inputs import BatchInputs, tensors_of
from ..utils.model import ModelParameters
from .hooks import frozen
from .parameter_hooks import ParameterHooks
from .receiver import AccumulationTarget
from .rules import Accumulators

ELEMENTS = 1 << 24  # of gradients at a time
SAMPLES = 64  # at a time, whatever the group size: vmap keeps the activations of all of them
CHECKED = 2  # groups that are also computed by the loop, once
SAME, SAME_IN_FLOAT64 = 2e-2, 1e-6  # of a gradient: more than rounding (that of autocast), less than other mathematics
SLOW_SHARE, SLOW_SECONDS = 0.25, 20.0  # of a pass, from which on it is worth saying

ModelLosses = Callable[[Callable[[BatchInputs], Any], BatchInputs, Tensor | None], Tensor]


@dataclass
class Fallback:
    """Exact for any model, at the price of one more pass over the data. The rest of the model stays frozen.

    Attributes:
        model: The model.
        losses: (inputs -> outputs, inputs [m, ...], labels [m] or None) -> losses [m].
        adapter: Calls the model.
        hooks: Of parameters, called with their gradient of each group.
        by_vmap: torch.func is used; False once it has refused the model.
        seconds: Spent so far.
    """

    model: ModelParameters
    losses: ModelLosses
    adapter: Adapter = DEFAULT
    hooks: ParameterHooks | None = None
    by_vmap: bool = True
    seconds: float = 0.0
    checked: bool = False  # what torch.func gives is what the loop gives
    missing: dict[str, set[int]] = field(default_factory=dict)  # groups that a parameter has no gradient of

    def add(
        self,
        names: Collection[str],
        inputs: BatchInputs,
        labels: Tensor | None,
        groups: int,
        scale: float,
        target: AccumulationTarget,
    ) -> None:
        """Add the statistics of some parameters over a batch.

        Args:
            names: Of the parameters.
            inputs: [B, ...].
            labels: [B, ...] or None.
            groups: N, that divides B.
            scale: The gradients are those of scale · mean.
            target: Where they go.
        """
        started = self._clock()
        x = inputs.unflatten(0, (groups, -1))  # [N, m, ...]
        y = None if labels is None else labels.unflatten(0, (groups, -1))
        double = any(tensor.dtype == torch.float64 for tensor in tensors_of(inputs))
        ones = torch.ones(1, len(inputs), dtype=torch.float64 if double else torch.float32)
        factors = ones.to(inputs.device) if target.factors is None else target.factors
        numel = sum(self.model.parameters[name].numel() for name in names)
        step = max(1, min(SAMPLES * groups // len(inputs), ELEMENTS // numel))
        with frozen(self.model.module):
            for k, factor in enumerate(factors):
                rows = slice(None) if target.factors is None else slice(k, k + 1)
                c = factor.unflatten(0, (groups, -1)) * (scale / (len(inputs) // groups))  # [N, m]
                for start in range(0, groups, step):
                    part = slice(start, start + step)
                    weights = None if target.weights is None else target.weights[:, part]
                    sums = {name: target.sums[name][rows] for name in names}
                    accumulators = Accumulators(sums, target.square, weights)
                    gradients = self._gradients(names, x[part], None if y is None else y[part], c[part])
                    for name, gradient in gradients.items():
                        if self.hooks is not None and name in self.hooks.by_name:  # of one objective alone
                            changed = self._changed(name, gradient, scale if target.factors is None else 1.0)
                            accumulators._replace(weights=None).add(name, changed)
                        else:
                            accumulators.add(name, gradient)
        self.seconds += self._clock() - started

    def _clock(self) -> float:
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)
        return time.perf_counter()

    def _changed(self, name: str, gradients: Tensor, scale: float) -> Tensor:
        """The gradients of each group, unscaled, as the parameter's hooks change them: [N, *shape]."""
        assert self.hooks is not None
        missing = self.missing.get(name, ())
        return torch.stack(
            [
                gradient if n in missing else self.hooks.apply(name, gradient / scale)
                for n, gradient in enumerate(gradients)
            ]
        )

    def _gradients(self, names: Collection[str], x: BatchInputs, y: Tensor | None, c: Tensor) -> dict[str, Tensor]:
        """[N, *shape] of each name: the gradient of Σ_m c · loss for each of N groups."""
        if self.by_vmap:
            try:
                gradients = self._by_vmap(names, x, y, c)
                if self.checked or self._agrees_with_loop(gradients, names, x, y, c):
                    self.missing = {}
                    return gradients
                self.by_vmap = False
            except Exception:  # vmap has a dozen ways to refuse; whatever is wrong with the model itself comes again
                self.by_vmap = False
        return self._by_loop(names, x, y, c)

    def _agrees_with_loop(
        self, gradients: dict[str, Tensor], names: Collection[str], x: BatchInputs, y: Tensor | None, c: Tensor
    ) -> bool:
        """Whether the first groups have the same gradients by the loop, but for rounding.

        Under vmap each group has a batch norm's statistics, a buffer, or random numbers of its own.
        """
        few = slice(CHECKED)
        by_loop = self._by_loop(names, x[few], None if y is None else y[few], c[few])
        for name in names:
            self.model.parameters[name].requires_grad_(False)  # as it was before the loop
        largest = max(float(torch.linalg.vector_norm(gradient)) for gradient in by_loop.values())
        for name, right in by_loop.items():
            error = float(torch.linalg.vector_norm(gradients[name][few] - right))
            same = SAME_IN_FLOAT64 if right.dtype == torch.float64 else SAME
            if not error <= same * (float(torch.linalg.vector_norm(right)) + same * largest):
                return False
        self.checked = True
        return True

    def _by_vmap(self, names: Collection[str], x: BatchInputs, y: Tensor | None, c: Tensor) -> dict[str, Tensor]:
        def loss(values: dict[str, Tensor], x: BatchInputs, y: Tensor | None, c: Tensor) -> Tensor:
            return (self.losses(partial(functional_outputs, self.adapter, self.model.module, values), x, y) * c).sum()

        values = {name: self.model.parameters[name].detach() for name in names}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
            return vmap(grad(loss), in_dims=(None, 0, None if y is None else 0, 0))(values, x, y, c)

    def _by_loop(self, names: Collection[str], x: BatchInputs, y: Tensor | None, c: Tensor) -> dict[str, Tensor]:
        chosen = [self.model.parameters[name] for name in names]
        for parameter in chosen:
            parameter.requires_grad_(True)  # `frozen` puts it back
        call = partial(self.adapter.call, self.model.module)
        rows: dict[str, list[Tensor]] = {name: [] for name in names}
        self.missing = {name: set() for name in names}
        for n in range(len(x)):
            loss = (self.losses(call, x[n], None if y is None else y[n]) * c[n]).sum()
            gradients: Sequence[Tensor | None] = [None] * len(chosen)
            if loss.requires_grad:
                gradients = torch.autograd.grad(loss, chosen, allow_unused=True)
            for name, parameter, gradient in zip(names, chosen, gradients, strict=True):
                if gradient is None:  # no operation of this group reads it
                    self.missing[name].add(n)
                rows[name].append(torch.zeros_like(parameter) if gradient is None else dense(gradient))
        return {name: torch.stack(gradients) for name, gradients in rows.items()}


def dense(gradient: Tensor) -> Tensor:
    """The gradient itself, or that of an embedding with `sparse=True` written out."""
    return gradient.to_dense() if gradient.is_sparse else gradient


def slow_layers(model: ModelParameters, names: Collection[str], seconds: float, of: float) -> str | None:
    """What to say of the time that went into parameters without a rule; None where it is little.

    Args:
        model: The model.
        names: Of those parameters.
        seconds: That went into them.
        of: Seconds of the whole pass.
    """
    if seconds < SLOW_SECONDS or seconds < SLOW_SHARE * of:
        return None
    slow = {id(model.parameters[name]) for name in names}
    kinds = {
        type(module).__name__
        for module in model.module.modules()
        if any(id(parameter) in slow for parameter in module.parameters(recurse=False))
    }
    return (
        f"{100 * seconds / of:.0f} % of this pass, {seconds:.0f} of {of:.0f} seconds, went into the {len(names)} "
        f"parameters of {', '.join(sorted(kinds))} that no rule covers: their gradients took passes of their own, by "
        "torch.func or a loop over groups; see docs/add-a-rule.md"
    )
