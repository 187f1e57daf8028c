"""The choice of a source by what it makes of simulated poison, whose right labels are known."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..utils.asked_samples import Samples
from .simulated_poison import LEARNT, SimulatedPoison, by_pattern, by_transplant
from .sources import Proposal, Sources

ORDER = ("pattern", "views", "probe", "second-best")  # of those that are as good as each other
OTHER_WAY = {"views": "pattern", "pattern": "transplant"}  # of simulating poison than the source's own
SPARE = 0.1  # share of suspects, beyond that of their label, which one source alone may take for natural members
SURE = 0.85  # least share of kept labels that must be so by nature: ResNet-9 0.93 (14 of 16 were), ViT 0.79 (5 of 11)
TAKE_WHAT_IS_COMMON = ("pattern", "probe")  # off the suspects
MAY_KEEP = ("pattern", "views")  # labels as they are
FROM_ONE_CLASS = "the suspects come from one class, which pattern and probe would take off them as well"
REASONS = {
    "views": "views and second best mostly say the same one",
    "probe": "probe needs nothing hidden or taken off the inputs",
    "second-best": "second-best needs nothing hidden or taken off the inputs",
}  # for sources that were not measured
MARGIN = 0.05  # share of right labels by which a source must be better than one before it


@dataclass
class Choice:
    """Which source is taken, and why.

    Attributes:
        source: Its name.
        why: In one sentence.
        keeps: Whether labels that it leaves as they are stay so, where they are not too many; else it changes all.
        right: By source, the share of right labels to be expected.
        rightly: Labels that all suspects keep, as they bear them rightly.
        warnings: What deserves a second look.
    """

    source: str
    why: str
    keeps: bool = True
    right: dict[str, float] = field(default_factory=dict)
    rightly: list[int] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def choose(sources: Sources, tried: Samples, unseen: Samples) -> Choice:
    """The source with the largest share of right labels to be expected.

    Simulated poison (`simulated_poison`) shows which share f of it a source leaves its label, though none deserves it,
    and which share u of the labels that it changes is right. Of the suspects it leaves the share s = n + (1 − n) f, n
    being the share of those that bear their label by nature, which follows from s and f. A wrong label that is kept
    keeps the trigger alive, so a source keeps labels only where n / s is at least 0.85 and s is not `too_many`; it is
    then right for n + u (1 − s) of the suspects. Another source changes all labels, and is right for u (1 − n), by the
    smallest n of the sources that keep labels. Where the suspects come from one class (`Sources.one_class`), pattern
    and probe are left out, and no poison is simulated by the pattern. Views are measured on poison simulated by the
    pattern, and the pattern on transplants, where both are poison: a source would find its own simulation easy.

    Args:
        sources: The sources.
        tried: Suspects that are asked about.
        unseen: Samples that are no suspects and that no source is fitted to, with their right labels.
    """
    names = [name for name in ORDER if sources.unavailable(name) is None]
    if len(names) == 1:
        return Choice("second-best", f"no other source is available: {sources.unavailable('views')}")
    choice = _chosen(sources, names, tried, unseen, one_class := sources.one_class(tried))
    if one_class:
        choice.why += f"; {FROM_ONE_CLASS}"
    return choice


def _chosen(sources: Sources, names: list[str], tried: Samples, unseen: Samples, one_class: bool) -> Choice:
    """The best of several sources."""
    if one_class:
        names = [name for name in names if name not in TAKE_WHAT_IS_COMMON]
    ways = _simulated(sources, tried, unseen, one_class)
    poison = {way.way: way for way in ways if way.success >= LEARNT}
    if not poison:
        return _unmeasured(names, ways, one_class)
    simulated = max(poison.values(), key=lambda way: way.success)
    if "probe" in names:
        sources.choose_layer(simulated.samples, simulated.right)
    natural = sources.natural(tried.labels)
    measured = {name: _measured(sources, name, tried, poison, simulated, natural) for name in names}
    n = min((part.natural for part in measured.values() if part.keeps), default=0.0)
    right = {name: part.right if part.keeps else part.right * (1 - n) for name, part in measured.items()}
    best = max(right.values())
    source = next(name for name in names if right[name] >= best - MARGIN)
    figures = ", ".join(f"{name} {100 * share:.0f} %" for name, share in right.items())
    why = (
        f"of clean samples with the trigger put on ({simulated.way}; the model gives {100 * simulated.success:.0f} % "
        f"of them the poison's label) the sources give their right labels back: {figures}"
    )
    return Choice(source, why, measured[source].keeps, right)


def too_many(share: float, natural: float) -> bool:
    """Whether a source leaves so many suspects their label that it changes less than half of the wrong ones.

    Args:
        share: Of the suspects, that it leaves.
        natural: Share of clean samples that bear such a label.
    """
    return share > (1 + natural) / 2


@dataclass(frozen=True)
class _Measured:
    """What suspects and simulated poison say of a source.

    Attributes:
        keeps: Whether it may keep labels.
        natural: n, the share of suspects that bear their label by nature.
        right: Share of right labels; of a source that keeps none, among those that are not so by nature.
    """

    keeps: bool
    natural: float
    right: float


def _measured(
    sources: Sources,
    name: str,
    tried: Samples,
    poison: dict[str, SimulatedPoison],
    best: SimulatedPoison,
    natural: float,
) -> _Measured:
    """A source on suspects, and on poison that was not simulated by its own means where there is such."""
    other = poison.get(OTHER_WAY.get(name, best.way))
    simulated = best if other is None else other
    on_simulated = sources(name, simulated.samples)
    left = _share(sources(name, tried).kept) if name in MAY_KEEP else 0.0
    failed = _share(on_simulated.kept)
    n = max(0.0, (left - failed) / (1 - failed)) if failed < 1 else 0.0
    if other is None:  # no other way says the same
        n = min(n, natural + SPARE)
    if left and n / left >= SURE and not too_many(left, natural):
        return _Measured(True, n, n + _right_changes(on_simulated, simulated.right) * (1 - left))
    return _Measured(False, n, _right_changes(on_simulated.changed(), simulated.right))


def _share(mask: Tensor) -> float:
    return mask.double().mean().item()


def _right_changes(proposal: Proposal, right: Tensor) -> float:
    """Share of the labels that a source changes which are right."""
    changed = ~proposal.kept
    return _share((proposal.labels == right)[changed]) if changed.any() else 0.0


def _simulated(sources: Sources, tried: Samples, unseen: Samples, one_class: bool) -> list[SimulatedPoison]:
    """Clean samples with the trigger, by each way that there is."""
    pairs = _pairs(tried.labels, unseen.labels)
    if not pairs:
        return []
    suspects, rows = (torch.tensor(places) for places in zip(*pairs, strict=True))
    donors, clean = tried.chosen(suspects), unseen.chosen(rows)
    found = []
    if sources.unavailable("pattern") is None and not one_class:
        found.append(by_pattern(sources.asked, clean, donors.labels, sources.patterns))
    if sources.unavailable("views") is None:
        found.append(by_transplant(sources.asked, clean, donors, sources.views_of(donors)))
    return [way for way in found if way is not None]


def _pairs(poison: Tensor, clean: Tensor) -> list[tuple[int, int]]:
    """Places (suspect, clean sample) whose labels differ, each clean sample once."""
    pairs, waiting = [], list(range(len(clean)))
    for suspect, label in enumerate(poison.tolist()):
        place = next((row for row in waiting if clean[row] != label), None)
        if place is not None:
            waiting.remove(place)
            pairs.append((suspect, place))
    return pairs


def _unmeasured(names: list[str], ways: list[SimulatedPoison], one_class: bool) -> Choice:
    """The choice where the trigger cannot be put onto clean samples."""
    fallbacks = ("views", "second-best") if one_class else ("probe", "second-best")
    source = next(name for name in fallbacks if name in names)
    tried = ", ".join(f"{way.way} {100 * way.success:.0f} %" for way in ways) or "no way of doing so fits the data"
    why = (
        "the trigger could not be put onto clean samples so that the model gives them the poison's label "
        f"({tried}), so no source was measured; {REASONS[source]}"
    )
    return Choice(source, why, warnings=[f"the labels proposed could not be checked: {why}"])
