"""The search for a learning rate: paper B tries several for every method and reports the best (table 2)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ...errors import ModelError, PotionError
from ...utils.predict import accuracy, predict
from ..training.train import DivergedError
from .base import Unlearned


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
    name: str,
    rates: Sequence[float],
    at: Callable[[float], Unlearned],
    validation_loader: Iterable[Any] | None,
    *others: Iterable[Any],
    cost: int = 1,
) -> Unlearned:
    """Unlearn at every rate from the same start, and keep the first with the highest accuracy on the validation loader.

    name    of the unlearner
    at      unlearns at one rate, always from the same start
    others  all other loaders that it reads
    cost    of one of its iterations, in gradient steps

    The trace holds a `Trial` for every rate, the report is that of the training that is kept.

    Raises PotionError without a validation loader, ModelError where the training diverges at every rate.
    """
    if validation_loader is None:
        raise PotionError(f"{name}: to choose among learning rates it needs a validation_loader")
    start = time.perf_counter()
    trials: list[Trial] = []
    best: tuple[Trial, Unlearned] | None = None
    for rate in rates:
        begun = time.perf_counter()
        try:
            with rewound(*others, validation_loader):
                done = at(rate)
        except DivergedError as error:
            trials.append(Trial(rate, 0.0, error.iterations * cost, time.perf_counter() - begun, diverged=True))
            continue
        right = accuracy(*predict(done.model, validation_loader))
        trials.append(Trial(rate, right, done.gradient_steps, time.perf_counter() - begun))
        if best is None or right > best[0].accuracy:
            best = trials[-1], done
    if best is None:
        raise ModelError(f"{name}: the training diverged at every one of the rates {list(rates)}; lower them")
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
