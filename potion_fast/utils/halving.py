"""Batches in halves where memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from ..errors import OutOfMemoryError
from .inputs import BatchInputs
from .memory import available, format_size, ran_out

Given = TypeVar("Given")


class Halving:
    """Calls a function on batches, on as many samples at a time as fit into memory.

    A batch that runs out of memory is halved, and so are those after it.

    Attributes:
        most: Samples at a time; None while memory has not run out.
    """

    def __init__(self) -> None:
        self.most: int | None = None

    def __call__(
        self, function: Callable[[BatchInputs, Tensor], Given], inputs: BatchInputs, labels: Tensor
    ) -> Iterator[Given]:
        """What the function gives for each part of a batch, in order.

        Args:
            function: Of inputs [b, ...] and labels [b, ...]. It must leave nothing behind where it fails.
            inputs: [B, ...].
            labels: [B, ...].

        Raises:
            OutOfMemoryError: Not even one sample fits.
        """
        start = 0
        while start < len(labels):
            stop = len(labels) if self.most is None else min(len(labels), start + self.most)
            try:
                given = function(inputs[start:stop], labels[start:stop])
            except Exception as error:
                if not ran_out(error):
                    raise
            else:
                yield given
                start = stop
                continue
            # Only here is the error gone, whose traceback holds the batch's activations.
            self._halve(stop - start, inputs.device)

    def _halve(self, samples: int, device: torch.device) -> None:
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if samples == 1:
            free = available(device)
            advice = "" if free is None else f"; {format_size(free)} are available on {device}"
            raise OutOfMemoryError(f"memory ran out over a single sample{advice}. Free some, or take a smaller model")
        self.most = samples // 2
