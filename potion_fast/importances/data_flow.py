"""Where the values of a batch decide which rows go where: masks, sorting, routing to experts, loops over lengths.

A rule reads a sample's gradient off its rows, by their places. Places that were right for the samples of the proof are
right for all others if they follow from shapes alone. So the operations of a forward pass are watched for those whose
output's shape or order is decided by data, and for values that Python reads: what comes of them has no rule. Sorting
or picking within a sample moves no row to another one; whether a dimension holds samples shows in a second forward
pass with one sample less, in which it is shorter.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operations of PyTorch by name, an underscore at the end left out.
FREE = {  # their output's shape or order follows from values
    "nonzero",
    "nonzero_static",
    "masked_select",
    "masked_scatter",
    "_unique",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "unique_dim_consecutive",
    "repeat_interleave",
    "_pack_padded_sequence",
    "_nested_tensor_from_mask",
    "_nested_from_padded",
}
INDEXED = {"index", "_unsafe_index", "index_put", "_unsafe_index_put", "_index_put_impl"}  # (x, [index or None, ...])
ALONG = {  # (x, dim, index, ...)
    "gather",
    "index_select",
    "index_add",
    "index_copy",
    "index_fill",
    "index_reduce",
    "scatter",
    "scatter_add",
    "scatter_reduce",
}
WHOLE = {"take", "put"}  # (x, index, ...), over all dimensions
ORDERED = {"sort": 1, "argsort": 1, "msort": None, "topk": 2, "kthvalue": 2}  # x along dim: the place of `dim`
READS = {"_local_scalar_dense", "equal", "is_nonzero"}
HOST = {"tolist", "numpy", "__array__", "__dlpack__"}  # methods that read without an operation of PyTorch
NEW = {  # their output has no values of their input's
    "zeros_like",
    "ones_like",
    "empty_like",
    "full_like",
    "rand_like",
    "randn_like",
    "randint_like",
    "new_zeros",
    "new_ones",
    "new_empty",
    "new_full",
    "new_empty_strided",
}


class Event(NamedTuple):
    """An operation that may move rows, or a read.

    Attributes:
        name: Of the operation.
        shape: Of what it picks from; empty for a read.
        dims: Dimensions of it in which data decides.
    """

    name: str
    shape: tuple[int, ...] = ()
    dims: tuple[int, ...] = ()


class DataFlow(TorchDispatchMode):
    """Follows the values of a batch through the operations of a forward pass.

    Args:
        inputs: Tensors of the batch.
        other: The flow of a batch with another number of samples; None for the first of the two.

    Attributes:
        events: Operations that may move rows, and reads, in order.
        after: Python has read values of rows: what is called from here on may be anything.
    """

    def __init__(self, inputs: Iterable[Tensor], other: DataFlow | None = None) -> None:
        super().__init__()
        self.other = other
        self.events: list[Event] = []
        self.after = False
        self.met = False  # a copy of a parameter for each sample has met rows that data has moved
        self.copies: set[int] = set()  # storages of such copies
        self.recomputed = False  # a copy is read within activation checkpointing, which will read the parameter instead
        self.has_gradient = False  # what comes of it requires gradients though no parameter does
        self.data: set[int] = set()  # storages with values that follow from the inputs
        self.routed: set[int] = set()  # storages whose rows data has moved
        self.calls: list[tuple[list[str], int, bool]] = []  # names, events before, whether routed
        self.stack = ExitStack()
        for tensor in inputs:
            self._mark(self.data, tensor)

    def __enter__(self) -> DataFlow:
        self.stack.enter_context(_HostReads(self))
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        self.stack.close()

    def note(self, names: list[str], tensors: Sequence[Tensor]) -> None:
        """Take note of a call that uses parameters, of its input and its output."""
        routed = self.after or any(self._is(self.routed, tensor) for tensor in tensors)
        self.calls.append((names, len(self.events), routed))

    def note_copies(self, tensors: Iterable[Tensor]) -> None:
        """Take note of copies of parameters, one for each sample in the order of the batch."""
        for tensor in tensors:
            self._mark(self.copies, tensor)

    @property
    def differs(self) -> bool:
        """Whether the other batch had other events: their number or order follows from samples."""
        assert self.other is not None
        return [event.name for event in self.events] != [event.name for event in self.other.events]

    @property
    def copies_are_misplaced(self) -> bool:
        """Whether a sample's copy of a parameter may meet another sample's rows in another batch."""
        return self.met or self.after or self.differs

    @property
    def reads(self) -> bool:
        """Whether Python has read a value that follows from the batch."""
        return any(not event.shape for event in self.events)

    def routed_names(self) -> set[str]:
        """The parameters of calls whose rows may be of other samples, or of several, in another batch."""
        differs = self.differs
        return {name for names, before, routed in self.calls if routed or (differs and before) for name in names}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        name = function.overloadpacket.__name__.rstrip("_")
        of_data = any(self._is(self.data, tensor) for tensor in tensors) and name not in NEW
        routed = of_data and (self._routes(name, args, kwargs) or any(self._is(self.routed, t) for t in tensors))
        output = function(*args, **kwargs)
        of_copies = any(self._is(self.copies, tensor) for tensor in tensors)
        if of_copies and not of_data:
            self.note_copies(leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor))
        self.met |= of_copies and routed
        self.recomputed |= of_copies and is_checkpointing()
        if of_data:
            written = tensors[:1] if function._schema.is_mutable else []
            for tensor in (*written, *(leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor))):
                self._mark(self.data, tensor)
                if routed:
                    self._mark(self.routed, tensor)
        return output

    def read_on_host(self, tensor: Tensor) -> None:
        """A method reads a tensor's values: of one, as a condition may; of several, as a list of lengths."""
        if self._is(self.data, tensor):
            if tensor.numel() > 1:
                self.after = True
            self.events.append(Event("read"))

    def _routes(self, name: str, args: Any, kwargs: Any) -> bool:
        """Whether an operation, which has some data among its arguments, moves rows by data."""
        if name in READS:
            self.events.append(Event("read"))
            return False
        if name in FREE:
            return True
        x = args[0] if args and isinstance(args[0], Tensor) else None
        if x is None:
            return False
        if name in INDEXED:
            indices = [(dim, i) for dim, i in enumerate(args[1]) if i is not None and self._is(self.data, i)]
            values = args[2] if len(args) > 2 and isinstance(args[2], Tensor) else None
            if any(index.dtype in (torch.bool, torch.uint8) for _, index in indices):
                return values is None or values.numel() > 1
            moved = x if values is None else values
            return self._picks(name, x, moved, [dim for dim, _ in indices])
        if name in ALONG or name in WHOLE or name == "embedding":
            place = 2 if name in ALONG else 1
            index = args[place] if len(args) > place else kwargs.get("index")
            if not isinstance(index, Tensor) or not self._is(self.data, index):
                return False
            source = next((a for a in args[place + 1 :] if isinstance(a, Tensor)), x)
            dims = [args[1]] if name in ALONG else [0] if name == "embedding" else list(range(x.dim()))
            return self._picks(name, x, source if self._is(self.data, source) else x, dims)
        if name in ORDERED:
            place_of_dim = ORDERED[name]
            if place_of_dim is None:
                dims = [0]
            else:
                # The overload `stable` has `dim` behind a keyword, and may have it nowhere.
                given = args[place_of_dim] if len(args) > place_of_dim and "stable" not in kwargs else -1
                dims = [kwargs.get("dim", given)]
            return self._picks(name, x, x, dims)
        return False

    def _picks(self, name: str, x: Tensor, moved: Tensor, dims: Sequence[int]) -> bool:
        """Whether data picks along a dimension of samples; known if the other batch has been seen."""
        if not dims or not self._is(self.data, moved):
            return False
        dims = [dim % max(1, x.dim()) for dim in dims]
        event, place = Event(name, (*x.shape, -1), tuple(dims)), len(self.events)
        self.events.append(event)
        if self.other is None or place >= len(self.other.events):
            return False
        shape = self.other.events[place].shape
        return len(shape) == len(event.shape) and any(shape[dim] != event.shape[dim] for dim in dims)

    def _is(self, marked: set[int], tensor: Tensor) -> bool:
        return tensor.layout == torch.strided and tensor.untyped_storage()._cdata in marked

    def _mark(self, marked: set[int], tensor: Tensor) -> None:
        if tensor.layout != torch.strided:
            return
        storage = tensor.untyped_storage()
        if storage._cdata not in marked:
            marked.add(storage._cdata)
            weakref.finalize(storage, marked.discard, storage._cdata)


def is_checkpointing() -> bool:
    """Whether what autograd saves now is saved by other means, as activation checkpointing does, to be made again."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


class _HostReads(TorchFunctionMode):
    """Tells a flow of methods that read values past the operations of PyTorch."""

    def __init__(self, flow: DataFlow) -> None:
        super().__init__()
        self.flow = flow

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__name__", "") in HOST and args and isinstance(args[0], Tensor):
            self.flow.read_on_host(args[0])
        return function(*args, **(kwargs or {}))
