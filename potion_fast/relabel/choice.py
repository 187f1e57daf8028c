"""The choice of a source by what it makes of simulated poison, whose right labels are known."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .samples import Samples
from .simulated_poison import LEARNT, SimulatedPoison, by_pattern, by_transplant
from .sources import Proposal, Sources

ORDER = ("pattern", "views", "probe", "second-best")  # of those that are as good as each other
SPARE = 0.1  # share of suspects, beyond that of their label, which one source alone may take for natural members
MARGIN = 0.05  # share of right labels by which a source must be better than one before it


@dataclass
class Choice:
    """Which source is taken, and why.

    Attributes:
        source: Its name.
        why: In one sentence.
        right: By source, the share of right labels to be expected.
        warnings: What deserves a second look.
    """

    source: str
    why: str
    right: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def choose(sources: Sources, tried: Samples, unseen: Samples) -> Choice:
    """The source with the largest share of right labels to be expected.

    Simulated poison (`simulated_poison`) shows which share f of it a source leaves its label, though none deserves it,
    and which share u of the labels that it changes is right. Of the suspects it leaves the share s: n + (1 − n) f, if n
    is the share of those that bear their label by nature; the smallest such n of all sources is taken. A source that
    keeps labels is then right for n + u (1 − s) of the suspects, another one for u (1 − n). Where s is too large
    (`too_many`) the trigger is not undone, and the source changes all labels.

    Args:
        sources: The sources.
        tried: Suspects that are asked about.
        unseen: Samples that are no suspects and that no source is fitted to, with their right labels.
    """
    names = [name for name in ORDER if sources.unavailable(name) is None]
    if len(names) == 1:
        return Choice("second-best", f"no other source is available: {sources.unavailable('views')}")
    simulated, rates = _simulated(sources, tried, unseen)
    if simulated is None:
        return _unmeasured(names, rates)
    if "probe" in names:
        sources.choose_layer(simulated.samples, simulated.right)
    on_suspects = {name: sources(name, tried) for name in names}
    on_simulated = {name: sources(name, simulated.samples) for name in names}
    natural = sources.natural(tried.labels)
    left = {name: _share(proposal.kept) for name, proposal in on_suspects.items()}
    keeping = [name for name in names if left[name] > 0 and not too_many(left[name], natural)]
    n = _natural_members(keeping, left, {name: _share(on_simulated[name].kept) for name in keeping}, natural)
    right = {}
    for name in names:
        keeps = name in keeping
        u = _right_changes(on_simulated[name] if keeps else on_simulated[name].changed(), simulated.right)
        right[name] = n + u * (1 - left[name]) if keeps else u * (1 - n)
    best = max(right.values())
    source = next(name for name in names if right[name] >= best - MARGIN)
    figures = ", ".join(f"{name} {100 * share:.0f} %" for name, share in right.items())
    why = (
        f"of clean samples with the trigger put on ({simulated.way}; the model gives {100 * simulated.success:.0f} % "
        f"of them the poison's label) the sources give their right labels back: {figures}"
    )
    return Choice(source, why, right)


def too_many(share: float, natural: float) -> bool:
    """Whether a source leaves so many suspects their label that it changes less than half of the wrong ones.

    Args:
        share: Of the suspects, that it leaves.
        natural: Share of clean samples that bear such a label.
    """
    return share > (1 + natural) / 2


def _natural_members(keeping: list[str], left: dict[str, float], failed: dict[str, float], natural: float) -> float:
    """The share n of suspects that bear their label by nature, from the sources that keep labels."""
    found = [max(0.0, (left[name] - failed[name]) / (1 - failed[name])) for name in keeping if failed[name] < 1]
    if len(found) == 1:  # no other source says the same
        found.append(natural + SPARE)
    return min(found, default=0.0)


def _share(mask: Tensor) -> float:
    return mask.double().mean().item()


def _right_changes(proposal: Proposal, right: Tensor) -> float:
    """Share of the labels that a source changes which are right."""
    changed = ~proposal.kept
    return _share((proposal.labels == right)[changed]) if changed.any() else 0.0


def _simulated(sources: Sources, tried: Samples, unseen: Samples) -> tuple[SimulatedPoison | None, dict[str, float]]:
    """Simulated poison that is believed, and the success of each way that was tried."""
    pairs = _pairs(tried.labels, unseen.labels)
    if not pairs:
        return None, {}
    suspects, rows = (torch.tensor(places) for places in zip(*pairs, strict=True))
    donors, clean = tried.chosen(suspects), unseen.chosen(rows)
    found = []
    if sources.unavailable("pattern") is None:
        found.append(by_pattern(sources.asked, clean, donors.labels, sources.patterns))
    if sources.unavailable("views") is None:
        found.append(by_transplant(sources.asked, clean, donors, sources.views_of(donors)))
    ways = [way for way in found if way is not None]
    best = max(ways, key=lambda way: way.success, default=None)
    return (best if best is not None and best.success >= LEARNT else None), {way.way: way.success for way in ways}


def _pairs(poison: Tensor, clean: Tensor) -> list[tuple[int, int]]:
    """Places (suspect, clean sample) whose labels differ, each clean sample once."""
    pairs, waiting = [], list(range(len(clean)))
    for suspect, label in enumerate(poison.tolist()):
        place = next((row for row in waiting if clean[row] != label), None)
        if place is not None:
            waiting.remove(place)
            pairs.append((suspect, place))
    return pairs


def _unmeasured(names: list[str], rates: dict[str, float]) -> Choice:
    """The choice where the trigger cannot be put onto clean samples."""
    source = "probe" if "probe" in names else "second-best"
    tried = ", ".join(f"{way} {100 * rate:.0f} %" for way, rate in rates.items()) or "no way of doing so fits the data"
    why = (
        "the trigger could not be put onto clean samples so that the model gives them the poison's label "
        f"({tried}), so no source was measured; {source} needs nothing hidden or taken off the inputs"
    )
    return Choice(source, why, warnings=[f"the labels proposed could not be checked: {why}"])
