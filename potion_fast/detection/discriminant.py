"""Direction in which poison stands apart from the other samples of its label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]

COMPONENTS = (8, 32)  # fewest and most principal components of a label's samples that are kept
PER_COMPONENT = 12  # samples of the label
ROWS = 4096  # samples of other labels that are read, and rows that a wide layer's components are taken from
PER_LABEL = 512  # of them from one label
WIDE = 512  # rows of a matrix from which a few of its eigenvectors are sought by themselves
LEAST = 8  # samples of a label that tell how samples of one label vary


@dataclass(frozen=True)
class Background:
    """How samples of one label vary about their mean, from labels that S_f does not bear.

    Attributes:
        residuals: float32 [M, D], features less their label's mean.
        labels: int64 [M].
        indices: int64 [M], of the samples.
    """

    residuals: Tensor
    labels: Tensor
    indices: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def rows_by_label(labels: Tensor) -> list[Tensor]:
    """Samples of each label from 0, in ascending order: int64 [n] each.

    Args:
        labels: int64 [N].
    """
    return list(labels.argsort(stable=True).split(labels.bincount().tolist()))


def background_of(
    features: Tensor, labels: Tensor, left_out: Tensor, rows_of: list[Tensor] | None = None
) -> Background:
    """Residuals of at most `ROWS` samples, `PER_LABEL` of a label; which, follows from the labels alone.

    Args:
        features: float32 [N, D].
        labels: int64 [N].
        left_out: Labels of S_f.
        rows_of: From `rows_by_label`, where it is there.
    """
    rows_of = rows_by_label(labels) if rows_of is None else rows_of
    counts = torch.tensor([len(rows) for rows in rows_of])
    counts[left_out] = 0
    able = (counts >= LEAST).nonzero().flatten()
    rows, total = [], 0
    for label in spread(able, ROWS // LEAST).tolist() if len(able) else ():
        if total >= ROWS:
            break
        chosen = spread(rows_of[label], max(LEAST, min(PER_LABEL, ROWS // len(able))))
        rows.append(chosen)
        total += len(chosen)
    if not rows:
        return Background(features[:0], labels[:0], labels[:0])
    residuals = torch.cat([features[chosen] - features[chosen].mean(0) for chosen in rows])
    indices = torch.cat(rows)
    return Background(residuals, labels[indices], indices)


def spread(values: Tensor, most: int) -> Tensor:
    """At most so many of them, evenly spaced."""
    if len(values) <= most:
        return values
    return values[torch.arange(most) * len(values) // most]


def principal_components(samples: Tensor, kept: Tensor) -> Tensor:
    """The first principal components, float64 [D, k]: one for `PER_COMPONENT` samples, or as many as these span.

    Args:
        samples: float32 [n, D].
        kept: Rows that are read in any case, where not all are.
    """
    count = min(max(len(samples) // PER_COMPONENT, COMPONENTS[0]), COMPONENTS[1])
    if samples.shape[1] > ROWS and len(samples) > ROWS:
        samples = samples[torch.cat([spread(torch.arange(len(samples)), ROWS), kept]).unique()]
    centred = samples - samples.mean(0)
    n, width = centred.shape
    if n < width:
        gram = centred.double() @ centred.double().T
    else:
        gram = sum(
            (part.double().T @ part.double() for part in centred.split(ROWS)), torch.zeros(width, width).double()
        )
    values, vectors = largest_eigenpairs(gram, count)
    vectors = vectors[:, values > max(1e-10 * float(values[0]), 1e-30)]
    if n < width:
        vectors = centred.double().T @ vectors
        vectors = vectors / vectors.norm(dim=0)
    return vectors


def largest_eigenpairs(matrix: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues, descending, and their vectors, float64 [k] and [n, k]; k is count, or n.

    Of a matrix with many more of them than are asked for, by Lanczos' method: a thousand classes have one each.

    Args:
        matrix: Symmetric, positive semidefinite, float64 [n, n].
        count: Of eigenvalues.
    """
    if len(matrix) > WIDE and len(matrix) > 8 * count:
        from scipy.sparse.linalg import ArpackNoConvergence, eigsh

        try:
            start = np.linspace(1.0, 2.0, len(matrix))  # the same each time, and no eigenvector of ones
            values, vectors = eigsh(matrix.numpy(), count, which="LA", v0=start)
            return torch.from_numpy(values[::-1].copy()), torch.from_numpy(vectors[:, ::-1].copy())
        except ArpackNoConvergence:
            pass  # eigenvalues that lie too close together
    values, vectors = torch.linalg.eigh(matrix)
    return values.flip(0)[:count], vectors.flip(1)[:, :count]


def direction(poison: Array, others: Array, covariance: Array) -> Array:
    """Σ⁻¹ (mean of the poison − mean of the others), of length 1 in that metric: scores have the background's unit.

    Args:
        poison: [P, k].
        others: [O, k].
        covariance: Σ, [k, k].
    """
    difference = poison.mean(0) - others.mean(0)
    weights = np.linalg.solve(covariance, difference)
    length = float(np.sqrt(difference @ weights))
    return weights / length if length > 0 else weights


def shrunk_covariance(samples: Array) -> Array:
    """Ledoit and Wolf's estimate (2004), of samples that are centred already."""
    from sklearn.covariance import ledoit_wolf

    covariance: Array = ledoit_wolf(samples, assume_centered=True)[0]
    return covariance
