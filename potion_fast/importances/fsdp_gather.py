"""Memory of the parameters that FSDP2 gathers: their own, while the module they were sharded with runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ..distributed.fsdp import is_sharded
from ..utils.model import ModelParameters


@dataclass
class GatheredParameters:
    """The modules that were given to `fully_shard`, and the parameters that lie in them.

    Attributes:
        modules: Those modules.
        places: Module -> name within it -> name of the parameter.
        memory: Addresses of the gathered parameters, by the modules that are being called.
    """

    modules: list[nn.Module]
    places: Mapping[nn.Module, Mapping[str, str]]
    memory: dict[nn.Module, list[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, model: ModelParameters) -> GatheredParameters | None:
        """None for a model that is not sharded. All parameters must be in their shards."""
        if not model.sharded:
            return None
        names = {parameter: name for name, parameter in model.parameters.items()}
        return cls(
            model.fsdp_modules,
            {
                module: own
                for module in model.module.modules()
                if (own := {local: names[p] for local, p in module._parameters.items() if p is not None and p in names})
            },
        )

    def hooks(self, by_memory: dict[int, list[str]]) -> list[Any]:
        """Keep the names by the address of the memory as parameters are gathered and released.

        Returns:
            Handles of the hooks that do it.
        """

        def gathered(unit: nn.Module, args: Any) -> None:
            for module in unit.modules():
                for local, name in self.places.get(module, {}).items():
                    parameter = module._parameters[local]
                    if parameter is not None and not is_sharded(parameter):
                        address = parameter.untyped_storage().data_ptr()
                        by_memory[address] = [name]
                        self.memory.setdefault(unit, []).append(address)

        def released(unit: nn.Module, args: Any, output: Any) -> None:
            for address in self.memory.pop(unit, ()):
                by_memory.pop(address, None)

        handles: list[Any] = []
        for unit in self.modules:
            handles += [unit.register_forward_pre_hook(gathered)]
            handles += [unit.register_forward_hook(released, always_call=True)]
        return handles
