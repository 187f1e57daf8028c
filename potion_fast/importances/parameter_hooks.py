"""Gradient hooks of parameters: off while a pass runs, and applied to the gradient of each group when it is complete.

`parameter.register_hook` takes what autograd computes in one backward pass for the gradient of a step. In a pass over
many groups that is neither one group's gradient, nor unscaled, nor of one objective: so a hook is called with each
group's gradient instead, in the order of the groups, as it would be by one backward pass for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ImportanceError
from ..utils.model import ModelParameters


class ParameterHooks:
    """The hooks of a model's trainable parameters.

    Args:
        model: The model.

    Raises:
        ImportanceError: A parameter has a hook that waits for `.grad`, which a pass does not write.

    Attributes:
        by_name: Hooks in the order of their registration, by the names of the parameters that have some.
        paused: No hook is called: gradients are computed that will be undone.
    """

    def __init__(self, model: ModelParameters) -> None:
        self.model, self.paused = model, False
        self.by_name: dict[str, list[Callable[[Tensor], Tensor | None]]] = {}
        for name, parameter in model.parameters.items():
            if getattr(parameter, "_post_accumulate_grad_hooks", None):
                raise ImportanceError(
                    f"parameter {name!r} has a hook for its accumulated gradient (register_post_accumulate_grad_hook), "
                    "and a pass accumulates none in .grad; remove it, or use register_hook"
                )
            if hooks := parameter._backward_hooks:
                self.by_name[name] = list(hooks.values())

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """No hook is called by autograd in the block; handles stay valid."""
        kept: list[tuple[Any, Mapping[int, Any]]] = []
        for name in self.by_name:
            hooks: Any = self.model.parameters[name]._backward_hooks
            kept.append((hooks, dict(hooks)))
            hooks.clear()
        try:
            yield
        finally:
            for hooks, entries in kept:
                hooks.update(entries)

    def apply(self, name: str, gradient: Tensor) -> Tensor:
        """What a parameter's hooks make of a gradient, in its shape and the dtype that it was given in."""
        if self.paused or name not in self.by_name:
            return gradient
        given = gradient.dtype
        gradient = gradient.to(self.model.parameters[name].dtype)
        with torch.no_grad():
            for hook in self.by_name[name]:
                result = hook(gradient)
                gradient = gradient if result is None else result
        return gradient.to(given)


def has_backward_hooks(module: nn.Module) -> bool:
    """Whether some module has a hook of its backward pass."""
    return any(part._backward_hooks or part._backward_pre_hooks for part in module.modules())
