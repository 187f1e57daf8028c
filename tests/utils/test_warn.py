"""Warnings of the package point at the line that called it."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

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
