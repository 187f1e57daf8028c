"""Batches cut to what fits into memory, also where it has run out already."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..errors import ImportanceError, OutOfMemoryError
from ..utils import memory
from ..utils.batches import Chunk
from .sample_checks import random_numbers_kept

PROBE_SIZES = (3, 6)  # samples whose memory is measured, to tell a sample's share from what any batch takes
SHARE = 0.8  # of the free memory that a batch may take: the rest is lost between blocks


def split(chunk: Chunk, most: int) -> list[Chunk]:
    """The same samples in parts of at most `most`: of whole groups where one fits, else of parts of a group."""
    group_size = len(chunk.inputs) // chunk.groups
    step = most // group_size * group_size or group_size  # samples of whole groups
    parts = []
    for start in range(0, len(chunk.inputs), step):
        for first in range(start, min(start + step, len(chunk.inputs)), most):
            part = slice(first, min(first + most, start + step, len(chunk.inputs)))
            labels = None if chunk.labels is None else chunk.labels[part]
            groups = max(1, (part.stop - part.start) // group_size)
            parts.append(Chunk(chunk.inputs[part], labels, groups, chunk.closes and part.stop % group_size == 0))
    return parts


class MicroBatches:
    """Takes chunks of the data through a model at once, or in as many parts as memory asks for.

    How many samples fit is measured on the first few, whose results are undone; a chunk that runs out of memory
    nevertheless is undone and halved, and so are those after it. The result differs by rounding alone, as with another
    batch size of the loader: 1e-12 in float64. A group larger than what fits comes in parts, whose gradients are added
    up before |·| or ·² is taken; that takes another n numbers per objective.

    Args:
        attempt: Adds a chunk of the data to the tensors of `state`; it may run out of memory.
        state: The tensors that it writes to; a failed attempt may leave new ones, to be filled with zeros.
        device: The device whose memory is used.

    Attributes:
        done: Samples of the current chunk that are before those that `attempt` gets.
        measuring: What `attempt` adds will be undone.
    """

    def __init__(
        self, attempt: Callable[[Chunk], None], state: Callable[[], list[Tensor]], device: torch.device
    ) -> None:
        self.attempt, self.state, self.device = attempt, state, device
        self.most = sys.maxsize  # samples at a time
        self.measured = False
        self.measuring = False
        self.done = 0
        self.copies: list[Tensor] = []
        self.between_groups = len(state())  # tensors while no group is begun

    def add(self, chunk: Chunk) -> None:
        """Add a chunk, in as many parts as memory asks for.

        Raises:
            OutOfMemoryError: Not even one sample fits.
        """
        self.done = 0
        if not self.measured and len(chunk.inputs) > PROBE_SIZES[-1] and len(self.state()) == self.between_groups:
            self.measured = self.measuring = True
            try:
                with random_numbers_kept(self.device):
                    self.most = self._fitting(chunk)
            finally:
                self.measuring = False
        waiting = [chunk]
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
            advice = "" if free is None else f"; {memory.format_size(free)} are available on {self.device}"
            raise OutOfMemoryError(f"memory ran out over a single sample{advice}. Free some, or take a smaller model")
        return samples // 2

    def _fitting(self, chunk: Chunk) -> int:
        """How many samples fit, from the memory that a few take. Raises OutOfMemoryError where none does."""
        free, peaks = memory.available(self.device), []
        for samples in (PROBE_SIZES[0], *PROBE_SIZES):  # the first also counts what happens only once
            labels = None if chunk.labels is None else chunk.labels[:samples]
            trial = Chunk(chunk.inputs[:samples], labels, samples if chunk.groups > 1 else 1, True)
            with memory.peak_of(self.device) as peak:
                added = self._added(trial)
            self._undo()
            if not added:
                return self._halved(samples)
            peaks.append(peak[0])
        per_sample = max(1, (peaks[2] - peaks[1]) // (PROBE_SIZES[1] - PROBE_SIZES[0]))
        per_batch = max(0, peaks[1] - PROBE_SIZES[0] * per_sample)
        if free is None:
            return sys.maxsize
        needs = {"a batch": per_batch, "the activations of one sample": per_sample}
        memory.check(self.device, needs, lambda device: free)
        return max(1, int(SHARE * free - per_batch) // per_sample)

    def _added(self, chunk: Chunk) -> bool:
        """False where memory ran out; all is then as it was."""
        before = self.state()
        if [t.shape for t in self.copies] != [t.shape for t in before]:
            self.copies = [torch.empty_like(t) for t in before]
        for copied, tensor in zip(self.copies, before, strict=True):
            copied.copy_(tensor)
        try:
            self.attempt(chunk)
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


def check_no_frequencies(module: nn.Module) -> None:
    """Check that no embedding scales its gradient by how often a token stands in a call, which parts do not tell.

    Raises:
        ImportanceError: One does; it is named.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)) and layer.scale_grad_by_freq:
            raise ImportanceError(
                f"layer {name!r} scales its gradient by the frequency of tokens (scale_grad_by_freq=True) in a group, "
                "and this group comes in parts; let the loader give batches of whole groups, or set it to False"
            )
