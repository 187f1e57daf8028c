"""nn.Embedding: y_t = W[token_t]. ∂ℓ/∂W[v] of a group is the sum of g_t over the positions t that hold v."""

from __future__ import annotations

from collections.abc import Collection
from typing import cast

import torch
from torch import Tensor, nn

from .base import Rule, Sums, Use, at_least_float32


class EmbeddingRule(Rule):
    names = ("weight",)

    def covers(self, module: nn.Module) -> bool:
        layer = cast(nn.Embedding, module)
        return layer.max_norm is None and not layer.scale_grad_by_freq  # these change weights and gradients on the way

    def gradients(self, module: nn.Module, use: Use, names: Collection[str]) -> dict[str, Tensor]:
        keys, rows = summed_rows(cast(nn.Embedding, module), use)
        shape = cast(nn.Embedding, module).weight.shape  # [V, d]
        gradients = rows.new_zeros(use.groups * shape[0], shape[1])
        gradients[keys] = rows
        return {"weight": gradients.unflatten(0, (use.groups, shape[0]))}

    def accumulate(self, module: nn.Module, use: Use, sums: Sums) -> None:
        layer = cast(nn.Embedding, module)
        add_rows(*summed_rows(layer, use), layer.num_embeddings, sums)


def summed_rows(layer: nn.Embedding, use: Use) -> tuple[Tensor, Tensor]:
    """The gradient rows of equal tokens of a group summed: keys [U] = group · V + token, rows [U, d].

    Sums are made by `index_put_`, which on a GPU sorts and so adds in a fixed order; `index_add_` does not.
    """
    tokens = use.inputs.reshape(use.groups, -1)  # [N, T]
    group = torch.arange(use.groups, device=tokens.device)[:, None]
    keys, place = (group * layer.num_embeddings + tokens).unique(return_inverse=True)
    g = at_least_float32(use.gradient).reshape(-1, layer.embedding_dim)  # [N · T, d]
    rows = g.new_zeros(len(keys), layer.embedding_dim)
    rows.index_put_((place.reshape(-1),), g, accumulate=True)
    if layer.padding_idx is not None:  # it has no gradient
        rows[keys % layer.num_embeddings == layer.padding_idx] = 0
    return keys, rows


def add_rows(keys: Tensor, rows: Tensor, vocabulary: int, sums: Sums) -> None:
    """Add |gradient| or gradient² of a matrix, "weight", that is 0 but for these rows: see `summed_rows`."""
    total = sums.of["weight"]  # [K, V, d]
    rows = rows.to(total.dtype)
    sizes = rows.square() if sums.square else rows.abs()
    group, token = keys // vocabulary, keys % vocabulary
    for k, part in enumerate(total):
        part.index_put_((token,), sizes if sums.weights is None else sums.weights[k, group, None] * sizes, True)
