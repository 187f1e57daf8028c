"""Convolutions, products, embeddings and norms of torch.nn over grids of their options."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from helpers.cases import TOKENS, Call, Case, Row, cases_of, named, pairs

# --- Convolutions ---------------------------------------------------------------------------------------------------

BIASES = [{"bias": True}, {"bias": False}]
SIZES = {1: (9,), 2: (7, 6), 3: (5, 5, 6)}


def convolutions(dims: int) -> list[Case]:
    """nn.Conv1d, 2d, 3d: [B, 4, ...]."""
    rows = pairs(
        {
            "kernel_size": [1, 2, 3],
            "stride": [1, 2],
            "padding": [0, 1, 2, "same", "valid"],
            "padding_mode": ["zeros", "reflect", "replicate", "circular"],
            "dilation": [1, 2],
            "groups": [1, 2, 4],
            "bias": [True, False],
        },
        lambda row: row["padding"] != "same" or row["stride"] == 1,
    )
    layer = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    return cases_of(layer.__name__, rows, partial(layer, 4, 4), (4, *SIZES[dims]))


def transposed_convolutions(dims: int) -> list[Case]:
    """nn.ConvTranspose1d, 2d, 3d: [B, 4, ...]."""
    rows = pairs(
        {
            "kernel_size": [1, 2, 3],
            "stride": [1, 2],
            "padding": [0, 1],
            "output_padding": [0, 1],
            "groups": [1, 2],
            "dilation": [1, 2],
            "bias": [True, False],
        },
        lambda row: (
            row["output_padding"] < max(row["stride"], row["dilation"])
            and (row["kernel_size"] > 1 or row["padding"] == 0)
        ),
    )
    layer = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 1]
    return cases_of(layer.__name__, rows, partial(layer, 4, 6), (4, *(4, 3, 3)[:dims]))


def unequal_convolutions() -> list[Case]:
    """Options that differ from dimension to dimension, and more channels out than in."""
    options = {"kernel_size": (3, 2), "stride": (2, 1), "padding": (2, 1), "dilation": (1, 2)}
    modes = ["zeros", "reflect", "circular"]
    make = partial(nn.Conv2d, 4, 6, **options, groups=2)
    cases = cases_of("Conv2d-unequal", pairs({"padding_mode": modes, "bias": [True, False]}), make, (4, 7, 6))
    windows = pairs({"kernel_size": [2, (3, 2)], "stride": [1, 2], "padding": [0, 1], "dilation": [1, 2]})
    cases += cases_of("Unfold", windows, Unfolded, (2, 6, 7))
    folds = pairs({"kernel_size": [2], "stride": [1, 2], "padding": [0, 1], "dilation": [1]})
    return cases + cases_of("Fold", folds, partial(Unfolded, True), (2, 6, 6))


class Unfolded(nn.Module):
    """A convolution as a product with the windows of its input; with `fold`, summed up to an image again."""

    def __init__(self, fold: bool = False, **options: Any) -> None:
        super().__init__()
        kernel = options["kernel_size"]
        area = kernel**2 if isinstance(kernel, int) else kernel[0] * kernel[1]
        self.unfold, self.fold = nn.Unfold(**options), nn.Fold((6, 6), **options) if fold else None
        self.weight = nn.Linear(2 * area, 2 * area if fold else 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.weight(self.unfold(x).transpose(1, 2)).transpose(1, 2)
        return y if self.fold is None else self.fold(y)


# --- Products, embeddings, norms ------------------------------------------------------------------------------------


def products() -> list[Case]:
    """nn.Linear, nn.Bilinear, nn.PReLU."""
    shapes = {"2d": (5,), "3d": (3, 5), "4d": (2, 3, 5)}
    cases = []
    for rank, shape in shapes.items():
        cases += cases_of(f"Linear-{rank}", BIASES, partial(nn.Linear, 5, 4), shape)
        cases += cases_of(f"Bilinear-{rank}", BIASES, partial(nn.Bilinear, 5, 5, 3), shape, lambda row: call_twice)
    for rank, shape in {"1d": (4,), "2d": (4, 3, 2)}.items():
        rows = list(pairs({"num_parameters": [1, 4], "init": [0.1, -0.5]}))
        cases += cases_of(f"PReLU-{rank}", rows, nn.PReLU, shape)
    return cases


def call_twice(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x, x.flip(-1))


def embeddings() -> list[Case]:
    """nn.Embedding and nn.EmbeddingBag, over tokens [B, T]; a token 0 ends a bag where bags differ in length."""
    options = {
        "padding_idx": [None, 2],
        "max_norm": [None, 1.0],
        "scale_grad_by_freq": [False, True],
        "sparse": [False, True],
    }
    cases = [
        Case(case.name, case.make, case.shape, case.call, tokens=True)
        for case in cases_of("Embedding", pairs(options, has_gradient), partial(nn.Embedding, TOKENS, 4), (5,))
    ]
    rows = pairs(
        {"mode": ["sum", "mean", "max"], "form": ["2d", "offsets", "ragged"], "weights": [False, True], **options},
        lambda row: (
            not (row["mode"] == "max" and (row["weights"] or row["scale_grad_by_freq"] or row["sparse"]))
            and not (row["weights"] and row["mode"] != "sum")
            and has_gradient(row)
        ),
    )
    for row in rows:
        kept = {name: value for name, value in row.items() if name not in ("form", "weights")}
        make = partial(nn.EmbeddingBag, TOKENS, 4, **kept)
        call = bag_call(row["form"], row["weights"])
        cases.append(Case(named("EmbeddingBag", row), make, (5,), call, tokens=True))
    return cases


def has_gradient(row: Row) -> bool:
    return not (row["sparse"] and row["scale_grad_by_freq"])  # torch has none


def bag_call(form: str, weights: bool) -> Call:
    def call(layer: nn.Module, tokens: Tensor) -> Tensor:
        factors = (tokens + 1.0).to(layer.weight.dtype) / TOKENS if weights else None  # type: ignore[union-attr]
        if form == "2d":
            return layer(tokens, per_sample_weights=factors)
        kept = torch.ones_like(tokens, dtype=torch.bool)
        if form == "ragged":
            kept[:, 1:] = tokens[:, 1:] != 0
        offsets = torch.cat([kept.new_zeros(1, dtype=torch.long), kept.sum(1).cumsum(0)[:-1]])
        return layer(tokens[kept], offsets, per_sample_weights=None if factors is None else factors[kept])

    return call


def norms() -> list[Case]:
    """Norms over samples and over channels; batch norms with running statistics."""
    cases = []
    layer_norms = pairs(
        {"normalized_shape": [4, (3, 4), (2, 3, 4)], "elementwise_affine": [True, False], "bias": [True, False]}
    )
    cases += cases_of("LayerNorm", layer_norms, nn.LayerNorm, (2, 3, 4))
    rms_norms = pairs({"normalized_shape": [4, (3, 4)], "eps": [None, 1e-2], "elementwise_affine": [True, False]})
    cases += cases_of("RMSNorm", rms_norms, nn.RMSNorm, (2, 3, 4))
    for rank, shape in {"1d": (4, 5), "2d": (4, 3, 2), "3d": (4, 2, 2, 3)}.items():
        group_norms = pairs({"num_groups": [1, 2, 4], "affine": [True, False]})
        cases += cases_of(f"GroupNorm-{rank}", group_norms, partial(nn.GroupNorm, num_channels=4), shape)
        layer = getattr(nn, f"InstanceNorm{rank}")
        options = pairs({"affine": [True, False], "track_running_stats": [True, False]})
        cases += cases_of(f"InstanceNorm{rank}", options, partial(layer, 4), shape)
        layer = getattr(nn, f"BatchNorm{rank}")
        options = pairs({"affine": [True, False], "momentum": [0.1, None], "eps": [1e-5, 1e-2]})
        cases += cases_of(f"BatchNorm{rank}", options, partial(layer, 4), shape)
    options = pairs({"affine": [True, False], "momentum": [0.1, None]})
    return cases + cases_of("BatchNorm1d-vector", options, partial(nn.BatchNorm1d, 4), (4,))
