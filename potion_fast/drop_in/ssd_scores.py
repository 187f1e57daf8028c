"""The scores that SSD's `ssd_tuning` returns: accuracies, a distance to a teacher, a membership attack."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from ..errors import DataError
from ..utils.batches import inputs_and_labels
from ..utils.warn import warn_caller

Scores = tuple[float, float, Tensor, float, float]
Device = torch.device | str | int


@torch.no_grad()
def percent_correct(model: nn.Module, loader: Iterable[object], device: Device) -> float:
    """Mean of the batches' accuracies, in percent, in float32.

    Args:
        model: Set to eval mode.
        loader: Batches (input, label).
        device: Where both are moved.

    Raises:
        DataError: No batch, or no labels.
    """
    model.eval()
    shares = []
    for batch in loader:
        inputs, labels = inputs_and_labels(batch)
        if labels is None:
            raise DataError("the loader gives no labels to compare the predictions with")
        correct = model(inputs.to(device)).argmax(1) == labels.to(device)
        shares.append(int(correct.sum()) / len(correct))
    if not shares:
        raise DataError("the loader gave no batch; there is nothing to evaluate")
    return (torch.tensor(shares) * 100).mean().item()


@torch.no_grad()
def zero_retrain_forgetting(model: nn.Module, teacher: nn.Module, loader: Iterable[object], device: Device) -> Tensor:
    """1 − ½ · (KL(m ‖ p) + KL(m ‖ q)), averaged over samples and classes.

    p and q are the probabilities of model and teacher, and m is their mean (Chundawat et al., *Can Bad Teaching Induce
    Forgetting?*).

    Returns:
        A tensor [] on the CPU.
    """
    teacher = copy.deepcopy(teacher)  # its batch norms learn in train mode
    probabilities: tuple[list[Tensor], list[Tensor]] = [], []
    for batch in loader:
        inputs = _inputs(batch).to(device)
        for network, values in zip((model, teacher), probabilities, strict=True):
            values.append(F.softmax(network(inputs), dim=1).cpu())
    if not probabilities[0]:
        raise DataError("the loader of what is forgotten gave no batch")
    p, q = (torch.cat(values) for values in probabilities)
    m = (p + q) / 2
    halves = [0.5 * F.kl_div(values.log(), m, reduction="none").mean() for values in (p, q)]
    return 1 - (halves[0] + halves[1])


def membership(
    model: nn.Module, members: Iterable[object], judged: Iterable[object], others: Iterable[object]
) -> float:
    """Share of samples that a logistic regression on the entropy of the outputs takes for members.

    Args:
        model: In eval mode.
        members: Data that it was trained on; their whole data set, where they are a DataLoader.
        judged: Data to be judged, likewise.
        others: Data that it was not trained on, likewise.

    Returns:
        A fraction in [0, 1]; NaN, with a warning, where outputs are not finite.
    """
    from sklearn.linear_model import LogisticRegression  # what it imports takes a second

    of_members, of_judged, of_others = (_entropies(model, loader) for loader in (members, judged, others))
    if not all(np.isfinite(values).all() for values in (of_members, of_judged, of_others)):
        warn_caller("the model collapsed: its outputs are not finite, and no membership is inferred")
        return float("nan")
    known = np.concatenate([of_members, of_others])[:, None]
    labels = np.concatenate([np.ones(len(of_members)), np.zeros(len(of_others))])
    # Two classes' weights ±v share the penalty v² of C = 1 and differ by β = 2v: β² / 4, the binary penalty of C = 2.
    attack = LogisticRegression(C=2.0, class_weight="balanced").fit(known, labels)
    return float(attack.predict(of_judged[:, None]).mean())


@torch.no_grad()
def _entropies(model: nn.Module, loader: Iterable[object]) -> Any:
    """−Σ p ln p of the probabilities of each sample, float32 [N]."""
    if isinstance(loader, DataLoader):
        loader = DataLoader(loader.dataset, batch_size=loader.batch_size or 1, collate_fn=loader.collate_fn)
    device = next(model.parameters()).device
    entropies = [torch.special.entr(F.softmax(model(_inputs(x).to(device)), dim=-1)).sum(-1) for x in loader]
    if not entropies:
        raise DataError("a loader of the membership attack gave no batch")
    return torch.cat(entropies).cpu().numpy()


def _inputs(batch: object) -> Tensor:
    return inputs_and_labels(batch[:1] if isinstance(batch, tuple | list) else batch)[0]
