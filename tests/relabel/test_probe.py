"""The ridge probe: its error with samples left out, and the shift."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from potion_fast.relabel import probe as module
from potion_fast.relabel.probe import Probe, labels_by_probe


def clusters(samples: int = 60, spread: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(samples) % 3
    centres = 3 * torch.randn(3, 5, generator=generator)
    return centres[labels] + spread * torch.randn(samples, 5, generator=generator), labels


def test_its_accuracy_is_that_of_fits_without_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = clusters(spread=2.5)
    monkeypatch.setattr(module, "PENALTIES", (0.1,))
    fitted = Probe.fitted(features, labels, 3)
    x = (features.double() - fitted.mean) / fitted.spread
    y = functional.one_hot(labels, 3).double() - fitted.shares
    ones = torch.cat([x, torch.ones(len(x), 1)], 1).double()  # an intercept that is not penalised
    penalty = 0.1 * len(x) * torch.diag(torch.tensor([1.0] * 5 + [0.0]).double())
    right = 0
    for left_out in range(len(x)):
        rows = torch.arange(len(x)) != left_out
        weights = torch.linalg.solve(ones[rows].T @ ones[rows] + penalty, ones[rows].T @ y[rows])
        right += int((ones[left_out] @ weights + fitted.shares).argmax() == labels[left_out])
    assert 0.5 < fitted.accuracy < 1 and fitted.accuracy == pytest.approx(right / len(x))


def test_a_shift_that_all_suspects_share_costs_nothing() -> None:
    features, labels = clusters(spread=0.3)
    fitted = Probe.fitted(features, labels, 3)
    given = (labels + 1) % 3
    moved = features.clone()
    for label in range(3):
        rows = given == label
        moved[rows] += 50 * (label + 1) + fitted.mean.float() - features[rows].mean(0)
    # Each label's suspects are of one class, so their mean is that class's, and the shift takes it away.
    assert (labels_by_probe(fitted, moved, given) != given).all()
    mixed = torch.full_like(labels, 0)
    wrong = labels != 0
    assert torch.equal(labels_by_probe(fitted, features + 50, mixed)[wrong], labels[wrong])
