"""Ranks of a process group, and their collectives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import ImportanceError, ModelError, PotionError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Group: TypeAlias = "ProcessGroup | Literal[False] | None"


@dataclass(frozen=True)
class Ranks:
    """This process among those that work together; alone by default, and then nothing is exchanged.

    Attributes:
        group: The process group; None for this process alone.
        rank: This process's, from 0.
        size: Number of processes.
    """

    group: ProcessGroup | None = None
    rank: int = 0
    size: int = 1

    @classmethod
    def of(cls, group: Group) -> Ranks:
        """The ranks of a group.

        Args:
            group: None for the default group where there is one; False for this process alone.

        Raises:
            ImportanceError: This process is not in the group.
        """
        if group is False or not initialised():
            return cls()
        chosen = dist.group.WORLD if group is None else group
        rank = dist.get_rank(chosen)
        if rank < 0:
            raise ImportanceError("this process is not in the group; call it on the ranks of the group only")
        size = dist.get_world_size(chosen)
        return cls(chosen, rank, size) if size > 1 else cls()

    def all_gather(self, value: Any) -> list[Any]:
        """The value of every rank, by rank.

        Args:
            value: Small, and picklable.

        Raises:
            PotionError: A rank is lost.
        """
        if self.group is None:
            return [value]
        values: list[Any] = [None] * self.size
        try:
            dist.all_gather_object(values, value, group=self.group)
        except RuntimeError as error:
            raise self._lost(error) from error
        return values

    def all_reduce(self, tensor: Tensor) -> None:
        """The sum over all ranks, in place, with the same bits on each.

        Raises:
            PotionError: A rank is lost.
        """
        if self.group is None:
            return
        try:
            dist.all_reduce(tensor, group=self.group)
        except RuntimeError as error:
            raise self._lost(error) from error

    def broadcast(self, tensor: Tensor) -> None:
        """The first rank's values, in place, on all of them.

        Raises:
            PotionError: A rank is lost.
        """
        if self.group is None:
            return
        try:
            dist.broadcast(tensor, group=self.group, group_src=0)
        except RuntimeError as error:
            raise self._lost(error) from error

    def _lost(self, error: RuntimeError) -> PotionError:
        return PotionError(
            f"rank {self.rank} cannot reach the others of {self.size}, one may be lost; start again, with resume=True "
            f"where there are checkpoints: {error}"
        )

    @contextmanager
    def raising_together(self) -> Iterator[None]:
        """An error in the block on any rank is raised on all of them, at the end of the block."""
        failed: Exception | None = None
        try:
            yield
        except Exception as error:
            if self.group is None:
                raise
            failed = error
        failures = [] if self.group is None else self._failures(failed)
        if failed is not None:
            raise failed
        for rank, failure in enumerate(failures):
            if failure is not None:
                kind, text = failure
                raise kind(f"rank {rank}: {text}")

    def _failures(self, failed: Exception | None) -> list[tuple[type[PotionError], str] | None]:
        """Class and text of each rank's error; None for a rank without one."""
        if isinstance(failed, PotionError):
            return self.all_gather((type(failed), str(failed)))
        if failed is None:
            return self.all_gather(None)
        try:
            return self.all_gather((PotionError, f"{type(failed).__name__}: {failed}"))
        except PotionError:
            return []  # its own error says more

    def check_same(self, description: dict[str, Any]) -> None:
        """Check that all ranks compute the same.

        Args:
            description: Of what this rank computes; small, and picklable.

        Raises:
            ImportanceError: On all ranks, where they differ.
        """
        first, *others = self.all_gather(description)
        for rank, other in enumerate(others, start=1):
            for key, value in first.items():
                if other.get(key) != value:
                    raise ImportanceError(
                        f"the ranks do not compute the same: {key} is {value} on rank 0 and {other.get(key)} on rank "
                        f"{rank}"
                    )


def initialised() -> bool:
    """Whether torch.distributed has a default process group."""
    return dist.is_available() and dist.is_initialized()


def unwrap_ddp(model: nn.Module) -> nn.Module:
    """The module within DistributedDataParallel, whose forward exchanges buffers that a rank without data misses."""
    inner = unwrap_compile(model)
    return inner.module if isinstance(inner, DistributedDataParallel) else model


def unwrap_compile(model: nn.Module) -> nn.Module:
    """The module that `torch.compile` was given.

    Raises:
        ModelError: What should be a module is none.
    """
    if not isinstance(model, nn.Module):
        kind = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
        raise ModelError(f"the model is {kind}, and must be an nn.Module with its weights loaded")
    if "_orig_mod" not in model._modules:  # a ScriptModule's has no `get`
        return model
    inner = model._modules["_orig_mod"]
    assert inner is not None
    return inner
