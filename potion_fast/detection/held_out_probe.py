"""Linear probe on features that judges each sample without having seen its label."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from .features import Features

FOLDS = 5
ROWS = 20_000  # samples that a fold's probe learns from, at most
COMPONENTS = 256  # principal components of the standardised features, at most
STEPS = 20  # of L-BFGS; so stiff a probe needs few
DECAY = 0.1  # on features of unit variance: a probe too stiff to follow what the features have memorised


def held_out_logits(features: Features, trusted: Tensor | None = None) -> Tensor:
    """Logits of multinomial logistic regressions, each sample's from one that did not see it.

    The samples are dealt into five folds; the regression of a fold learns the given labels of the other four's trusted
    samples from the standardised features, with a strong quadratic penalty: a network's last layer has partly memorised
    the labels of its training data, and a stiff probe follows the classes rather than that. Draws are always the same.

    Args:
        features: Of N samples.
        trusted: bool [N], the samples whose labels are learnt; all by default.

    Returns:
        float64 [N, C].
    """
    generator, samples = torch.Generator().manual_seed(0), len(features)
    fold = torch.randperm(samples, generator=generator) % FOLDS
    inputs = _standardised(features.features, generator)
    logits = torch.zeros(samples, features.classes, dtype=torch.float64)
    for number in range(FOLDS):
        learnt = (fold != number if trusted is None else (fold != number) & trusted).nonzero()[:, 0]
        if not len(learnt):
            continue
        if len(learnt) > ROWS:
            learnt = learnt[torch.randperm(len(learnt), generator=generator)[:ROWS]]
        weights = _regression(inputs[learnt], features.labels[learnt], features.classes)
        held_out = fold == number
        logits[held_out] = (inputs[held_out] @ weights).double()
    return logits


def _standardised(features: Tensor, generator: torch.Generator) -> Tensor:
    """float32 [N, K + 1]: features of zero mean and unit variance, or their first principal components, and a one."""
    rows = torch.randperm(len(features), generator=generator)[:ROWS]
    mean, spread = features[rows].double().mean(0), features[rows].double().std(0).clamp(min=1e-6)
    standard = (features.double() - mean) / spread
    if standard.shape[1] > COMPONENTS:
        covariance = standard[rows].T @ standard[rows] / len(rows)
        standard = standard @ torch.linalg.eigh(covariance).eigenvectors[:, -COMPONENTS:]
    return torch.cat([standard, torch.ones(len(standard), 1, dtype=torch.float64)], 1).float()


def _regression(inputs: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Weights float32 [K + 1, C] that minimise cross-entropy + DECAY / 2 |W|², the last row (offsets) free."""
    weights = torch.zeros(inputs.shape[1], classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=STEPS, tolerance_change=1e-6, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(inputs @ weights, labels) + DECAY / 2 * weights[:-1].square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return weights.detach()
