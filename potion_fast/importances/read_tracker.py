"""Which parameters the operations of a forward pass read, and where."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..utils.model import ModelParameters
from .fsdp_gather import GatheredParameters
from .rule_plan import RulePlan


class ReadTracker(TorchDispatchMode):
    """Sees every operation of a forward pass, below autograd, and which parameters' memory it reads.

    Args:
        plan: The plan.
        model: The model.
        gathered: Where FSDP2 gathers the parameters.

    Attributes:
        outside: Parameters of layers of the plan that were read while another module, or none, was being called.
        read: Parameters that were read.
    """

    def __init__(self, plan: RulePlan, model: ModelParameters, gathered: GatheredParameters | None = None) -> None:
        super().__init__()
        self.plan, self.gathered, self.names = plan, gathered, set(model.parameters)
        self.outside: set[str] = set()
        self.read: set[str] = set()
        self.inside: list[nn.Module] = []  # layers, and modules with leaves, that are being called, innermost last
        self.by_memory: dict[int, list[str]] = {}
        for name, parameter in model.parameters.items() if gathered is None else ():
            self.by_memory.setdefault(parameter.untyped_storage().data_ptr(), []).append(name)
        self.handles: list[Any] = []

    def __enter__(self) -> ReadTracker:
        if self.gathered is not None:
            self.handles += self.gathered.hooks(self.by_memory)
        for layer in dict.fromkeys([*self.plan.layers, *(module for module, _ in self.plan.leaves.values())]):
            self.handles.append(layer.register_forward_pre_hook(lambda module, args: self.inside.append(module)))
            self.handles.append(layer.register_forward_hook(self._after, prepend=True))
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        for handle in self.handles:
            handle.remove()
        super().__exit__(*exception)

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        self.inside.pop()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        own = self.plan.layers.get(self.inside[-1], {}).values() if self.inside else ()
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor):
                for name in self.by_memory.get(memory_of(tensor), ()):
                    self.read.add(name)
                    elsewhere = name in self.plan.operations or name in self.plan.without_rule
                    if name not in own and not elsewhere and not self._is_substituted(name):
                        self.outside.add(name)
        return function(*args, **(kwargs or {}))

    def _is_substituted(self, name: str) -> bool:
        """Whether a leaf is in the parameter's place: always, but for one that is gathered as its module is called."""
        return name in self.plan.leaves and (self.gathered is None or self.plan.leaves[name][0] in self.inside)

    def unread(self) -> set[str]:
        """Parameters that no operation read: their gradient is 0."""
        return self.names - self.read


def memory_of(tensor: Tensor) -> int:
    """Where a tensor's values are; 0 where it has no memory of its own: sparse, or a wrapper of torch.func."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):
        return 0
