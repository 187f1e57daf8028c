"""Rule of nn.Embedding: y_t = W[token_t]. ∂ℓ/∂W[v] of a group is the sum of g_t over the positions t that hold v."""

from __future__ import annotations

from collections.abc import Collection
from typing import cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from .base import Accumulators, LayerIO, Rule, at_least_float32
from .registry import register_rule


@register_rule(nn.Embedding)
class EmbeddingRule(Rule):
    """nn.Embedding: [B · r, ...] int -> [B · r, ..., d]."""

    names = ("weight",)

    @override
    def covers(self, module: nn.Module) -> bool:
        layer = cast(nn.Embedding, module)
        return layer.max_norm is None and not layer.scale_grad_by_freq  # these change weights and gradients on the way

    @override
    def gradients(self, module: nn.Module, io: LayerIO, names: Collection[str]) -> dict[str, Tensor]:
        keys, rows = summed_rows(cast(nn.Embedding, module), io)
        shape = cast(nn.Embedding, module).weight.shape  # [V, d]
        gradients = rows.new_zeros(io.groups * shape[0], shape[1])
        gradients[keys] = rows
        return {"weight": gradients.unflatten(0, (io.groups, shape[0]))}

    @override
    def accumulate(self, module: nn.Module, io: LayerIO, accumulators: Accumulators) -> None:
        layer = cast(nn.Embedding, module)
        add_rows(*summed_rows(layer, io), layer.num_embeddings, accumulators)


def summed_rows(layer: nn.Embedding, io: LayerIO) -> tuple[Tensor, Tensor]:
    """The gradient rows of equal tokens of a group, summed.

    Sums are made by `index_put_`, which on a GPU sorts and so adds in a fixed order; `index_add_` does not.

    Returns:
        Keys [U] = group · V + token, and rows [U, d].
    """
    tokens = io.inputs.reshape(io.groups, -1)  # [N, T]
    group = torch.arange(io.groups, device=tokens.device)[:, None]
    keys, place = (group * layer.num_embeddings + tokens).unique(return_inverse=True)
    g = at_least_float32(io.gradient).reshape(-1, layer.embedding_dim)  # [N · T, d]
    rows = g.new_zeros(len(keys), layer.embedding_dim)
    rows.index_put_((place.reshape(-1),), g, accumulate=True)
    if layer.padding_idx is not None:  # it has no gradient
        rows[keys % layer.num_embeddings == layer.padding_idx] = 0
    return keys, rows


def add_rows(keys: Tensor, rows: Tensor, vocabulary: int, accumulators: Accumulators) -> None:
    """Add |gradient| or gradient² of a matrix, "weight", that is 0 but for some rows.

    Args:
        keys: [U], see `summed_rows`.
        rows: [U, d].
        vocabulary: V, rows of the matrix.
        accumulators: Of "weight".
    """
    total = accumulators.sums["weight"]  # [K, V, d]
    rows = rows.to(total.dtype)
    sizes = rows.square() if accumulators.square else rows.abs()
    group, token = keys // vocabulary, keys % vocabulary
    for k, part in enumerate(total):
        weighted = sizes if accumulators.weights is None else accumulators.weights[k, group, None] * sizes
        part.index_put_((token,), weighted, True)
