"""Labels for suspects: the source that is best here, and what it says of each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..detection.disagreement import likely_labels
from ..detection.features import Features, features_of
from ..detection.suspect_list import SWAP, suspect_indices
from ..distributed import Group, Ranks
from ..errors import DataError
from ..utils.adapter import Adapter
from ..utils.asked_samples import Asked, Samples, asked
from ..utils.cost import Cost
from ..utils.did_you_mean import did_you_mean
from ..utils.seeding import check_seed
from ..utils.training_data import TrainingData
from ..utils.warn import warn_caller
from .choice import Choice, choose, too_many
from .proposed_labels import ProposedLabels
from .rightly_labelled import rightly_labelled
from .sources import Proposal, Sources, samples_to_fit
from .unlearned import unlearned_labels

Source = Literal["auto", "views", "pattern", "probe", "second-best", "unlearned", "swap"]
SOURCES = ("auto", "views", "pattern", "probe", "second-best", "unlearned", "swap")

MOST_VIEWED = 8  # one of so many samples of the training set has views, which takes 2/3 of an epoch
TRIED, FEWEST_TRIED, MOST_TRIED = 64, 32, 256  # one of so many is asked about, to choose a source


def propose_labels(
    model: nn.Module,
    train_set: object,
    suspects: Any,
    *,
    source: Source = "auto",
    features: Features | None = None,
    found: Sequence[int] | Tensor | None = None,
    adapter: Adapter | None = None,
    amp: torch.dtype | None = None,
    seed: int = 0,
    progress: bool = False,
    process_group: Group = None,
) -> ProposedLabels:
    """The labels that suspects should have, of which nothing but the model and its training data tells.

    Sources:

    - "views": 16 copies of a sample, each with another part hidden (a square of a quarter of an image's sides in the
      data's mean colour; of a text a sixteenth is left out); of the copy in which the given label is least likely, the
      most likely other label. A label that stays likely in all of them is kept.
    - "pattern": what all suspects of a label share at the same places is taken off the inputs; the model's label then,
      the given one too.
    - "probe": a ridge regression on an earlier layer, with the suspects' mean shift taken off.
    - "second-best": the model's best other label.
    - "unlearned": the best other label of the model that `unlearn` gives, from a tenth of the training data.
    - "swap": by a probe that has seen no suspect, and the classes that labels are mistaken for
      (`detection.disagreement.likely_labels`).

    "auto" takes "swap" where the suspects are swaps, which have no trigger to be undone. Else the trigger is put onto
    clean samples, by its pattern or by transplanting the hidden part; where the model then gives half of them the
    poison's label, the first four sources are asked for their right labels, which are known, and the best one is taken;
    of those within 5 points of it the first in the order pattern, views, probe, second-best (see `choice.choose`).
    Where neither way gives poison, the probe is taken, or the second best where the model has no earlier layers, with a
    warning. Suspects that come from one class (a trigger on stop signs alone, `sources.Sources.one_class`) have that
    class in common too: neither pattern nor probe is asked then, and views come before the second best. Suspects that
    bear their label rightly by what probes of early layers say keep it, with a warning (see
    `rightly_labelled.rightly_labelled`): noise and clean-label attacks change none.

    Views and pattern keep labels only where they change at least half of those that are wrong: where more stay, they
    do not undo the trigger, and another label is given to every suspect. "auto" also wants 85 % of the kept labels
    to be right, by what they leave of simulated poison. Views are made of 1/8 of the training data
    at most, drawn at random from the suspects where there are more; the others then get the second best.

    Args:
        model: The poisoned model; it is given back as it was.
        train_set: The training data as trained on, see `TrainingData.of`.
        suspects: A `Suspects`, whose `proposed` labels are taken as they are, or indices of the training set.
        source: One of the above.
        features: Of the whole training set, where they are there: second best and labels come from them.
        found: S_f, for "unlearned"; by default the suspects' own, or else all suspects.
        adapter: Reads batches and calls the model, see `Adapter`.
        amp: The model runs under autocast to this dtype.
        seed: Of the samples that are drawn.
        progress: Show a progress bar.
        process_group: Ranks that share the views; all of them get the same labels.

    Raises:
        DataError: Suspects that are no indices, no sample beside them, or a source that is not available here.
        ModelError: A model that gives no finite row of logits for a sample.
        OutOfMemoryError: Not even one sample fits.
    """
    check_source(source)
    data, ranks = TrainingData.of(train_set, adapter=adapter), Ranks.of(process_group)
    indices, swap = suspect_indices(suspects, len(data)), getattr(suspects, "kind", None) == SWAP
    random = torch.Generator().manual_seed(check_seed(seed))
    with asked(model, data, amp, progress) as answering:
        with ranks.raising_together():
            work = _Work.of(answering, indices, features, random)
            choice = work.choice(source, swap)
        choice = ranks.all_gather(choice)[0]  # kernels of a GPU may add in another order on each
        drawn, rest = _drawn(choice, len(indices), len(data), random)
        shared = choice.source == "views"
        own = drawn[ranks.rank * len(drawn) // ranks.size : (ranks.rank + 1) * len(drawn) // ranks.size]
        with ranks.raising_together():
            cost = Cost()
            if choice.source == "unlearned":
                proposal, cost = work.unlearned(_found(suspects, found, indices), choice)
            else:
                proposal = work.proposal(choice.source, own if shared else drawn)
            others = work.proposal("second-best", rest)
        proposal, others = _joined(proposal, ranks, shared), _joined(others, ranks, shared=False)
        forward = sum(ranks.all_gather(answering.forward)) if shared else answering.forward
    proposal = _believed(proposal, work, work.given[drawn], choice)
    labels = torch.empty_like(indices)
    labels[drawn], labels[rest] = proposal.labels, others.labels
    labels = torch.where(torch.isin(work.given, torch.tensor(choice.rightly, dtype=torch.int64)), work.given, labels)
    if (own_labels := getattr(suspects, "proposed", None)) is not None:  # of a user's edited list
        labels = torch.where(own_labels >= 0, own_labels, labels)
    for text in choice.warnings:
        warn_caller(text)
    return ProposedLabels(
        indices=indices,
        labels=labels,
        kept=labels == work.given,
        source=choice.source,
        why=choice.why,
        right=choice.right,
        cost=cost + Cost(forward),
        warnings=choice.warnings,
    )


def check_source(source: object, name: str = "source") -> None:
    """Check the name of a source.

    Args:
        source: The name.
        name: Of the argument that gave it.

    Raises:
        DataError: There is no such source.
    """
    if source not in SOURCES:
        raise DataError(f"{name} is one of {', '.join(SOURCES)}, not {source!r}{did_you_mean(source, SOURCES)}")


def _drawn(choice: Choice, suspects: int, samples: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Places of the suspects that the source is asked about, and of those that are too many for views."""
    most = max(1, samples // MOST_VIEWED)
    if choice.source != "views" or suspects <= most:
        return torch.arange(suspects), torch.arange(0)
    order = torch.randperm(suspects, generator=random)
    choice.warnings.append(f"views are made of {most} of the {suspects} suspects; the others get the second best")
    return order[:most].sort().values, order[most:].sort().values


def _believed(proposal: Proposal, work: _Work, given: Tensor, choice: Choice) -> Proposal:
    """The proposal with the labels that it keeps, or with other labels for all where it keeps too many."""
    if not choice.keeps:
        return proposal.changed()
    share = proposal.kept.double().mean().item()
    if too_many(share, work.sources.natural(given)):
        choice.warnings.append(
            f"{choice.source} would leave {100 * share:.0f} % of the suspects their label, too many to be so by "
            "nature; each has got the best other label"
        )
        return proposal.changed()
    return proposal


def _rightly(labels: list[int]) -> str:
    """The warning of suspects that bear their label rightly."""
    named = ", ".join(map(str, labels[:10])) + (", …" if len(labels) > 10 else "")
    return (
        f"suspects with the label{'s' * (len(labels) > 1)} {named} bear it rightly, by probes of early layers that "
        "have seen none of them: clean samples, or a poison that changes no label; they keep it"
    )


def _joined(proposal: Proposal, ranks: Ranks, shared: bool) -> Proposal:
    """The proposals of all ranks' parts, or the first rank's, the same on all of them."""
    parts = ranks.all_gather(proposal)
    if not shared:
        return parts[0]
    return Proposal(*(torch.cat([getattr(part, name) for part in parts]) for name in ("labels", "kept", "others")))


def _found(suspects: Any, found: Sequence[int] | Tensor | None, indices: Tensor) -> Tensor:
    """S_f, int64 [F]: as given, or those of the suspects that fit, or all suspects."""
    if found is not None:
        return torch.as_tensor(found).long()
    own, fits = getattr(suspects, "found", None), getattr(suspects, "fits", None)
    if isinstance(own, Tensor) and len(own):
        return own[fits] if isinstance(fits, Tensor) and fits.any() else own
    return indices


@dataclass
class _Work:
    """Suspects and clean samples of one call.

    Attributes:
        asked: The model.
        indices: int64 [K], of the suspects.
        given: int64 [K], the labels that they bear.
        features: Of the whole training set, or None.
        unseen: Samples that are no suspects and that no source is fitted to.
        tried: int64 [t], places of the suspects that are asked about to choose a source.
        sources: That need the model.
    """

    asked: Asked
    indices: Tensor
    given: Tensor
    features: Features | None
    unseen: Samples
    tried: Tensor
    sources: Sources

    @classmethod
    def of(cls, asked: Asked, indices: Tensor, features: Features | None, random: torch.Generator) -> _Work:
        """Draw the samples.

        Raises:
            DataError: There is none beside the suspects.
        """
        data = asked.data
        samples = len(data)
        rest = torch.ones(samples, dtype=torch.bool).index_fill_(0, indices, False).nonzero().flatten()
        if not len(rest):
            raise DataError("all of the training set is suspect; labels are proposed by what clean samples tell")
        rest = rest[torch.randperm(len(rest), generator=random)]
        number = min(max(samples // TRIED, FEWEST_TRIED), MOST_TRIED)
        tried = torch.randperm(len(indices), generator=random)[:number].sort().values
        unseen, clean = rest[: min(number, len(rest) // 4)], rest[min(number, len(rest) // 4) :]
        clean = clean[: samples_to_fit(samples)]
        classes = asked.classes if features is None else features.classes

        def samples_at(places: Tensor) -> Samples:
            labels = asked.labels(places) if features is None else features.labels[places]
            return Samples(data, labels, places)

        second = None if features is None else features.second
        sources = Sources(asked, samples_at(indices), samples_at(clean), classes, second)
        return cls(asked, indices, sources.suspects.labels, features, samples_at(unseen), tried, sources)

    def choice(self, source: Source, swap: bool) -> Choice:
        """The source that was asked for, checked, or the one that is best here."""
        if source == "auto" and swap:
            return Choice("swap", "the suspects' labels are swapped, so there is no trigger to be undone")
        if source == "auto":
            tried = self.sources.suspects.chosen(self.tried)
            choice = choose(self.sources, tried, self.unseen)
            if rightly := rightly_labelled(self.sources, tried, self.unseen):
                choice.rightly = rightly
                choice.warnings.append(_rightly(rightly))
            return choice
        if (why := self.sources.unavailable(source)) is not None:
            raise DataError(f"source={source!r} is not available here: {why}")
        return Choice(source, "it was asked for")

    def proposal(self, source: str, places: Tensor) -> Proposal:
        """What a source says of the suspects at these places [k]."""
        indices, given = self.indices[places], self.given[places]
        if not len(places):  # a rank without a part of its own
            return Proposal.of(given, given)
        if source == "swap":
            asked, features = self.asked, self.features
            if features is None:
                features = features_of(asked.model, asked.data, amp=asked.amp, progress=asked.progress)
                asked.forward += len(asked.data)
            return Proposal.of(likely_labels(features, indices), given)
        return self.sources(source, self.sources.suspects.chosen(places))

    def unlearned(self, found: Tensor, choice: Choice) -> tuple[Proposal, Cost]:
        """What the unlearned model says of all suspects, and what it cost."""
        asked = self.asked
        suspects, clean = self.sources.suspects, self.sources.clean
        assert clean.indices is not None
        labels, cost, warnings = unlearned_labels(
            asked.model, asked.data, suspects, found, clean.indices, asked.amp, asked.progress
        )
        choice.warnings += warnings
        return Proposal.of(labels, self.given), cost
