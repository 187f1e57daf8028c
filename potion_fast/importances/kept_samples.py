"""A few samples of a pass over the data, kept to look at the model with them again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from ..utils.adapter import Adapter
from ..utils.batches import Chunk, stackable
from ..utils.inputs import BatchInputs, concatenated, tensors_of

SAMPLES, BYTES = 256, 32 * 2**20  # at most
BATCH = 64


class KeptSamples:
    """Samples spread evenly over the data, with their labels: every k-th, k doubling whenever there are too many.

    Nothing is drawn at random, and nothing read that the pass would not have read.
    """

    def __init__(self) -> None:
        self.parts: list[tuple[int, BatchInputs, Tensor]] = []  # number of the first, and every k-th from there
        self.stride = 1
        self.most = SAMPLES

    def __len__(self) -> int:
        return sum(len(labels) for _, _, labels in self.parts)

    def add(self, chunk: Chunk, start: int) -> None:
        """Keep some samples of a chunk, whose first is number `start` of the pass; none where there are no labels."""
        if chunk.labels is None:
            return
        size = sum(tensor[:1].nbytes for tensor in tensors_of(chunk.inputs))
        self.most = min(self.most, max(1, BYTES // max(1, size)))
        while len(self) + len(range(-start % self.stride, len(chunk.inputs), self.stride)) > self.most:
            self.stride *= 2
            halves = [(number, slice(number // (self.stride // 2) % 2, None, 2)) for number, _, _ in self.parts]
            thinned = [
                (number + (half.start * self.stride) // 2, inputs[half].clone(), labels[half].clone())
                for (number, half), (_, inputs, labels) in zip(halves, self.parts, strict=True)
            ]
            self.parts = [part for part in thinned if len(part[2])]
        first = -start % self.stride
        if first < len(chunk.inputs):
            own = slice(first, None, self.stride)
            self.parts.append((start + first, chunk.inputs[own].clone(), chunk.labels[own].clone()))

    def batches(self) -> list[tuple[BatchInputs, Tensor]]:
        """Batches (input [B, ...], label [B, ...]) of them."""
        joined: list[tuple[BatchInputs, Tensor]] = []
        for _, inputs, labels in self.parts:
            last = joined[-1] if joined else None
            if last is not None and len(last[1]) + len(labels) <= BATCH and stackable(last, (inputs, labels)):
                joined[-1] = concatenated([last[0], inputs]), torch.cat([last[1], labels])
            else:
                joined.append((inputs, labels))
        return joined

    @staticmethod
    def adapter(adapter: Adapter) -> Adapter:
        """For these batches, which the adapter has read already."""
        return _AlreadyRead(adapter)


class KeptOfLabels(KeptSamples):
    """The same of samples with certain labels: classes int64 [L]."""

    def __init__(self, labels: Tensor) -> None:
        super().__init__()
        self.labels, self.count = labels, 0

    @override
    def add(self, chunk: Chunk, start: int) -> None:
        """Keep some of those of a chunk that have one of the labels; none where labels are no classes [B]."""
        if chunk.labels is None or chunk.labels.ndim != 1:
            return
        rows = torch.isin(chunk.labels.cpu(), self.labels).nonzero()[:, 0]
        if len(rows):
            chosen = chunk._replace(inputs=chunk.inputs[rows], labels=chunk.labels[rows])
            super().add(chosen, self.count)
            self.count += len(rows)


@dataclass
class SeenSamples:
    """What is kept of a pass: samples spread over it, and more with certain labels."""

    spread: KeptSamples = field(default_factory=KeptSamples)
    of_labels: KeptOfLabels | None = None

    def add(self, chunk: Chunk, start: int) -> None:
        """Keep some samples of a chunk, whose first is number `start` of the pass."""
        self.spread.add(chunk, start)
        if self.of_labels is not None:
            self.of_labels.add(chunk, start)


class _AlreadyRead(Adapter):
    def __init__(self, adapter: Adapter) -> None:
        self.call, self.logits = adapter.call, adapter.logits  # type: ignore[method-assign]

    @override
    def split(self, batch: Any) -> tuple[Any, Any]:
        inputs, labels = batch
        return inputs, labels
