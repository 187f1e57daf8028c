"""Plan of a pass: where the gradient per sample of each parameter comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from ..utils.model import ModelParameters
from .operation_rules import Operation
from .rules import rule_for


@dataclass(frozen=True)
class RulePlan:
    """How every trainable parameter of a model gets its gradient per sample.

    Attributes:
        layers: Layer with a rule -> name within it -> name of the parameter.
        leaves: Parameter [1, ...] that is substituted by a leaf [B, ...] -> its module and its name within it.
        operations: Parameters whose rules are those of the operations that read them.
        expanded: Layers that give one output for all samples, which is expanded to one for each.
        calls: Calls of layers and operations in a forward pass: which, and its rows to a sample.
        unused: Parameters that no operation reads.
        without_rule: Parameters that go through torch.func or a loop.
        own_leaves: The model makes leaves of its own, at which a backward pass may end as well.
        reads: The model reads values of the batch, so that other batches may take another path.
    """

    layers: Mapping[nn.Module, Mapping[str, str]]
    leaves: Mapping[str, tuple[nn.Module, str]]
    operations: frozenset[str] = frozenset()
    expanded: frozenset[nn.Module] = frozenset()
    calls: tuple[tuple[nn.Module | Operation, int], ...] = ()
    unused: tuple[str, ...] = ()
    without_rule: tuple[str, ...] = ()
    own_leaves: bool = False
    reads: bool = False


def candidates(model: ModelParameters, by_operation: bool) -> RulePlan:
    """Every layer of a kind that has a rule, and a leaf for every other parameter [1, ...] of one module.

    Args:
        model: The model.
        by_operation: The others may have rules by operation.
    """
    names = {parameter: name for name, parameter in model.parameters.items()}
    layers: dict[nn.Module, dict[str, str]] = {}
    owners: dict[str, list[tuple[nn.Module, str]]] = {name: [] for name in model.parameters}
    for module in model.module.modules():
        own = {local: names[p] for local, p in module._parameters.items() if p is not None and p in names}
        if own and rule_for(module):
            layers[module] = own
        for local, name in own.items():
            owners[name].append((module, local))
    leaves = {
        name: owners[name][0]
        for name, parameter in model.parameters.items()
        if len(owners[name]) == 1 and owners[name][0][0] not in layers and parameter.dim() > 1 and len(parameter) == 1
    }
    covered = {name for own in layers.values() for name in own.values()} | set(leaves)
    others = tuple(name for name in model.parameters if name not in covered)
    if by_operation:
        return RulePlan(layers, leaves, frozenset(others))
    return RulePlan(layers, leaves, without_rule=others)
