"""Where the parameters are that FSDP2 gathers: in memory of their own, while the module they were sharded with runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ..distributed.fsdp import is_sharded, units


@dataclass
class Gathering:
    """The modules that were given to `fully_shard`, and the parameters that lie in them.

    places  module -> name within it -> name of the parameter
    """

    modules: list[nn.Module]
    places: Mapping[nn.Module, Mapping[str, str]]
    memory: dict[nn.Module, list[int]] = field(default_factory=dict)  # of the calls under way

    @classmethod
    def of(cls, model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> Gathering | None:
        """None for a model that is not sharded. All parameters must be in their shards."""
        modules, names = units(model), {parameter: name for name, parameter in parameters.items()}
        if not modules:
            return None
        return cls(
            modules,
            {
                module: own
                for module in model.modules()
                if (own := {local: names[p] for local, p in module._parameters.items() if p is not None and p in names})
            },
        )

    def hooks(self, by_memory: dict[int, list[str]]) -> list[Any]:
        """Keep the names by the address of the memory as parameters come and go; handles that end this."""

        def came(unit: nn.Module, args: Any) -> None:
            for module in unit.modules():
                for local, name in self.places.get(module, {}).items():
                    parameter = module._parameters[local]
                    if parameter is not None and not is_sharded(parameter):
                        address = parameter.untyped_storage().data_ptr()
                        by_memory[address] = [name]
                        self.memory.setdefault(unit, []).append(address)

        def gone(unit: nn.Module, args: Any, output: Any) -> None:
            for address in self.memory.pop(unit, ()):
                by_memory.pop(address, None)

        handles: list[Any] = []
        for unit in self.modules:
            handles += [unit.register_forward_pre_hook(came), unit.register_forward_hook(gone, always_call=True)]
        return handles
