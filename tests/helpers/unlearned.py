"""What the tests of the unlearners share: their names, a model with batch norms, and one call for all."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from helpers.toys import Blobs, batches
from potion_fast.bench.unlearners import Unlearned, make_unlearner

GOEL = ("eu", "euk-goel", "cf", "cf-k", "badt", "scrub-goel")
PAWELCZYK = ("gd", "ngd", "ga", "euk-pawelczyk", "cfk-pawelczyk", "scrub-pawelczyk", "scrub-kurmanji", "neggrad-plus")
TRAINED = (*GOEL, *PAWELCZYK, "jit", "retrain")
PAIRED = ("scrub-pawelczyk", "neggrad-plus")  # a batch of the retain set and one of S_f in every iteration
FORGET_ONLY = ("ga", "jit")
DAMPENING = ("ptn-xlf", "ptn-lf", "ptn-ssd", "assd", "ssd-goel")
END = {name: {"k": ("2",)} for name in ("euk-goel", "cf-k")} | {  # of Blobs' model: its last layer
    name: {"k": 1} for name in ("euk-pawelczyk", "cfk-pawelczyk")
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
    return {**own, **END.get(name, {}), **more}


def validation(blobs: Blobs) -> Any:
    clean = blobs.inputs.clone()
    clean[:, -1] = 0
    return batches(clean, blobs.clean, 100)


def run(name: str, blobs: Blobs, model: nn.Module | None = None, **more: Any) -> Unlearned:
    unlearner = make_unlearner(name, **settings(name, **more))
    return unlearner(model or blobs.model, blobs.forget(), blobs.retain(), validation_loader=validation(blobs))


def accuracy(model: nn.Module, data: Any) -> float:
    with torch.no_grad():
        hits = torch.cat([model(x).argmax(1) == y for x, y in data])
    return hits.double().mean().item()
