"""Names of the unlearners by kind, a model with batch norms, and one call for all of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from helpers.toys import Blobs, batches
from potion_fast.bench.unlearners import UNLEARNERS, Loaders, TrainingIndex, Unlearned, make_unlearner
from potion_fast.bench.unlearners.dampening import Dampening
from potion_fast.bench.unlearners.finetuning import Finetuning

GOEL = ("eu", "euk-goel", "cf", "cf-k", "badt", "scrub-goel")
PAWELCZYK = ("gd", "ngd", "ga", "euk-pawelczyk", "cfk-pawelczyk", "scrub-pawelczyk", "scrub-kurmanji", "neggrad-plus")
PAPERS = (*GOEL, *PAWELCZYK, "ptn-xlf", "ptn-lf", "ptn-ssd", "assd", "ssd-goel", "jit", "retrain", "none")
OF_CLEAN_DATA = ("ft", "ft-sam", "nad", "anp", "i-bau")
BY_INDEX = ("heal", "cf-expanded", "sap", "rem")
ON_THEIR_OWN = ("cuts", *OF_CLEAN_DATA, *BY_INDEX)  # tested by what they read, see test_rivals_formulas.py
TRAINED = [name for name, kind in UNLEARNERS.items() if issubclass(kind, Finetuning) and name not in ON_THEIR_OWN]
PAIRED = [name for name in TRAINED if UNLEARNERS[name].cost == 2]  # batches of both sets in every iteration
FORGET_ONLY = ("ga", "jit", "npo")
DAMPENING = [name for name, kind in UNLEARNERS.items() if issubclass(kind, Dampening)]
END: dict[str, dict[str, Any]] = {  # of Blobs' model: its last layer
    "euk-goel": {"k": ("2",)},
    "cf-k": {"k": ("2",)},
    "euk-pawelczyk": {"k": 1},
    "cfk-pawelczyk": {"k": 1},
}


class Normed(nn.Module):
    """A linear layer and a batch norm, twice, and a head; and dropout, so that the seed matters."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)))


def normed(seed: int = 0) -> Normed:
    """A Normed whose parameters are nowhere as they are initialised, and whose batch norms have seen data."""
    torch.manual_seed(seed)
    model = Normed()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        model(torch.randn(64, 12))
    return model.eval()


NORMED = normed()


def settings(name: str, **more: Any) -> dict[str, Any]:
    own: dict[str, Any] = {"iterations": 6, "weight_decay": 0.0} if name in TRAINED else {}
    own = {"iterations": 6} if name in ("cuts", "cf-expanded", "ft", "ft-sam", "nad", "anp", "rem") else own
    return {**own, **END.get(name, {}), **more}


def validation(blobs: Blobs) -> Any:
    clean = blobs.inputs.clone()
    clean[:, -1] = 0
    return batches(clean, blobs.clean, 100)


def run(name: str, blobs: Blobs, model: nn.Module | None = None, **more: Any) -> Unlearned:
    unlearner = make_unlearner(name, **settings(name, **more))
    return unlearner(model or blobs.model, loaders(blobs))


def loaders(blobs: Blobs) -> Loaders:
    """All that any method may read, with ten of the poison found."""
    index = TrainingIndex(TensorDataset(blobs.inputs, blobs.labels), range(10), batch_size=32)
    clean = batches(blobs.inputs[20:], blobs.clean[20:], 32)
    return Loaders(blobs.forget(), blobs.retain(), validation=validation(blobs), training=index, clean=clean)


def accuracy(model: nn.Module, data: Any) -> float:
    with torch.no_grad():
        hits = torch.cat([model(x).argmax(1) == y for x, y in data])
    return hits.double().mean().item()
