"""The search for a learning rate: paper B tries several for every method and reports the best (table 2)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import ModelError, PotionError
from ..metrics import accuracy, predict
from ..training import DivergedError
from .base import Unlearned

if TYPE_CHECKING:
    from .trained import Trained


@dataclass(frozen=True)
class Trial:
    """One learning rate.

    lr              the rate
    accuracy        on the validation loader, a fraction in [0, 1]; 0 where the training diverged
    gradient_steps  of this training; of one that diverged, until that was noticed
    seconds         wall clock, with the validation
    diverged        its loss or its weights were not finite
    """

    lr: float
    accuracy: float
    gradient_steps: int
    seconds: float
    diverged: bool = False


def best_rate(
    unlearner: Trained,
    rates: Sequence[float],
    model: nn.Module,
    forget_loader: Iterable[Any],
    retain_loader: Iterable[Any],
    validation_loader: Iterable[Any] | None,
    progress: bool = False,
) -> Unlearned:
    """Unlearn at every rate from the same start, and keep the first with the highest accuracy on the validation loader.

    The trace holds a `Trial` for every rate, the report is that of the training that is kept.

    Raises PotionError without a validation loader, ModelError where the training diverges at every rate.
    """
    if validation_loader is None:
        raise PotionError(f"{unlearner.name}: to choose among learning rates it needs a validation_loader")
    start = time.perf_counter()
    trials: list[Trial] = []
    best: tuple[Trial, Unlearned] | None = None
    for rate in rates:
        begun = time.perf_counter()
        try:
            with rewound(forget_loader, retain_loader, validation_loader):
                done = replace(unlearner, lr=rate, rates=None)(
                    model, forget_loader, retain_loader, validation_loader=validation_loader, progress=progress
                )
        except DivergedError as error:
            steps = error.iterations * unlearner.cost
            trials.append(Trial(rate, 0.0, steps, time.perf_counter() - begun, diverged=True))
            continue
        right = accuracy(*predict(done.model, validation_loader))
        trials.append(Trial(rate, right, done.gradient_steps, time.perf_counter() - begun))
        if best is None or right > best[0].accuracy:
            best = trials[-1], done
    if best is None:
        raise ModelError(f"{unlearner.name}: the training diverged at every one of the rates {list(rates)}; lower them")
    kept, done = best
    done.trace, done.kept = trials, kept
    done.seconds["search"] = time.perf_counter() - start - sum(done.seconds.values())
    return done


@contextmanager
def rewound(*loaders: Iterable[Any]) -> Iterator[None]:
    """Afterwards the loaders' own generators are where they were: the next pass gives the same batches again."""
    owners = [owner for loader in loaders for owner in (loader, getattr(loader, "sampler", None))]
    found = [getattr(owner, "generator", None) for owner in owners]
    before = [(each, each.get_state()) for each in found if isinstance(each, torch.Generator)]
    try:
        yield
    finally:
        for generator, state in before:
            generator.set_state(state)
