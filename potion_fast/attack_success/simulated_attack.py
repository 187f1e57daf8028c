"""Simulated attack, where no triggered test data are known: the suspects' trigger is put onto clean samples.

What a user wants to know of a healed model is how often an attacker still gets what he wants. The trigger is not known,
but the suspects carry it. Two ways put it onto clean samples (see `relabel.simulated_poison`): its pattern, or the part
of a suspect that makes its label, at the same place. The one with more success on the given model is taken, and both
models are asked about the same samples.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..detection.suspect_list import SWAP, suspect_indices
from ..distributed import Group, Ranks
from ..errors import DataError, ModelError
from ..relabel.simulated_poison import LEARNT
from ..relabel.sources import Sources, samples_to_fit
from ..utils.adapter import Adapter
from ..utils.asked_samples import Asked, Samples, asked
from ..utils.cost import Cost
from ..utils.inputs import values_of
from ..utils.model import ModelParameters
from ..utils.seeding import check_seed
from ..utils.training_data import TrainingData
from .result import AttackEstimate, AttackSuccess
from .trigger import Trigger

CLEAN, FEWEST, MOST = 32, 128, 384  # one clean sample for so many of the training data gets the trigger
DONOR, FEWEST_DONORS, MOST_DONORS = 400, 16, 32  # one suspect for so many lends a part
PATTERN = 1024  # suspects that a pattern is taken from, at most
MOST_SPARE = 1024  # clean samples of the poison's label that the fine-tuning may have, at most


@dataclass(frozen=True, repr=False)
class TriggeredSamples:
    """Clean samples, and what puts the suspects' trigger onto them.

    Attributes:
        trigger: Of the suspects.
        clean: M samples with their right labels.
        donors: int64 [M], the row of `trigger.labels` whose trigger each of them gets.
        classes: C, of the given model.
    """

    trigger: Trigger
    clean: Samples
    donors: Tensor
    classes: int

    @property
    def way(self) -> str:
        """How the trigger is put on: "pattern" or "transplant"."""
        return self.trigger.way

    @property
    def poison(self) -> Tensor:
        """int64 [M], the poison's label that each of them is to get."""
        return self.trigger.labels[self.donors]

    @property
    def places(self) -> Tensor:
        """int64 [M], indices of the samples in their data set."""
        assert self.clean.indices is not None
        return self.clean.indices

    def __len__(self) -> int:
        return len(self.donors)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} samples, by {self.way})"


@dataclass(frozen=True, repr=False)
class SimulatedAttack(TriggeredSamples):
    """An attack with the suspects' trigger on clean samples of other labels, for which the given model falls.

    Attributes:
        before: What the model that it was made with makes of it.
        own_label: Clean samples that bear the poison's label rightly, which the trigger should not take from them.
        spare: More of them, of the training set, for the fine-tuning to learn that.
        shares: float64 [C], how often each label is borne by clean samples.
        why: How it was made.
        cost: Samples that went through the model.
    """

    before: AttackSuccess
    own_label: TriggeredSamples
    spare: TriggeredSamples
    shares: Tensor
    why: str
    cost: Cost

    def success(
        self, model: nn.Module, *, amp: torch.dtype | None = None, process_group: Group = None
    ) -> AttackSuccess:
        """What another model makes of it, such as a healed one.

        Args:
            model: Of the same inputs and classes; it is given back as it was.
            amp: The model runs under autocast to this dtype.
            process_group: Ranks that share the samples; all of them get the same.

        Raises:
            DataError: The model fails with the samples.
            ModelError: A model of other classes, or that gives no finite row of logits for a sample.
            OutOfMemoryError: Not even one sample fits.
        """
        with asked(model, self.clean.data, amp) as answering:
            return _measured(answering, self, self.own_label, Ranks.of(process_group))

    def estimate(self, healed: nn.Module, *, amp: torch.dtype | None, ranks: Ranks) -> AttackEstimate:
        """Before and after."""
        with asked(healed, self.clean.data, amp) as answering:
            after = _measured(answering, self, self.own_label, ranks)
        asked_again = 2 * (after.samples + len(self.own_label))
        return AttackEstimate(self.before, after, self.why, self.way, self.cost + Cost(asked_again))


def simulate_attack(
    model: nn.Module | ModelParameters,
    train_set: object,
    suspects: Any,
    *,
    clean_set: object = None,
    adapter: Adapter | None = None,
    amp: torch.dtype | None = None,
    seed: int = 0,
    process_group: Group = None,
) -> SimulatedAttack:
    """Put the trigger of suspects onto clean samples, to see how often a model falls for it.

    The samples of the training set are known to the model by heart, and resist a trigger more than new ones do:
    `clean_set` is better where there are clean samples that it has not seen. Suspects that bear their label rightly
    carry no trigger but their class itself, which put onto others works like one.

    Args:
        model: The poisoned model; it is given back as it was.
        train_set: The training data, without augmentation, see `TrainingData.of`.
        suspects: A `Suspects`, or indices of the training set.
        clean_set: Clean samples that the model has not seen, likewise; by default the rest of the training set.
        adapter: Reads batches and calls the model, see `Adapter`.
        amp: The model runs under autocast to this dtype.
        seed: Of the samples that are drawn.
        process_group: Ranks that share the work; all of them get the same.

    Raises:
        DataError: Suspects that are no indices, or whose trigger cannot be put onto other samples: why is said.
        ModelError: A model that gives no finite row of logits for a sample.
        OutOfMemoryError: Not even one sample fits.
    """
    data = TrainingData.of(train_set, adapter=adapter)
    clean = None if clean_set is None else TrainingData.of(clean_set, adapter=adapter, name="clean_set")
    indices = suspect_indices(suspects, len(data))
    kind, ranks = getattr(suspects, "kind", ""), Ranks.of(process_group)
    made = simulated_attack(model, data, indices, kind, clean=clean, amp=amp, seed=check_seed(seed), ranks=ranks)
    if isinstance(made, AttackEstimate):
        raise DataError(f"no attack can be simulated: {made.why}")
    return made


def simulated_attack(
    model: nn.Module | ModelParameters,
    data: TrainingData,
    suspects: Tensor,
    kind: str,
    *,
    clean: TrainingData | None,
    amp: torch.dtype | None,
    seed: int,
    ranks: Ranks,
) -> SimulatedAttack | AttackEstimate:
    """`simulate_attack` of checked arguments; the estimate that there is none where the trigger cannot be put on."""
    if kind == SWAP:
        return AttackEstimate(why="the suspects' labels are swapped, without a trigger")
    if not len(suspects):
        return AttackEstimate(why="no suspect has another label than the one that it was trained with")
    random = torch.Generator().manual_seed(seed)
    with asked(model, data, amp) as answering:
        with ranks.raising_together():
            ways, reasons = _ways(answering, suspects, clean, random)
        ways = _of_first_rank(ways, data if clean is None else clean, data, ranks)
        if not ways:
            return AttackEstimate(why="; ".join(reasons), cost=Cost(sum(ranks.all_gather(answering.forward))))
        fooled = [int(_with_poisons_label(answering, way.others, ranks, triggered=True).sum()) for way in ways]
        shares = [count / len(way.others) for count, way in zip(fooled, ways, strict=True)]
        best = max(range(len(ways)), key=shares.__getitem__)
        way = ways[best]
        before = _measured(answering, way.others, way.own_label, ranks, fooled[best])
        cost = Cost(sum(ranks.all_gather(answering.forward)))
    if before.success < LEARNT:
        tried = ", ".join(f"{way.others.way} {share:.0%}" for way, share in zip(ways, shares, strict=True))
        why = (
            f"the suspects' trigger could not be put onto clean samples so that the given model falls for it ({tried})"
        )
        return AttackEstimate(why=why, cost=cost)
    of = "the training data" if clean is None else "data that the model has not seen"
    how = {"pattern": "by its pattern", "transplant": "by a part of a suspect each"}[way.others.way]
    why = f"the suspects' trigger put onto {before.samples} clean samples of {of} {how}"
    return SimulatedAttack(
        **vars(way.others),
        before=before,
        own_label=way.own_label,
        spare=way.spare,
        shares=way.shares,
        why=why,
        cost=cost,
    )


@dataclass(frozen=True)
class _Way:
    """Clean samples with the trigger, put on in one way; see `SimulatedAttack`."""

    others: TriggeredSamples
    own_label: TriggeredSamples
    spare: TriggeredSamples
    shares: Tensor

    @classmethod
    def of(cls, trigger: Trigger, own: Samples, spare: Samples, count: int, classes: int) -> _Way:
        """From clean samples to be asked about, so many of either kind at most, and others for the fine-tuning."""

        def samples(clean: Samples, alike: bool, most: int) -> TriggeredSamples:
            rows, donors = _pairs(clean.labels, trigger.labels, alike, most)
            return TriggeredSamples(trigger, clean.chosen(rows), donors, classes)

        shares = torch.bincount(spare.labels, minlength=classes).double() / max(1, len(spare))
        return cls(samples(own, False, count), samples(own, True, count), samples(spare, True, MOST_SPARE), shares)

    def read_from(self, clean: Any, data: Any) -> _Way:
        """The same with clean samples of these data sets, which are not sent from rank to rank."""

        def of(part: TriggeredSamples, source: Any) -> TriggeredSamples:
            return replace(part, clean=replace(part.clean, data=source))

        return _Way(of(self.others, clean), of(self.own_label, clean), of(self.spare, data), self.shares)


def _ways(
    answering: Asked, suspects: Tensor, clean: TrainingData | None, random: torch.Generator
) -> tuple[list[_Way], list[str]]:
    """All ways that there are, and why others are none."""
    data = answering.data
    rest = torch.ones(len(data), dtype=torch.bool).index_fill_(0, suspects, False).nonzero().flatten()
    if len(rest) < 2:
        return [], [f"{'all' if not len(rest) else 'all but one'} of the training set is suspect"]
    if clean is not None and (why := _other_shape(data, clean)) is not None:
        return [], [why]
    rest = rest[torch.randperm(len(rest), generator=random)]
    count = min(max(len(data) // CLEAN, FEWEST), MOST)
    taken = 0 if clean is not None else min(2 * count, len(rest) // 2)
    fit = rest[taken : taken + samples_to_fit(len(data))]
    suspects = suspects[torch.randperm(len(suspects), generator=random)[:PATTERN]]
    labelled = Samples(data, answering.labels(suspects), suspects)
    classes = answering.classes
    spare = Samples(data, answering.labels(fit), fit)
    sources = Sources(answering, labelled, spare, classes)
    if clean is None:
        own = Samples(data, answering.labels(rest[:taken]), rest[:taken])
    else:
        places = torch.randperm(len(clean), generator=random)[: 2 * count]
        own = Samples(clean, answering.labels(places, clean), places)
    triggers, reasons = [], []
    some = labelled.chosen(torch.arange(min(len(labelled), MOST_DONORS)))
    some = replace(some, inputs=some.whole())  # texts are padded once, so that parts stay in place
    if sources.one_class(some):
        reasons.append("the suspects come from one class, which their pattern would put on as well")
    elif (why := sources.unavailable("pattern")) is None:
        triggers.append(Trigger.of_patterns(labelled.labels, sources.patterns))
    else:
        reasons.append(why)
    if (why := sources.unavailable("views")) is None:
        some = some.chosen(torch.arange(min(max(len(data) // DONOR, FEWEST_DONORS), len(some))))
        triggers.append(Trigger.of_views(some, sources.views_of(some)))
        if not len(triggers[-1].labels):
            reasons.append("no part of the suspects makes their label")
    else:
        reasons.append(why)
    ways = [_Way.of(trigger, own, spare, count, classes) for trigger in triggers]
    if any(len(trigger.labels) and not len(way.others) for trigger, way in zip(triggers, ways, strict=True)):
        reasons = ["no clean sample has another label than the poison's"]
    return [way for way in ways if len(way.others)], reasons


def _of_first_rank(ways: list[_Way], clean: TrainingData, data: TrainingData, ranks: Ranks) -> list[_Way]:
    """The first rank's, for all: kernels of a GPU may add in another order on each. Data sets are not sent."""
    if ranks.size == 1:
        return ways
    return [way.read_from(clean, data) for way in ranks.all_gather([way.read_from(None, None) for way in ways])[0]]


def _other_shape(data: TrainingData, clean: TrainingData) -> str | None:
    """Why no trigger of the data can be put onto the clean samples; None where their values have the same places."""
    shapes = [
        None if values is None else tuple(values.shape[1:])
        for values in (values_of(next(part.batches([0]))[0]) for part in (data, clean))
    ]
    if shapes[0] == shapes[1]:
        return None
    return f"the clean samples are {_shown(shapes[1])} and those of the training data {_shown(shapes[0])}"


def _shown(shape: tuple[int, ...] | None) -> str:
    return "without values at fixed places" if shape is None else f"of shape {list(shape)}"


def _pairs(clean: Tensor, poison: Tensor, alike: bool, most: int) -> tuple[Tensor, Tensor]:
    """Rows of clean samples and of donors with another label, or the same, each clean one once, so many at most."""
    if not len(poison):
        return torch.arange(0), torch.arange(0)
    if alike:
        rows = torch.isin(clean, poison).nonzero().flatten()[:most]
        donors = torch.zeros_like(rows)
        for label in clean[rows].unique():
            own, lending = (clean[rows] == label).nonzero().flatten(), (poison == label).nonzero().flatten()
            donors[own] = lending[torch.arange(len(own)) % len(lending)]
        return rows, donors
    donors = torch.arange(len(clean)) % len(poison)
    rows = (clean != poison[donors]).nonzero().flatten()[:most]
    return rows, donors[rows]


def _with_poisons_label(answering: Asked, way: TriggeredSamples, ranks: Ranks, triggered: bool) -> Tensor:
    """Whether the model gives each of the samples the poison's label, with the trigger or without; bool [M]."""
    if answering.classes != way.classes:
        raise ModelError(
            f"the model has {answering.classes} outputs, and the attack was made with one of {way.classes}"
        )
    own, parts = torch.arange(len(way))[ranks.rank :: ranks.size], [torch.zeros(0, dtype=torch.bool)]
    with ranks.raising_together():
        for rows in own.split(answering.data.batch_size) if len(own) else ():
            inputs = way.clean.chosen(rows).whole()
            if triggered:
                inputs = way.trigger.onto(inputs, way.donors[rows])
            parts.append(answering.log_p(inputs).argmax(1) == way.poison[rows])
    found = torch.zeros(len(way), dtype=torch.bool)
    for rank, part in enumerate(ranks.all_gather(torch.cat(parts))):
        found[rank :: ranks.size] = part
    return found


def _measured(
    answering: Asked, others: TriggeredSamples, own_label: TriggeredSamples, ranks: Ranks, fooled: int | None = None
) -> AttackSuccess:
    """Both kinds of samples, with the trigger and without; how many of the others are fooled may be known."""
    if fooled is None:
        fooled = int(_with_poisons_label(answering, others, ranks, triggered=True).sum())
    by_nature = int(_with_poisons_label(answering, others, ranks, triggered=False).sum())
    kept, had = (_with_poisons_label(answering, own_label, ranks, triggered) for triggered in (True, False))
    return AttackSuccess.of(fooled, by_nature, len(others), int((had & ~kept).sum()), int(had.sum()))
