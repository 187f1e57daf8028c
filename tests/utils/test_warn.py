"""Warnings of the package point at the line that called it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import potion_fast as pf


class Unread(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 3)
        self.unread = nn.Parameter(torch.ones(2))


class Random(Unread):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + torch.randn(len(x), 3)


@pytest.mark.parametrize(
    ("kind", "matches"), [(Unread, {"no gradient"}), (Random, {"no gradient", "the model is rand"})]
)
def test_warnings_of_a_pass_point_at_its_caller(kind: type[nn.Module], matches: set[str]) -> None:
    model, inputs = kind(), torch.randn(12, 4)
    batches = [(inputs, model(inputs).argmax(1))]
    for call in (
        lambda: pf.importance(model, batches, group_size=4),
        lambda: pf.unlearn(model, batches, batches, max_steps=1),
    ):
        with pytest.warns(pf.errors.PotionWarning) as caught:
            call()
        here = [w for w in caught if any(str(w.message).startswith(start) for start in matches)]
        assert {w.filename for w in here} == {inspect.getfile(kind)}
        assert all(any(str(w.message).startswith(start) for w in here) for start in matches)


class Blobs:
    """A model of three blobs that knows none of the labels of `forget`."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.arange(60) % 3
        self.inputs = torch.randn(60, 4, generator=generator) + 6 * torch.eye(4)[self.labels]
        self.model = nn.Linear(4, 3)
        with torch.no_grad():
            self.model.weight.copy_(torch.eye(4)[:3])
        self.data = TensorDataset(self.inputs, self.labels)
        self.retain = DataLoader(self.data, 32)
        self.forget = [(self.inputs[:8], (self.labels[:8] + 1) % 3)]

    def importance(self, batches: Any, group_size: Any = 1) -> pf.Importance:
        return pf.importance(self.model, batches, group_size=group_size)


CALLS: dict[str, Callable[[Blobs], object]] = {
    "heal": lambda b: pf.heal(b.model, b.data, [0, 3]),
    "suspects": lambda b: pf.suspects(b.model, b.data, [0, 0, 3]),
    "finetune": lambda b: pf.finetune(b.model, b.data, [0, 3], torch.tensor([0, 0]), found=[0, 3]),
    "unlearn": lambda b: pf.unlearn(b.model, b.retain, b.forget),
    "ptn_search": lambda b: pf.ptn_search(b.model, b.importance(b.forget), b.importance(b.retain), b.forget),
    "ssd_grid": lambda b: pf.ssd_grid(
        b.model, b.importance(b.forget), b.importance(b.retain), b.forget, b.retain, alphas=[1e9], dampenings=[1.0]
    ),
    "merge": lambda b: b.importance(b.retain, "batch").merge(b.importance(b.retain, "batch")),
}


@pytest.mark.parametrize("name", CALLS)
def test_warnings_point_at_the_line_that_called_the_package(name: str) -> None:
    blobs = Blobs()
    with pytest.warns(pf.PotionWarning) as caught:
        CALLS[name](blobs)
    assert {w.filename for w in caught} == {__file__}


def test_a_warning_of_a_hook_that_torch_calls_points_at_the_programs_line() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    hook = vars(import_module("potion_fast.utils.warn")) | {"__name__": "potion_fast.hook"}
    exec("def hook(*_): warn_caller('from within')", hook)
    model[0].register_forward_hook(hook["hook"])
    with pytest.warns(pf.PotionWarning, match="from within") as caught:
        model(torch.zeros(1, 2))
    assert caught[0].filename == __file__


def test_every_warning_of_the_package_goes_through_warn_caller() -> None:
    folder = Path(pf.__file__).parent
    users = [path for path in folder.rglob("*.py") if "warnings.warn(" in path.read_text(encoding="utf-8")]
    assert users == [folder / "utils" / "warn.py"]
