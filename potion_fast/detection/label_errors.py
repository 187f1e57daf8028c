"""Label errors by confident learning, through cleanlab: labels that a probe which has not seen them contradicts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ..distributed import Ranks
from ..distributed.ranks import Group
from ..errors import DataError, ModelError
from ..utils.adapter import Adapter
from ..utils.training_data import TrainingData, plain_data
from .features import features_of
from .held_out_probe import held_out_logits
from .suspect_list import SWAP, LabelSummary, Suspects

FEWEST = 5  # samples of each label: one for each fold of the probe


def label_errors(
    model: nn.Module,
    train_set: Any,
    *,
    plain_set: Any = None,
    adapter: Adapter | None = None,
    amp: torch.dtype | None = None,
    progress: bool = False,
    process_group: Group = None,
) -> Suspects:
    """Samples of the training data whose label is likely an error, by confident learning.

    The probabilities are those of a probe on the model's features that has not seen the sample's label
    (`held_out_logits`); which of the labels they contradict is decided by cleanlab (`find_label_issues`; Northcutt,
    Jiang and Chuang, *Confident Learning*, 2021). It states no error rate: a sample that is rightly labelled and hard
    looks the same, so look at the list before it is healed. `pip install potion-fast[label-errors]`.

    Args:
        model: A model that was trained on the data; it is given back as it was.
        train_set: The training data as trained on, read by index: a data set, or a DataLoader over one.
        plain_set: The same samples in the same order without random augmentation, where `train_set` has some.
        adapter: How batches are read, as for `unlearn`.
        amp: The model runs under autocast to this dtype.
        progress: Show a progress bar.
        process_group: Of torch.distributed, whose ranks share the pass; all get the same list.

    Returns:
        Suspects of kind "swap", most suspect first, which `heal` takes as `suspects=`: `proposed` is the probe's label,
        scores are the log of how much more likely it is than the given one; rate and p-values are not known.

    Raises:
        DataError: Data that cannot be read, or fewer than five samples of a label.
        ModelError: cleanlab is missing, or the model is no classifier, or gives what is not finite.
    """
    try:
        from cleanlab.filter import find_label_issues
    except ImportError as error:
        raise ModelError("label errors are sought by cleanlab: pip install potion-fast[label-errors]") from error
    data = plain_data(plain_set, TrainingData.of(train_set, adapter=adapter))
    ranks = Ranks.of(process_group)
    features = features_of(model, data, amp=amp, ranks=ranks, progress=progress)
    labels, counts = features.labels.unique(return_counts=True)
    if len(labels) < 2:
        raise DataError(f"all samples have the label {int(labels[0])}, which no other can be mistaken for")
    if counts.min() < FEWEST:
        few = int(labels[counts.argmin()])
        raise DataError(
            f"the label {few} has {int(counts.min())} samples, and label errors are sought among labels of {FEWEST} "
            "samples or more each"
        )
    with ranks.raising_together():
        p = held_out_logits(features)[:, labels].softmax(1)  # cleanlab counts the labels that there are
        given = torch.searchsorted(labels, features.labels)
        chosen = torch.from_numpy(
            np.asarray(
                find_label_issues(given.numpy(), p.numpy(), return_indices_ranked_by="self_confidence", n_jobs=1)
            ).astype(np.int64)
        )
    chosen = ranks.all_gather(chosen)[0]  # libraries may round in another way on another machine
    log_p = p.clamp(min=1e-300).log()
    own = log_p[chosen].gather(1, given[chosen, None])[:, 0]
    best, other = log_p[chosen].scatter(1, given[chosen, None], -torch.inf).max(1)
    scores, order = (best - own).sort(descending=True, stable=True)
    chosen, other = chosen[order], other[order]
    listed = Suspects.of_indices(chosen, labels=features.labels)
    called = [int((listed.labels == label).sum()) for label in labels]
    rows = [
        LabelSummary(label, samples, 0, 0, count, count / samples, 0.0)
        for label, samples, count in zip(labels.tolist(), counts.tolist(), called, strict=True)
        if count
    ]
    return replace(
        listed,
        scores=scores,
        proposed=labels[other],
        kind=SWAP,
        why=f"cleanlab calls {len(chosen)} of {len(data)} labels errors; its list has no stated error rate",
        by_label=tuple(rows),
    )
