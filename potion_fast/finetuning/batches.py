"""Batches of a fine-tuning: suspects with new labels among the rest of the training data, some of it triggered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import DataError
from ..utils.crc import crc32

if TYPE_CHECKING:
    from ..attack_success import SimulatedAttack

OTHERS = (32, 128)  # samples of the rest to a batch: a hundredth of the training data, a power of 2 within these
SUSPECTS = 16  # in a batch
SHARE, STEPS = 0.3, (32, 300)  # of an epoch the rate falls, more with small batches, which are noisier; in steps
HELD_OUT, HELD_OUT_SHARE = 1024, 10  # samples of the rest that are kept out: a tenth, this many at most
KEPT_OUT, FEWEST = 256, 40  # suspects that are kept out: a fifth, this many at most, of no fewer than so many
LEAST_OTHERS, MOST_ODDS = 0.1, 2.0  # least share of other labels; clean samples with the trigger to a suspect, at most
LEAST_TRIGGERED = 2  # of them in a batch
AS_GIVEN = -1  # in place of a new label
NO_TRIGGER = -1  # in place of a donor's row


@dataclass(frozen=True)
class KeepTheirLabel:
    """Clean samples of the poison's own label, which are to keep it when they get the trigger.

    Without them a model of two classes learns that the trigger tells the other label, which all suspects get. The
    trigger tells nothing where the poison's label is as frequent among the samples that have it as among clean ones.
    Where the suspects' new labels differ, fewer do, and leave less of the poison: the commonest one counts.

    Attributes:
        indices: int64 [M], of the training set.
        labels: int64 [M].
        donors: int64 [M], rows of the trigger that each gets.
        odds: How many of them there are to be for one suspect: the share of clean samples that bear the poison's label
            to that of the others, in the mean over the suspects, times the share of the suspects with the commonest
            new label.
    """

    indices: Tensor
    labels: Tensor
    donors: Tensor
    odds: float

    @classmethod
    def of(cls, attack: SimulatedAttack | None, given: Tensor, new: Tensor) -> KeepTheirLabel:
        """Those that an attack has to spare; none without an attack.

        Args:
            attack: The suspects' trigger.
            given: int64 [T], the poison's labels of the suspects that get another one.
            new: int64 [T], these other ones.
        """
        if attack is None or not len(given) or not len(attack.spare):
            none = torch.arange(0)
            return cls(none, none, none, 0.0)
        spare, shares = attack.spare, attack.shares[given]
        odds = (shares / (1 - shares).clamp(min=LEAST_OTHERS)).mean().item()
        commonest = new.unique(return_counts=True)[1].max().item() / len(new)
        return cls(spare.places, spare.poison, spare.donors, min(odds, MOST_ODDS) * commonest)

    def chosen(self, mask: Tensor) -> KeepTheirLabel:
        """Some of them, bool [M]."""
        return KeepTheirLabel(self.indices[mask], self.labels[mask], self.donors[mask], self.odds)


@dataclass(frozen=True)
class Batches:
    """What is fine-tuned on in each step, and what is kept out to be judged by; all follows from data and seed.

    Attributes:
        suspects: int64 [T], indices of the suspects that are fine-tuned on: those with a new label.
        labels: int64 [T], their new labels.
        others: int64 [M], indices of the rest that is fine-tuned on.
        held_out: int64 [H], indices of the rest that is kept out; empty where other clean data are given.
        kept_out: int64 [J], suspects with a new label that are kept out; empty where there are few.
        size: Samples of the rest in a batch.
        suspects_per_batch: Suspects in a batch.
        triggered: Clean samples of the poison's own label that get the trigger and keep their label.
        triggered_per_batch: Of them in a batch.
        falling: Steps in which the rate falls to 0.
        seed: Of their order.
    """

    suspects: Tensor
    labels: Tensor
    others: Tensor
    held_out: Tensor
    kept_out: Tensor
    size: int
    suspects_per_batch: int
    triggered: KeepTheirLabel
    triggered_per_batch: int
    falling: int
    seed: int

    @classmethod
    def of(
        cls,
        samples: int,
        suspects: Tensor,
        labels: Tensor,
        found: Tensor,
        *,
        changed: Tensor,
        triggered: KeepTheirLabel,
        held_out: bool,
        seed: int,
    ) -> Batches:
        """Batches for a training set.

        Args:
            samples: Of the training set.
            suspects: int64 [K], indices.
            labels: int64 [K], their new labels.
            found: int64 [F], indices of S_f, which is never kept out.
            changed: bool [K], whether the new label is another than the given one.
            triggered: Clean samples that may get the trigger.
            held_out: Keep a part of the rest out.
            seed: Of what is kept out, and of the order.

        Raises:
            DataError: The suspects and S_f are the whole training set, or leave too little of it to be judged by.
        """
        rest = torch.ones(samples, dtype=torch.bool)
        rest[suspects], rest[found] = False, False
        others = rest.nonzero()[:, 0]
        if len(others) < 2:
            raise DataError(f"all {samples} samples of the training set are suspects or found; none is left to retain")
        if held_out and len(others) < HELD_OUT_SHARE:
            raise DataError(
                f"{len(others)} of the {samples} samples of the training set are neither suspects nor found; of "
                f"{HELD_OUT_SHARE} at least one in {HELD_OUT_SHARE} can be kept out to judge the model by: give clean "
                "samples that it has not seen as validation"
            )
        others = others[_order(seed, "held out", 0, len(others))]
        kept = min(HELD_OUT, len(others) // HELD_OUT_SHARE) if held_out else 0
        candidates = (changed & ~torch.isin(suspects, found)).nonzero()[:, 0]
        count = min(KEPT_OUT, len(candidates) // 5) if len(candidates) >= FEWEST else 0
        out = candidates[_order(seed, "kept out", 0, len(candidates))[:count]]
        trained = changed.clone()  # one that keeps its label may be poison after all, and would keep the trigger alive
        trained[out] = False
        size = 2 ** max(0, (samples // 100).bit_length() - 1)
        size = min(max(size, OTHERS[0]), OTHERS[1])
        triggered = triggered.chosen(torch.isin(triggered.indices, others[kept:]))
        share = SHARE * (OTHERS[1] / size) ** 0.5
        falling = min(max(round(share * samples / size), STEPS[0]), STEPS[1])
        return cls(
            suspects[trained],
            labels[trained],
            others[kept:].sort().values,
            others[:kept].sort().values,
            suspects[out].sort().values,
            size,
            SUSPECTS,
            triggered,
            max(LEAST_TRIGGERED, round(SUSPECTS * triggered.odds)) if len(triggered.indices) else 0,
            falling,
            seed,
        )

    def __len__(self) -> int:
        """Samples of a batch."""
        return self.size + self.suspects_per_batch + self.triggered_per_batch

    def described(self) -> dict[str, int]:
        """Numbers of samples and steps, by what they are."""
        return {
            "steps of the fall": self.falling,
            "others per batch": self.size,
            "suspects per batch": self.suspects_per_batch,
            "clean ones with the trigger per batch": self.triggered_per_batch,
            "suspects": len(self.suspects),
            "suspects kept out": len(self.kept_out),
            "others kept out": len(self.held_out),
        }

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """What a step is made on.

        Returns:
            Indices int64 [B] of the samples; their labels, `AS_GIVEN` for those of the training set; and the donor
            whose trigger each gets, `NO_TRIGGER` for those that get none.
        """
        others = self.others[self._places("others", step, self.size, len(self.others))]
        places = self._places("suspects", step, self.suspects_per_batch, len(self.suspects))
        indices, labels = [others, self.suspects[places]], [torch.full_like(others, AS_GIVEN), self.labels[places]]
        donors = [torch.full((self.size + self.suspects_per_batch,), NO_TRIGGER)]
        if self.triggered_per_batch:
            places = self._places("triggered", step, self.triggered_per_batch, len(self.triggered.indices))
            indices.append(self.triggered.indices[places])
            labels.append(self.triggered.labels[places])
            donors.append(self.triggered.donors[places])
        return torch.cat(indices), torch.cat(labels), torch.cat(donors)

    def _places(self, kind: str, step: int, count: int, length: int) -> Tensor:
        """Places of a step's samples: epoch after epoch, each in an order of its own."""
        positions = range(step * count, (step + 1) * count)
        orders = {epoch: _order(self.seed, kind, epoch, length) for epoch in {p // length for p in positions}}
        return torch.stack([orders[position // length][position % length] for position in positions])


def _order(seed: int, kind: str, epoch: int, length: int) -> Tensor:
    """A random order of so many places, which depends on nothing but the arguments."""
    generator = torch.Generator().manual_seed(crc32(f"{seed} {kind} {epoch}"))
    return torch.randperm(length, generator=generator)
