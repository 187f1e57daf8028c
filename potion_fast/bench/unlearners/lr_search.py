"""Search for a learning rate: Pawelczyk et al. try several for every method and reports the best (table 2)."""

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
from .base import Loaders, Unlearned


@dataclass(frozen=True)
class RateTrial:
    """A training at one learning rate.

    Attributes:
        lr: the rate.
        accuracy: on the validation loader, a fraction in [0, 1]; 0 where the training diverged.
        gradient_steps: of this training; of one that diverged, until that was noticed.
        seconds: wall clock, with the validation.
        diverged: its loss or its weights were not finite.
    """

    lr: float
    accuracy: float
    gradient_steps: int
    seconds: float
    diverged: bool = False


def best_rate(
    name: str,
    rates: Sequence[float],
    unlearn_at: Callable[[float], Unlearned],
    loaders: Loaders,
    cost: int = 1,
) -> Unlearned:
    """Unlearn at every rate from the same start, and keep the first with the highest accuracy on the validation loader.

    Args:
        name: of the unlearner.
        rates: learning rates to try.
        unlearn_at: unlearns at one rate, always from the same start.
        loaders: what it reads; generators of their own are rewound after each rate.
        cost: of one of its iterations, in gradient steps.

    Returns:
        The best training; its trace holds a `RateTrial` for every rate, its report is that of the training.

    Raises:
        PotionError: there is no validation loader.
        ModelError: the training diverges at every rate.
    """
    if loaders.validation is None:
        raise PotionError(f"{name}: to choose among learning rates it needs a validation loader")
    start = time.perf_counter()
    trials: list[RateTrial] = []
    best: tuple[RateTrial, Unlearned] | None = None
    for rate in rates:
        trial_start = time.perf_counter()
        try:
            with rewound(loaders.forget, loaders.retain, loaders.validation):
                unlearned = unlearn_at(rate)
        except DivergedError as error:
            seconds = time.perf_counter() - trial_start
            trials.append(RateTrial(rate, 0.0, error.iterations * cost, seconds, diverged=True))
            continue
        score = accuracy(*predict(unlearned.model, loaders.validation))
        trials.append(RateTrial(rate, score, unlearned.gradient_steps, time.perf_counter() - trial_start))
        if best is None or score > best[0].accuracy:
            best = trials[-1], unlearned
    if best is None:
        raise ModelError(f"{name}: the training diverged at every one of the rates {list(rates)}; lower them")
    kept, unlearned = best
    unlearned.trace, unlearned.kept = trials, kept
    unlearned.seconds["search"] = time.perf_counter() - start - sum(unlearned.seconds.values())
    return unlearned


@contextmanager
def rewound(*loaders: Iterable[Any]) -> Iterator[None]:
    """Put the loaders' own generators back afterwards: the next pass gives the same batches again."""
    owners = [owner for loader in loaders for owner in (loader, getattr(loader, "sampler", None))]
    generators = [getattr(owner, "generator", None) for owner in owners]
    before = [(generator, generator.get_state()) for generator in generators if isinstance(generator, torch.Generator)]
    try:
        yield
    finally:
        for generator, state in before:
            generator.set_state(state)
