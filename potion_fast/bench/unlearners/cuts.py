"""CUTS: the weights' way into the poison is taken back (arXiv 2511.18660)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from typing_extensions import override

from ...utils.copies import copy_model
from ...utils.predict import accuracy, predict
from ..training.schedules import Schedule
from ..training.train import Batch, cross_entropy
from .base import Loaders, Unlearned
from .epochs import EpochFinetuning
from .registry import register_unlearner


@dataclass(frozen=True)
class Scaled:
    """The model at one multiple of the task vector.

    Attributes:
        scale: a.
        forget_accuracy: on S_f, with the labels that it was trained with.
    """

    scale: float
    forget_accuracy: float


@register_unlearner("cuts")
class CUTS(EpochFinetuning):
    """θ − a τ with τ = θ′ − θ, where θ′ is the model fine-tuned on S_f with the poison's labels.

    a is the smallest multiple of `step`, up to `most`, with which the accuracy on S_f is at most `until`; where there
    is none, the one with the lowest. Needs nothing but S_f. Parameters are moved, buffers (batch norms' statistics)
    stay as they are: the fine-tuning, which reads a few samples of one kind, is in evaluation mode.

    Attributes:
        step: of a.
        most: the largest a.
        until: accuracy on S_f, in [0, 1].
    """

    optimizer: Literal["sgd", "adamw"] = "adamw"
    lr: PositiveFloat = 1e-4
    weight_decay: NonNegativeFloat = 0.01
    schedule: Schedule = "constant"
    epochs: PositiveInt = 60
    step: PositiveFloat = 0.05
    most: PositiveFloat = 6.0
    until: Annotated[float, Field(ge=0, le=1)] = 0.01

    @override
    def unlearn(self, model: nn.Module, loaders: Loaders, progress: bool) -> Unlearned:
        learnt = copy_model(model)
        done = self.finetune(learnt, loaders.forget, loaders.validation, progress, loss=_as_evaluated)
        start = time.perf_counter()
        scaled, trace = copy_model(model).eval(), []
        given = [parameter.detach() for parameter in model.parameters()]
        task = [after.detach() - before for after, before in zip(learnt.parameters(), given, strict=True)]
        for number in range(1, round(self.most / self.step) + 1):
            _move(scaled, given, task, number * self.step)
            trace.append(Scaled(number * self.step, accuracy(*predict(scaled, loaders.forget_evaluation))))
            if trace[-1].forget_accuracy <= self.until:
                break
        kept = min(trace, key=lambda entry: entry.forget_accuracy)
        _move(scaled, given, task, kept.scale)
        done.model, done.trace, done.kept = scaled, [*done.trace, *trace], kept
        done.seconds["search"] = time.perf_counter() - start
        if kept.forget_accuracy > self.until:
            done.warnings.append(
                f"no multiple of the task vector up to {self.most:g} brings the accuracy on S_f to {self.until:.0%}; "
                f"{kept.scale:g} gives {kept.forget_accuracy:.0%}"
            )
        return done


def _as_evaluated(model: nn.Module, batch: Batch) -> Tensor:
    """The cross-entropy of a batch, with batch norms and dropout as in evaluation mode."""
    return cross_entropy(model.eval(), batch)


def _move(model: nn.Module, given: Sequence[Tensor], task: Sequence[Tensor], scale: float) -> None:
    """Put θ − a τ into a model."""
    with torch.no_grad():
        for parameter, before, change in zip(model.parameters(), given, task, strict=True):
            parameter.copy_(before - scale * change)
