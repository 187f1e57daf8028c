"""Models that FSDP2 has sharded (`fully_shard`): this process's shards, and the ranks that hold the others."""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor, nn

from ..errors import ModelError
from .ranks import Ranks


def fsdp_modules(model: nn.Module) -> list[Any]:
    """The modules that were given to `fully_shard`: each gathers its own parameters when it is called."""
    fsdp_class = _class("torch.distributed.fsdp", "FSDPModule")
    return [module for module in model.modules() if isinstance(module, fsdp_class)]


def class_of(module: nn.Module) -> type[nn.Module]:
    """A module's class, as it was before `fully_shard` put one of its own in front."""
    kind = type(module)
    return kind.__bases__[-1] if isinstance(module, _class("torch.distributed.fsdp", "FSDPModule")) else kind


def local(parameter: Any) -> Tensor:
    """This process's shard of a parameter, or all of one that is not sharded; detached, in the parameter's memory."""
    return parameter.detach().to_local() if is_sharded(parameter) else parameter.detach()


def shard_ranks(parameters: dict[str, nn.Parameter]) -> Ranks:
    """The ranks that hold all the parameters together, each weight once; this process alone where none is sharded.

    Where every shard has replicas (a mesh of two dimensions), each set of replicas is worked on by itself.

    Raises:
        ModelError: Some parameters are sharded and others not, or not all among the same ranks.
    """
    groups = {name: _group(name, parameter) for name, parameter in parameters.items()}
    name, group = next(iter(groups.items()), ("", None))
    for other, its in groups.items():
        if its is not group:
            raise ModelError(f"parameters {name!r} and {other!r} are not sharded among the same ranks; shard all alike")
    return Ranks() if group is None else Ranks.of(group)


def _group(name: str, parameter: Any) -> Any:
    """The process group that a parameter is sharded over; None for one that is not."""
    if not is_sharded(parameter):
        return None
    placements = parameter.placements
    dimensions = [d for d, placement in enumerate(placements) if placement.is_shard()]
    if len(dimensions) != 1 or any(placement.is_partial() for placement in placements):
        raise ModelError(
            f"parameter {name!r} is placed as {placements}; shards in one dimension of a mesh are supported"
        )
    return parameter.device_mesh.get_group(dimensions[0])


def is_sharded(parameter: Any) -> bool:
    """Whether a parameter is a DTensor."""
    return isinstance(parameter, _class("torch.distributed.tensor", "DTensor"))


def _class(module: str, name: str) -> Any:
    """A class where its module is imported, as it is if there is an instance: importing it takes a second."""
    return getattr(sys.modules.get(module), name, ())
