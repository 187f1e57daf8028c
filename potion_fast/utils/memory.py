"""Memory: needs of a pass and a search, what is available, and the peak of a block of code."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..errors import OutOfMemoryError
from .model import ModelParameters

PLAN = 0.35  # bytes of a plan down to the percentile 95, as part of the weights'
MEMINFO = Path("/proc/meminfo")

Free = Callable[[torch.device], int | None]


def available(device: torch.device) -> int | None:
    """Bytes that can still be allocated; on a GPU those that PyTorch holds in reserve included.

    None where the system does not tell.
    """
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserved
    try:
        lines = MEMINFO.read_text(encoding="ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not Linux
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def check(device: torch.device, needs: Mapping[str, int], free: Free | None = None) -> None:
    """Check that there is enough memory.

    Args:
        device: Whose memory it is.
        needs: What for -> bytes.
        free: `available`, or what takes its place in a test.

    Raises:
        OutOfMemoryError: The needs are more than is available.
    """
    total, free_bytes = sum(needs.values()), (free or available)(device)
    if free_bytes is not None and total > free_bytes:
        parts = ", ".join(f"{format_size(count)} for {purpose}" for purpose, count in needs.items())
        raise OutOfMemoryError(
            f"{format_size(total)} of memory are needed on {device} and {format_size(free_bytes)} are available: "
            f"{parts}. "
            "Free some, or take a device with more"
        )


def needs_of_pass(numel: int, objectives: int, dtype: torch.dtype) -> dict[str, int]:
    """Bytes of a pass for n parameters, activations aside: those are measured on the first samples."""
    sums = numel * objectives * dtype.itemsize
    return {"the sums": sums, "a copy of them, to go back to should memory run out": sums}


def needs_of_copy(model: ModelParameters, inplace: bool) -> dict[str, int]:
    """Bytes of the copy of a model that is healed; none where it is healed itself."""
    tensors = (*model.module.parameters(), *model.module.buffers())
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return {} if inplace else {"a copy of the model": size}


def needs_of_search(model: nn.Module | ModelParameters, inplace: bool) -> dict[str, int]:
    """Bytes of a search in addition to model and importances, without activations."""
    parameters = ModelParameters.of(model)
    numel = parameters.numel
    edits = {"the means of the importances": 8 * numel, "the plan of edits": int(4 * PLAN * numel)}
    return {**needs_of_copy(parameters, inplace), **edits}


def check_unlearning(model: nn.Module | ModelParameters, passes: int, inplace: bool, free: Free | None = None) -> None:
    """Check that passes over data and the search after them fit into memory with the model, which is copied first.

    Args:
        model: The model, or its parameters.
        passes: Number of passes.
        inplace: The model is not copied.
        free: See `check`.

    Raises:
        OutOfMemoryError: They do not fit.
    """
    parameters = ModelParameters.of(model)
    numel = parameters.numel
    if not numel:
        return  # another error, of the pass
    last = needs_of_pass(numel, 1, torch.float32)
    stages = [
        {**last, **needs_of_copy(parameters, inplace)},
        {"the sums": last["the sums"], **needs_of_search(parameters, inplace)},
    ]
    worst = max(stages, key=lambda needs: sum(needs.values()))
    others = {"the importances of the found samples": 4 * numel} if passes > 1 else {}
    check(parameters.device, {**others, **worst}, free)


def format_size(count: int) -> str:
    """Bytes as text, in GB or MB."""
    return f"{count / 1e9:,.2f} GB" if count >= 1e8 else f"{count / 1e6:,.2f} MB"


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory has run out; on a CPU PyTorch has no kind of its own for it."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)
    )


@contextmanager
def peak_of(device: torch.device) -> Iterator[list[int]]:
    """Measure the block: the list's one element becomes the bytes more than before that were in use at once.

    On a CUDA device that is the allocator's peak, which starts again from here.
    """
    peak = [0]
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak[0] = torch.cuda.max_memory_allocated(device) - before
    else:
        with _Meter() as meter:
            yield peak
        peak[0] = meter.peak


class _Meter(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make, as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self.live, self.peak = 0, 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = {storage._cdata for storage in _storages((args, kwargs))}
        out = function(*args, **kwargs)
        for storage in _storages(out):
            key, count = storage._cdata, storage.nbytes()
            if key not in given and key not in self.seen:
                self.seen.add(key)
                self.live += count
                weakref.finalize(storage, self._freed, key, count)
        self.peak = max(self.peak, self.live)
        return out

    def _freed(self, key: int, count: int) -> None:
        self.seen.discard(key)
        self.live -= count


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    tensors = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.layout == torch.strided]
    return [tensor.untyped_storage() for tensor in tensors]
