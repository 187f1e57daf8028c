"""The choice of a source by what it makes of simulated poison, whose right labels are known."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .samples import Samples
from .simulated_poison import LEARNT, SimulatedPoison, by_pattern, by_transplant
from .sources import Proposal, Sources

ORDER = ("pattern", "views", "probe", "second-best")  # of those that are as good as each other
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

    Simulated poison (`simulated_poison`) shows what share u of the labels that a source changes is right. Of the
    suspects themselves a source leaves the share s their label. Up to the share of the label among clean samples, and
    up to the smallest s, n, that is right. A source that keeps labels is right for n + u (1 − s), the others for
    u (1 − n); a source that keeps most suspects' labels does not undo the trigger, and changes all of them instead.

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
    shares = torch.bincount(unseen.labels, minlength=sources.classes) / len(unseen)
    natural = shares[tried.labels].mean().item()
    kept = {name: proposal.kept.double().mean().item() for name, proposal in on_suspects.items()}
    keeps = {name: 0 < share <= (1 + natural) / 2 for name, share in kept.items()}
    n = min([natural, *(kept[name] for name in names if keeps[name])]) if any(keeps.values()) else 0.0
    right = {}
    for name in names:
        u = _right_changes(on_simulated[name] if keeps[name] else on_simulated[name].changed(), simulated.right)
        right[name] = n + u * (1 - kept[name]) if keeps[name] else u * (1 - n)
    best = max(right.values())
    source = next(name for name in names if right[name] >= best - MARGIN)
    figures = ", ".join(f"{name} {100 * share:.0f} %" for name, share in right.items())
    why = (
        f"of clean samples with the trigger put on ({simulated.way}; the model gives {100 * simulated.success:.0f} % "
        f"of them the poison's label) the sources give their right labels back: {figures}"
    )
    return Choice(source, why, right)


def _right_changes(proposal: Proposal, right: Tensor) -> float:
    """Share of the labels that a source changes which are right."""
    changed = ~proposal.kept
    return (proposal.labels == right)[changed].double().mean().item() if changed.any() else 0.0


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
