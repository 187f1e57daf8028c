"""Losses of a batch: the model's outputs, the labels they are compared with, and one loss for each sample."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ..errors import ImportanceError
from ..utils.adapter import Adapter, read_logits
from ..utils.inputs import BatchInputs
from ..utils.labels import check_rows, check_targets
from .objectives import Losses, Objective

CallModel = Callable[[BatchInputs], Any]  # inputs [B, ...] -> outputs


class SampleLosses:
    """Takes the losses of a pass's objectives, and refuses labels and losses of another form.

    Args:
        objectives: Of the pass.
        adapter: Reads the logits that labels are compared with.
        amp: Autocast's dtype, or None.
        device: The model's.
    """

    def __init__(
        self, objectives: list[Objective], adapter: Adapter, amp: torch.dtype | None, device: torch.device
    ) -> None:
        self.names = ", ".join(repr(objective.name) for objective in objectives)
        self.reads_classes = any(objective.of_logits and objective.needs_labels for objective in objectives)
        self.adapter, self.amp, self.device = adapter, amp, device
        self.logits: Tensor | None = None  # of a sample, once there are some and labels are compared with them
        self.before_call: list[Callable[[], object]] = []  # of the model, each time

    def outputs(self, model: CallModel, inputs: BatchInputs, exact: bool = False) -> Any:
        """The model's outputs, float32 where they were in half precision; exact: without autocast."""
        amp = None if exact else self.amp
        for prepare in self.before_call:
            prepare()
        with torch.autocast(self.device.type, dtype=amp) if amp is not None else nullcontext():
            outputs = model(inputs)
        half = isinstance(outputs, Tensor) and outputs.dtype in (torch.float16, torch.bfloat16)
        return outputs.float() if half else outputs

    def check_labels(self, outputs: Any, labels: Tensor | None) -> None:
        """Raise DataError unless the labels are classes of the logits, where an objective takes them for that."""
        if self.reads_classes and labels is not None:
            logits = read_logits(outputs, self.adapter).detach()
            check_rows(logits, labels)
            self.logits = logits[:1]
            check_targets(self.logits, labels)

    def check_known(self, labels: Tensor | None) -> None:
        """The same before the forward pass, from the second batch on."""
        if self.logits is not None and labels is not None:
            check_targets(self.logits, labels)

    def traceable(
        self,
        losses: Losses,
        model: CallModel,
        inputs: BatchInputs,
        labels: Tensor | None,
        exact: bool = False,
    ) -> Tensor:
        """[B, ...] -> [B]; also under vmap and torch.compile, so no value is read; exact: without autocast."""
        return self.shaped(losses(self.outputs(model, inputs, exact), labels), inputs)

    def __call__(
        self,
        losses: Losses,
        model: CallModel,
        inputs: BatchInputs,
        labels: Tensor | None,
        exact: bool = False,
    ) -> Tensor:
        """The same after a look at the labels' values."""
        outputs = self.outputs(model, inputs, exact)
        self.check_labels(outputs, labels)
        return self.shaped(losses(outputs, labels), inputs)

    def shaped(self, losses: Any, inputs: BatchInputs) -> Tensor:
        """Raise ImportanceError unless they are one real loss for each sample."""
        if not isinstance(losses, Tensor) or losses.is_complex() or losses.shape != (len(inputs),):
            kind = f"of shape {list(losses.shape)}" if isinstance(losses, Tensor) else f"as a {type(losses).__name__}"
            kind = "that are complex" if isinstance(losses, Tensor) and losses.is_complex() else kind
            raise ImportanceError(
                f"objective {self.names} gave losses {kind} for {len(inputs)} samples; "
                "it must give a real one per sample"
            )
        return losses
