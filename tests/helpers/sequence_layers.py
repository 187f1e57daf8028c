"""Attention and recurrence of torch.nn over grids of their options, on sequences of 5 steps, 4 wide."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from helpers.cases import Call, Case, Row, cases_of, pairs


def attention() -> list[Case]:
    """nn.MultiheadAttention and nn.TransformerEncoderLayer."""
    rows = pairs(
        {
            "batch_first": [True, False],
            "bias": [True, False],
            "kdim": [None, 3],
            "add_bias_kv": [False, True],
            "add_zero_attn": [False, True],
            "mask": [None, "padding", "causal"],
        }
    )
    cases = cases_of("MultiheadAttention", rows, multi_head, (5, 4), attention_call)
    rows = pairs(
        {
            "batch_first": [True, False],
            "norm_first": [True, False],
            "activation": ["relu", "gelu"],
            "bias": [True, False],
            "mask": [None, "padding", "causal"],
        }
    )
    return cases + cases_of("TransformerEncoderLayer", rows, encoder_layer, (5, 4), encoder_call)


def multi_head(kdim: int | None, mask: str | None, **options: Any) -> nn.Module:
    return nn.MultiheadAttention(4, 2, kdim=kdim, vdim=kdim, **options)


def encoder_layer(mask: str | None, **options: Any) -> nn.Module:
    return nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, **options)


def masks(kind: str | None, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Key padding [B, T], of the sample's own data, and the causal mask [T, T]."""
    if kind == "padding":
        padding = x[..., 0] > 0.5
        padding[:, 0] = False
        return torch.zeros(padding.shape, dtype=x.dtype).masked_fill(padding, -torch.inf), None
    steps = x.shape[1]
    causal = torch.full((steps, steps), -torch.inf, dtype=x.dtype).triu(1)
    return None, causal if kind == "causal" else None


def attention_call(row: Row) -> Call:
    def call(layer: nn.Module, x: Tensor) -> Tensor:
        padding, mask = masks(row["mask"], x)
        if row["add_bias_kv"] or row["add_zero_attn"]:
            mask = None  # torch pads it by itself; the padding mask stays
        keys = x if row["kdim"] is None else x[..., :3]
        if row["batch_first"]:
            return layer(x, keys, keys, key_padding_mask=padding, attn_mask=mask)[0]
        x, keys = x.transpose(0, 1), keys.transpose(0, 1)
        return layer(x, keys, keys, key_padding_mask=padding, attn_mask=mask)[0].transpose(0, 1)

    return call


def encoder_call(row: Row) -> Call:
    def call(layer: nn.Module, x: Tensor) -> Tensor:
        padding, mask = masks(row["mask"], x)
        if row["batch_first"]:
            return layer(x, src_key_padding_mask=padding, src_mask=mask)
        return layer(x.transpose(0, 1), src_key_padding_mask=padding, src_mask=mask).transpose(0, 1)

    return call


def recurrent() -> list[Case]:
    """nn.RNN, GRU, LSTM and their cells."""
    cases = []
    for kind, more in {"RNN": {"nonlinearity": ["tanh", "relu"]}, "GRU": {}, "LSTM": {"proj_size": [0, 2]}}.items():
        options = {
            "num_layers": [1, 2],
            "bidirectional": [False, True],
            "batch_first": [True, False],
            "bias": [True, False],
            **more,
        }
        layer = getattr(nn, kind)
        cases += cases_of(kind, pairs(options), partial(layer, 4, 3), (5, 4), recurrent_call)
        cell = partial(getattr(nn, f"{kind}Cell"), 4, 3)
        cases += cases_of(f"{kind}Cell", [{"bias": True}, {"bias": False}], cell, (3, 4), lambda row: cell_call)
    return cases


def recurrent_call(row: Row) -> Call:
    def call(layer: nn.Module, x: Tensor) -> Tensor:
        return layer(x)[0] if row["batch_first"] else layer(x.transpose(0, 1))[0].transpose(0, 1)

    return call


def cell_call(layer: nn.Module, x: Tensor) -> Tensor:
    """The last state of a loop over the steps."""
    state = None
    for step in x.unbind(1):
        state = layer(step, state)
    return state[0] if isinstance(state, tuple) else state  # type: ignore[return-value]
