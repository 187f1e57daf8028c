"""Whether suspects bear their label rightly: what probes of early layers, which have seen none of them, say.

Poison need not change labels: noise does not, nor do clean-label attacks; and what was found may be clean after all. A
probe of an early layer, where a trigger does not yet look like the poison's label, gives suspects the label that they
bear if they deserve it: no new labels are due then. Where the trigger does look like it from the first layer on, as a
word may, or a pattern that is blended in, two others tell: hiding a part takes a wrong label from nearly every sample,
and a right one from few; and samples that come from several classes vary as these do.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..detection.class_spread import ClassDirections, LayerOutputs, class_spread
from ..utils.asked_samples import Samples
from ..utils.layer_outputs import layer_outputs
from .sources import Sources

RIGHTLY = 0.35  # share, beyond that of their label, of suspects: 0.0 to 0.17 on nine runs with a trigger, noise 0.51
TELLS = 0.25  # least share of a label's samples that a probe tells from others
FEWEST = 8  # suspects that a share is taken of; those of rarer labels are taken together
BROKEN = 0.5  # of those not right by chance, beyond clean samples' share: from which hiding a part may take the label
FEWEST_CLASSES = 3  # of which one can be told from several
SPREAD = 0.5  # 0: as one class, 1: as all; 200 clean ones 0.0 to 0.5, 200 poisoned 0.6 to 1.0 (seven runs, untrimmed)
TYPICAL = 0.9  # share of samples by which it is measured
COMPARED = 32  # clean samples of the same labels, at most


def rightly_labelled(sources: Sources, suspects: Samples, unseen: Samples) -> list[int]:
    """Labels whose suspects bear them rightly, by probes and spread in the first half of the layers, and by views.

    A probe gives its label to the share h of a label's clean samples (left out), and to f of the others. Where it does
    so to the share s of the suspects that bear the label, (s − f) / (h − f) of them bear it rightly; the mean over the
    probes with h − f of 0.25 at least is taken, and is to be well above the share of clean samples with it. Those
    of one label must also vary as samples of one class do (`class_spread`), where there are three classes or more.

    Args:
        sources: With the probes.
        suspects: K of the suspects, drawn at random.
        unseen: Samples that are no suspects and that no source is fitted to, with their right labels.
    """
    if sources.unavailable("probe") is not None:
        return []
    layers = list(sources.early_outputs)
    outputs = layer_outputs(sources.asked, suspects, layers)
    given = suspects.labels
    shares: list[Tensor] = []  # by layer, of each suspect: what it adds to the share of its label
    for layer in layers:
        found = sources.probes[layer]
        hits, false = found.hits[given], found.false[given]
        share = ((found.scores(outputs[layer]).argmax(1) == given).double() - false) / (hits - false)
        shares.append(torch.where(hits - false >= TELLS, share, torch.nan))
    share = torch.stack(shares).nanmean(0)
    labels, counts = given.unique(return_counts=True)
    common = labels[counts >= FEWEST].tolist()
    rare = [label for label in sources.suspects.labels.unique().tolist() if label not in common]
    groups = [[label] for label in common] + [rare]
    rightly: list[int] = []
    for group in groups:
        members = torch.tensor(group, dtype=given.dtype)
        mean = share[torch.isin(given, members)].nanmean()  # NaN where nothing tells
        natural = sources.natural(given[torch.isin(given, members)])  # of two classes half the poison is right so
        if (
            mean > natural + RIGHTLY * (1 - natural)
            and not (len(group) == 1 and _varies_as_several(sources, outputs, given, group[0]))
            and not _hiding_takes_it(sources, suspects, unseen, members, natural)
        ):
            rightly += group
    return rightly


def _varies_as_several(sources: Sources, outputs: dict[str, Tensor], given: Tensor, label: int) -> bool:
    """Whether the suspects of a label vary as samples of several classes do; False where nothing tells."""
    labels = sources.clean.labels
    held_out, own = torch.arange(len(labels)) % 2 == 1, labels == label
    if len(labels.unique()) < FEWEST_CLASSES or int((held_out & own).sum()) < 2:
        return False
    read = []
    for layer, found in outputs.items():
        clean = sources.early_outputs[layer]
        directions = ClassDirections.of(clean[~held_out], labels[~held_out])
        if directions is not None:
            parts = (found[given == label], clean[held_out & own], clean[held_out & ~own])
            read.append(LayerOutputs(directions, *(_typical(directions, part) for part in parts)))
    return class_spread(read) > SPREAD


def _typical(directions: ClassDirections, outputs: Tensor) -> Tensor:
    """The nine tenths of samples [n, D] that are nearest to their median: poison that was missed lies far from it."""
    places = (outputs.double() - directions.mean) @ directions.basis[:, : directions.count]
    distances = (places - places.median(0).values).square().sum(1)
    return outputs[distances <= distances.quantile(TYPICAL)]


def _hiding_takes_it(sources: Sources, suspects: Samples, unseen: Samples, group: Tensor, natural: float) -> bool:
    """Whether hiding a part takes these labels from more of the suspects than it does from clean samples."""
    if sources.unavailable("views") is not None:
        return False
    own, clean = (torch.isin(samples.labels, group).nonzero().flatten() for samples in (suspects, unseen))
    taken, by_chance = (
        sources.views_of(samples.chosen(rows)).broken.double().mean().item() if len(rows) else 0.0
        for samples, rows in ((suspects, own), (unseen, clean[:COMPARED]))
    )
    return taken - by_chance > BROKEN * (1 - natural) * (1 - by_chance)
