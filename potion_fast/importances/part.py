"""Passes over a part of the data: a number of samples, or as many as the thresholds of a search ask for."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import count

import torch
from torch import Tensor
from torch.utils.data import Sampler, SequentialSampler
from torch.utils.data.distributed import DistributedSampler
from typing_extensions import override

from .. import ops
from ..distributed import Ranks
from ..distributed.sampler import ShareSampler, sampler_of
from ..errors import DataError, PotionError
from ..modes import GroupSize
from ..utils.batches import Chunk, known_count
from ..utils.warn import warn_caller
from .checkpoints import Position
from .result import Importance

FIRST_GROUPS = 16  # of all ranks together, before the thresholds are looked at for the first time, in halves
STEPS = 64  # of the schedule, at whose percentiles they are
TOLERANCE = 2.0  # steps of the schedule
ORDERED = 6.0  # standard deviations by which labels that follow their like are too many for a random order


class Part(ABC):
    """What a pass reads of the data, and whether that is a fair sample of them.

    Args:
        ranks: Those that read.

    Attributes:
        ended: The pass has ended before its loader did.
        labels: Of the samples read, in their order.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks, self.ended, self.labels = ranks, False, LabelOrder()

    @abstractmethod
    def marks(self) -> Iterator[int]:
        """Numbers of groups of this rank, rising, after which `ends` is to be asked: no chunk goes past one."""

    @abstractmethod
    def ends(self, position: Position, sums: list[Tensor]) -> bool:
        """Whether the pass is over. Asked after every chunk, with the sums [K, n] so far; it may answer once."""

    @property
    def state(self) -> list[Tensor]:
        """What a checkpoint has to hold beside the sums."""
        return []

    def before(self, position: Position, sums: list[Tensor]) -> None:  # noqa: B027 - most have nothing to do
        """A chunk is about to be added to the sums, which are of this position."""

    def close(self, position: Position, failed: bool = False) -> None:
        """The loader has ended, or an error has ended the pass on this rank."""
        if self.ended and not failed and not self.labels.mixed:
            warn_caller(
                f"the {position.samples} samples that were read look sorted by their labels, and the others may be "
                "unlike them; shuffle the data"
            )


class FirstSamples(Part):
    """The first samples of the loader, in whole groups; on several ranks so many together, alike many on each.

    Args:
        samples: How many, at least.
        group_size: Samples of a group, or "batch".
        ranks: Those that read.
    """

    def __init__(self, samples: int, group_size: GroupSize, ranks: Ranks) -> None:
        super().__init__(ranks)
        self.samples = -(-samples // ranks.size)
        self.groups = None if group_size == "batch" else -(-self.samples // group_size)

    @override
    def marks(self) -> Iterator[int]:
        yield from () if self.groups is None else (self.groups,)

    @override
    def ends(self, position: Position, sums: list[Tensor]) -> bool:
        self.ended = position.samples >= self.samples if self.groups is None else position.terms >= self.groups
        return self.ended


class KnownThresholds(Part):
    """As many samples as the thresholds of a search need to be known within a bound.

    The first is looked at after 16 groups, and whenever they have doubled. The groups before the last mark and those
    since are two independent halves A and B, which give α_A, α_B and together α. Noise in Ω_r lifts the highest ratios,
    by an amount that falls as 1 / groups: by twice as much in either half. So the fall from the halves to both together
    estimates what is left of it, and half of their difference δ = ½ (ln α_A − ln α_B) the random error. Its mean over
    the steps is left out: that is a factor of all of Ω_r, which orders no weight otherwise, and the search makes up for
    it. In ln α:

        error² = (½ (ln α_A + ln α_B) − ln α)² + (δ − mean δ)²

    The pass ends once the root of its mean over the first 64 steps of the schedule that the search can reach (α > 1) is
    at most two steps of the schedule, by which ln α falls on the average of them. Halves that differ read on, and so do
    labels that come sorted.

    Args:
        forget: Ω_f.
        percentiles: Of the schedule's steps for a number of samples of the training data, in their order.
        total: That number where it is known.
        ranks: Those that read.
    """

    def __init__(
        self, forget: Importance, percentiles: Callable[[int], list[float]], total: int | None, ranks: Ranks
    ) -> None:
        super().__init__(ranks)
        self.forget, self.percentiles, self.total = forget, percentiles, total
        self.first = -(-FIRST_GROUPS // ranks.size)
        self.active = True  # the other ranks may still wait for this one
        self.half = torch.zeros_like(forget.sums)[None]  # [1, n], the sums at the last mark
        self.half_terms = torch.zeros(1, dtype=torch.float64)
        self.error = math.nan  # in steps, at the last mark

    @property
    @override
    def state(self) -> list[Tensor]:
        return [self.half, self.half_terms]

    @override
    def marks(self) -> Iterator[int]:
        return (self.first << k for k in count())

    def _is_mark(self, terms: int) -> bool:
        times, rest = divmod(terms, self.first)
        return times > 0 and not rest and times & (times - 1) == 0

    @override
    def before(self, position: Position, sums: list[Tensor]) -> None:
        """Only now is the first half's end moved: a pass that resumes at a mark decides there again, and alike."""
        if self._is_mark(position.terms) and position.terms > int(self.half_terms):
            self.half.copy_(sums[0])
            self.half_terms.fill_(position.terms)

    @override
    def ends(self, position: Position, sums: list[Tensor]) -> bool:
        if not self.active or not self._is_mark(position.terms) or position.terms == int(self.half_terms):
            return False
        if not self._agreed("reached"):
            return False
        self.ended = position.terms > self.first and self._is_known(position, sums[0])
        self.active = not self.ended
        return self.ended

    @override
    def close(self, position: Position, failed: bool = False) -> None:
        if self.active:
            self._agreed("failed" if failed else "at the end")
        super().close(position, failed)

    def _agreed(self, what: str) -> bool:
        """Whether all ranks have come to the same mark; the last exchange is the one in which a rank has not.

        Raises:
            PotionError: Another rank has failed.
        """
        said = self.ranks.all_gather(what)
        self.active = all(one == "reached" for one in said)
        if "failed" in said and what != "failed":
            raise PotionError("the pass has failed on another rank")
        return self.active

    def _is_known(self, position: Position, sums: Tensor) -> bool:
        whole = sums[0].clone()
        first = self.half[0].to(whole.device, copy=True)
        self.ranks.all_reduce(whole)
        self.ranks.all_reduce(first)
        all_terms, first_terms = position.terms * self.ranks.size, int(self.half_terms) * self.ranks.size
        wanted = self.percentiles(self.total or position.samples * self.ranks.size)[:STEPS]
        forget = self.forget.mean32.to(whole.device)

        def logarithms(total: Tensor, terms: int) -> Tensor:
            return ops.select(forget, (total / terms).float(), wanted).double().log()

        alpha = logarithms(whole, all_terms)  # [K]
        halves = logarithms(first, first_terms), logarithms(whole.sub_(first), all_terms - first_terms)
        reached = max(2, int((alpha > 0).sum()))
        before, since, alpha = (logarithm[:reached] for logarithm in (*halves, alpha))
        excess, difference = (before + since) / 2 - alpha, (before - since) / 2
        error = (excess.square() + (difference - difference.mean()).square()).mean().sqrt()
        self.error = float(error / ((alpha[0] - alpha[-1]) / (reached - 1)))
        return all(self.ranks.all_gather(self.labels.mixed)) and self.error <= TOLERANCE


class LabelOrder:
    """Whether labels come in an order as a shuffled loader gives it, by how often one follows its like."""

    def __init__(self) -> None:
        self.counts: Counter[float] = Counter()
        self.last: float | None = None
        self.alike = 0

    def add(self, labels: Tensor | None) -> None:
        """Take note of the labels of a chunk: classes [B] or [B, 1], or rows [B, C]; others are not judged."""
        if labels is None or labels.ndim > 2 or labels.is_complex():
            return
        labels = labels.flatten() if labels.numel() == len(labels) else labels.argmax(1)
        values = labels.tolist()
        pairs = zip([self.last, *values], values, strict=False)
        self.alike += sum(before == value for before, value in pairs)
        self.last = values[-1] if values else self.last
        self.counts.update(values)

    @property
    def mixed(self) -> bool:
        """False where they come sorted, or one label is all that came; True where there are none."""
        n = sum(self.counts.values())
        if n < 2:
            return True
        expected = sum(number * number for number in self.counts.values()) / n**2  # share of pairs in a random order
        if len(self.counts) == 1:
            return False
        deviation = math.sqrt((n - 1) * expected * (1 - expected))
        return self.alike - (n - 1) * expected <= ORDERED * deviation


def check_shuffled(loader: Iterable[object]) -> None:
    """Refuse a loader that reads a data set in its order, of which the first samples may be unlike the others.

    Raises:
        DataError: It does.
    """
    sampler = sampler_of(loader)
    source = sampler.source if isinstance(sampler, ShareSampler) else sampler
    of_set = isinstance(sampler, ShareSampler) and not isinstance(source, Sampler)
    unshuffled = isinstance(source, DistributedSampler) and not source.shuffle
    if of_set or unshuffled or isinstance(source, SequentialSampler):
        raise DataError(
            "the loader reads its data set in its order, whose first samples need not be like the others; to read a "
            "part of them, shuffle: DataLoader(…, shuffle=True), or on several ranks "
            "ShareSampler(RandomSampler(data, generator=…)), seeded alike on each"
        )


def count_rest(loader: Iterable[object], rest: Iterator[Chunk], samples: int) -> int:
    """Samples that a loader would have given on this rank; the rest is read for that, unless it knows.

    Args:
        loader: The loader.
        rest: What it has not given yet.
        samples: Those that it has.
    """
    sampler = sampler_of(loader)
    if known_count(loader) is not None:
        return len(sampler)  # type: ignore[arg-type]
    return samples + sum(len(chunk.inputs) for chunk in rest)
