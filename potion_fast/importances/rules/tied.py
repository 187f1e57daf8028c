"""Statistic of a matrix that an embedding and a linear layer share: y_t = W[token_t], z_t = W x_t.

∂ℓ/∂W of a group is Σ_t g_t x_tᵀ, and in the rows of the tokens that the group holds the embedding's sum besides. Those
are few of V: they alone are made, and the linear layer's fused product serves the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from ... import ops
from .base import Accumulators, LayerIO, Rule, grouped
from .embedding import EmbeddingRule, add_rows, summed_rows
from .linear import LinearRule


def accumulate_tied(uses: Sequence[tuple[Rule, nn.Module, LayerIO]], accumulators: Accumulators) -> bool:
    """Add the statistic of a matrix, "weight", if an embedding and a linear layer have used it once each.

    Args:
        uses: All calls of layers that use it.
        accumulators: Of "weight".

    Returns:
        Whether it was added.
    """
    by_rule = {type(rule): (layer, io) for rule, layer, io in uses}
    if len(uses) != 2 or by_rule.keys() != {EmbeddingRule, LinearRule}:
        return False
    layer, read = by_rule[EmbeddingRule]
    _, multiplied = by_rule[LinearRule]
    vocabulary, groups = cast(nn.Embedding, layer).num_embeddings, read.groups
    x, g = grouped(multiplied.inputs, groups), grouped(multiplied.gradient, groups).clone()  # [N, T, d], [N, T, V]
    keys, rows = summed_rows(cast(nn.Embedding, layer), read)  # [U], [U, d]
    group, token = keys // vocabulary, keys % vocabulary
    start = 0
    for n, count in enumerate(torch.bincount(group, minlength=groups).tolist()):
        part = slice(start, start + count)
        rows[part] += g[n][:, token[part]].mT @ x[n]
        start += count
    g[group, :, token] = 0
    ops.accumulate_linear(accumulators.sums["weight"], x, g, accumulators.square, accumulators.weights)
    add_rows(keys, rows, vocabulary, accumulators)
    return True
