"""Whether suspects bear their label rightly: what probes of early layers, which have seen none of them, say.

Poison need not change labels: noise does not, nor do clean-label attacks; and what was found may be clean after all. A
probe of an early layer, where a trigger does not yet look like the poison's label, gives suspects the label that they
bear if they deserve it: no new labels are due then.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..utils.asked_samples import Samples
from ..utils.layer_outputs import layer_outputs
from .sources import Sources

RIGHTLY = 0.4  # share of a label's suspects: 0.02 to 0.25 on nine runs with a trigger, 0.56 and more with noise
TELLS = 0.25  # least share of a label's samples that a probe tells from others
FEWEST = 8  # suspects that a share is taken of; those of rarer labels are taken together


def rightly_labelled(sources: Sources, suspects: Samples) -> list[int]:
    """Labels whose suspects bear them rightly, by the probes of the first half of the layers.

    A probe gives its label to the share h of a label's clean samples (left out), and to f of the others. Where it does
    so to the share s of the suspects that bear the label, (s − f) / (h − f) of them bear it rightly; the mean over the
    probes with h − f of 0.25 at least is taken.

    Args:
        sources: With the probes.
        suspects: K of the suspects, drawn at random.
    """
    if sources.unavailable("probe") is not None:
        return []
    layers = sources.layers[: (len(sources.layers) + 1) // 2]
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
        mean = share[torch.isin(given, torch.tensor(group, dtype=given.dtype))].nanmean()  # NaN where nothing tells
        rightly += group if mean > RIGHTLY else []
    return rightly
