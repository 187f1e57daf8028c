"""The ridge probe: its error with samples left out, the shift, and the layers it reads."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from potion_fast.relabel import probe as module
from potion_fast.relabel.probe import Probe, labels_by_probe, layers_of, pooled
from potion_fast.relabel.samples import Samples, asked
from potion_fast.utils.training_data import TrainingData


def clusters(samples: int = 60, spread: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(samples) % 3
    centres = 3 * torch.randn(3, 5, generator=generator)
    return centres[labels] + spread * torch.randn(samples, 5, generator=generator), labels


def test_its_accuracy_is_that_of_fits_without_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = clusters(spread=2.5)
    monkeypatch.setattr(module, "PENALTIES", (0.1,))
    fitted = Probe.fitted(features, labels, 3)
    x = (features.double() - fitted.mean) / fitted.spread
    y = functional.one_hot(labels, 3).double() - fitted.shares
    ones = torch.cat([x, torch.ones(len(x), 1)], 1).double()  # an intercept that is not penalised
    penalty = 0.1 * len(x) * torch.diag(torch.tensor([1.0] * 5 + [0.0]).double())
    right = 0
    for left_out in range(len(x)):
        rows = torch.arange(len(x)) != left_out
        weights = torch.linalg.solve(ones[rows].T @ ones[rows] + penalty, ones[rows].T @ y[rows])
        right += int((ones[left_out] @ weights + fitted.shares).argmax() == labels[left_out])
    assert 0.5 < fitted.accuracy < 1 and fitted.accuracy == pytest.approx(right / len(x))


def test_a_shift_that_all_suspects_share_costs_nothing() -> None:
    features, labels = clusters(spread=0.3)
    fitted = Probe.fitted(features, labels, 3)
    given = (labels + 1) % 3
    moved = features.clone()
    for label in range(3):
        rows = given == label
        moved[rows] += 50 * (label + 1) + fitted.mean.float() - features[rows].mean(0)
    # Each label's suspects are of one class, so their mean is that class's, and the shift takes it away.
    assert (labels_by_probe(fitted, moved, given) != given).all()
    mixed = torch.full_like(labels, 0)
    wrong = labels != 0
    assert torch.equal(labels_by_probe(fitted, features + 50, mixed)[wrong], labels[wrong])


class Net(nn.Module):
    """Three blocks and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()) for _ in range(3))
        self.head = nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


def samples(count: int = 7) -> Samples:
    x = torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    data = TrainingData.of(TensorDataset(x, torch.arange(count) % 4), batch_size=4)
    return Samples(data, torch.arange(count) % 4, torch.arange(count))


def test_blocks_are_read_in_the_order_of_their_call() -> None:
    given = samples()
    with asked(Net(), given.data) as answering:
        assert layers_of(answering, given) == ["blocks.0", "blocks.1", "blocks.2"]


def test_single_layers_are_read_where_there_are_no_blocks() -> None:
    given = samples()
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(80, 4))
    with asked(model, given.data) as answering:
        assert layers_of(answering, given) == ["0", "1"]


def test_outputs_are_averaged_over_places_also_where_memory_runs_out() -> None:
    given, model = samples(), Net()
    expected = model.blocks[0](given.whole()).mean((2, 3))
    with asked(model, given.data) as answering:
        assert torch.allclose(pooled(answering, given, ["blocks.0"])["blocks.0"], expected, atol=1e-6)
    tight = Net()
    tight.blocks[2].register_forward_pre_hook(out_of_memory_beyond(2))  # after the first block's hook has noted
    with asked(tight, given.data) as answering:
        found = pooled(answering, given, ["blocks.0", "blocks.1"])
    assert torch.allclose(found["blocks.0"], expected, atol=1e-6) and len(found["blocks.1"]) == 7


def out_of_memory_beyond(most: int):
    def hook(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        if len(args[0]) > most:
            raise torch.OutOfMemoryError("no memory")

    return hook
