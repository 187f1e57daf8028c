"""Registry of the rules, by the exact type of the layer: a subclass may compute anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import nn

from ...distributed.fsdp import class_of
from ...errors import ImportanceError
from .base import Rule

RULES: dict[type[nn.Module] | str, Rule] = {}

SomeRule = TypeVar("SomeRule", bound=type[Rule])


def register_rule(*layers: type[nn.Module] | str) -> Callable[[SomeRule], SomeRule]:
    """Class decorator that makes a rule known for some types of layers.

        @register_rule(nn.Linear)
        class LinearRule(Rule):
            names = ("weight", "bias")

            def gradients(self, module, io, names): ...

    Args:
        *layers: The layers' classes; or their full dotted names, as "timm.layers.norm.LayerNorm2d", so that nothing of
            another library is imported. A rule holds for these classes and not for their subclasses.

    Raises:
        ImportanceError: A layer that has a rule already, or that is neither a class of modules nor a dotted name; or
            what is decorated is no subclass of `Rule` that names its parameters.
    """
    for layer in layers:
        dotted = isinstance(layer, str) and "." in layer
        if not dotted and not (isinstance(layer, type) and issubclass(layer, nn.Module)):
            raise ImportanceError(f"a rule is registered for classes of modules or their dotted names, not {layer!r}")
        if layer in RULES:
            raise ImportanceError(f"{layer!r} has a rule already, {type(RULES[layer]).__name__}")

    def register(rule: SomeRule) -> SomeRule:
        if not (isinstance(rule, type) and issubclass(rule, Rule) and hasattr(rule, "names")):
            raise ImportanceError(f"{rule!r} is no subclass of Rule that names the layer's parameters")
        instance = rule()
        RULES.update(dict.fromkeys(layers, instance))
        return rule

    return register


def rule_for(module: nn.Module) -> Rule | None:
    """The rule of a layer; None where there is none, or where the layer's settings are beyond it."""
    kind = class_of(module)
    rule = RULES.get(kind) or RULES.get(f"{kind.__module__}.{kind.__qualname__}")
    changed = "forward" in vars(module)  # replaced on this one object
    own = {name for name, parameter in module._parameters.items() if parameter is not None}
    return rule if rule and not changed and own <= set(rule.names) and rule.covers(module) else None
