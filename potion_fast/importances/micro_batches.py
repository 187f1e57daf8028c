"""Batches cut to what fits into memory, also where it has run out already."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import OutOfMemoryError
from ..utils import memory
from ..utils.batches import Chunk

FEW = (3, 6)  # samples whose memory is measured, to tell a sample's share from what any batch takes
SHARE = 0.8  # of the free memory that a batch may take: the rest is lost between blocks


def split(piece: Chunk, most: int) -> list[Chunk]:
    """The same samples in pieces of at most `most`: of whole groups where one fits, else of parts of a group."""
    each = len(piece.inputs) // piece.groups
    step = most // each * each or each  # samples of whole groups
    found = []
    for start in range(0, len(piece.inputs), step):
        for first in range(start, min(start + step, len(piece.inputs)), most):
            part = slice(first, min(first + most, start + step, len(piece.inputs)))
            labels = None if piece.labels is None else piece.labels[part]
            number = max(1, (part.stop - part.start) // each)
            found.append(Chunk(piece.inputs[part], labels, number, piece.closes and part.stop % each == 0))
    return found


class MicroBatches:
    """Takes pieces of the data through a model at once, or in as many parts as memory asks for.

    How many samples fit is measured on the first few, whose results are undone; a piece that runs out of memory
    nevertheless is undone and halved, and so are those after it. What comes out differs by rounding alone, as with
    another batch size of the loader: 1e-12 in float64. A group larger than what fits comes in parts, whose gradients
    are added up before |·| or ·² is taken; that takes another n numbers per objective.

    attempt  adds a piece of the data to the tensors of `state`; it may run out of memory
    state    the tensors that it writes to; a failed attempt may leave new ones behind it, to be filled with zeros
    device   whose memory it is
    done     samples of the piece at hand that are before those that `attempt` gets
    """

    def __init__(
        self, attempt: Callable[[Chunk], None], state: Callable[[], list[Tensor]], device: torch.device
    ) -> None:
        self.attempt, self.state, self.device = attempt, state, device
        self.most = sys.maxsize  # samples at a time
        self.measured = False
        self.done = 0
        self.copies: list[Tensor] = []
        self.whole = len(state())  # tensors while no group is begun

    def add(self, piece: Chunk) -> None:
        """Raises OutOfMemoryError where not even one sample fits."""
        self.done = 0
        if not self.measured and len(piece.inputs) > FEW[-1] and len(self.state()) == self.whole:
            self.measured = True
            self.most = self._fitting(piece)
        waiting = [piece]
        while waiting:
            part = waiting.pop()
            if len(part.inputs) > self.most:
                waiting += reversed(split(part, self.most))
            elif not self._added(part):
                self.most = self._halved(len(part.inputs))
                waiting.append(part)
            else:
                self.done += len(part.inputs)

    def _halved(self, samples: int) -> int:
        if samples == 1:
            free = memory.available(self.device)
            there = "" if free is None else f"; {memory.size(free)} are available on {self.device}"
            raise OutOfMemoryError(f"memory ran out over a single sample{there}. Free some, or take a smaller model")
        return samples // 2

    def _fitting(self, piece: Chunk) -> int:
        """How many samples fit, from the memory that a few take. Raises OutOfMemoryError where none does."""
        free, peaks = memory.available(self.device), []
        for few in (FEW[0], *FEW):  # first what is done but once
            labels = None if piece.labels is None else piece.labels[:few]
            trial = Chunk(piece.inputs[:few], labels, few if piece.groups > 1 else 1, True)
            with memory.peak_of(self.device) as peak:
                done = self._added(trial)
            self._undo()
            if not done:
                return self._halved(few)
            peaks.append(peak[0])
        each = max(1, (peaks[2] - peaks[1]) // (FEW[1] - FEW[0]))
        always = max(0, peaks[1] - FEW[0] * each)
        if free is None:
            return sys.maxsize
        memory.check(self.device, {"a batch": always, "the activations of one sample": each}, lambda device: free)
        return max(1, int(SHARE * free - always) // each)

    def _added(self, piece: Chunk) -> bool:
        """False where memory ran out; all is then as it was."""
        before = self.state()
        if [t.shape for t in self.copies] != [t.shape for t in before]:
            self.copies = [torch.empty_like(t) for t in before]
        for copied, tensor in zip(self.copies, before, strict=True):
            copied.copy_(tensor)
        try:
            self.attempt(piece)
            return True
        except Exception as error:
            if not memory.ran_out(error):
                raise
        # Only here is the error gone, whose traceback holds the batch's activations.
        self._undo()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return False

    def _undo(self) -> None:
        state = self.state()
        for tensor, copied in zip(state, self.copies, strict=False):
            tensor.copy_(copied)
        for tensor in state[len(self.copies) :]:
            tensor.zero_()
