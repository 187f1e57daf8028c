"""Principal components, and how samples of other labels vary."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from potion_fast.detection import discriminant
from potion_fast.detection.discriminant import (
    WIDE,
    background_of,
    largest_eigenpairs,
    principal_components,
    rows_by_label,
)


@pytest.mark.parametrize("size", [40, WIDE + 8])
def test_the_largest_eigenvalues_are_those_of_all(size: int) -> None:
    half = torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix = half @ half.T
    values, vectors = largest_eigenpairs(matrix, 8)
    everyone = torch.linalg.eigvalsh(matrix).flip(0)
    torch.testing.assert_close(values, everyone[:8], rtol=1e-9, atol=0)
    torch.testing.assert_close(matrix @ vectors, vectors * values, rtol=0, atol=1e-8 * float(values[0]))
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(8, dtype=torch.float64), rtol=0, atol=1e-9)


def test_eigenvalues_that_do_not_converge_are_sought_the_slow_way(monkeypatch: pytest.MonkeyPatch) -> None:
    import scipy.sparse.linalg

    def fails(*arguments: object, **keywords: object) -> None:
        raise scipy.sparse.linalg.ArpackNoConvergence("none", np.empty(0), np.empty((0, 0)))

    monkeypatch.setattr(scipy.sparse.linalg, "eigsh", fails)
    values, vectors = largest_eigenpairs(torch.eye(WIDE + 8, dtype=torch.float64), 8)
    assert torch.equal(values, torch.ones(8, dtype=torch.float64)) and vectors.shape == (WIDE + 8, 8)


def test_components_span_the_same_either_way(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(WIDE + 100, 900, generator=generator) * torch.linspace(5, 1, 900)
    quick = principal_components(samples, torch.arange(0))
    monkeypatch.setattr(discriminant, "WIDE", 10**9)
    whole = principal_components(samples, torch.arange(0))
    torch.testing.assert_close(quick @ quick.T, whole @ whole.T, rtol=0, atol=1e-9)


def test_rows_of_a_label_are_all_of_it_in_ascending_order() -> None:
    labels = torch.randint(7, (200,), generator=torch.Generator().manual_seed(0))
    labels[labels == 4] = 3  # one of none
    rows = rows_by_label(labels)
    assert len(rows) == 7 and not len(rows[4])
    for label, own in enumerate(rows):
        assert torch.equal(own, (labels == label).nonzero().flatten())


def test_the_background_leaves_labels_out_and_takes_each_labels_mean_off() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (300,), generator=generator)
    features = torch.randn(300, 4, generator=generator) + 10 * labels[:, None]
    for rows in (None, rows_by_label(labels)):
        background = background_of(features, labels, torch.tensor([1, 3]), rows)
        assert background.labels.unique().tolist() == [0, 2, 4]
        assert torch.equal(background.labels, labels[background.indices])
        assert len(background) == int(torch.isin(labels, torch.tensor([0, 2, 4])).sum())
        for label in (0, 2, 4):
            assert background.residuals[background.labels == label].mean(0).abs().max() < 1e-5
