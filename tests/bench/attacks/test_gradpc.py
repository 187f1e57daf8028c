"""GradPC: each step as its formula has it, within its budget, and upwards."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.toys import batches, net, samples
from potion_fast.bench.attacks.crafting.gradpc import gradpc, norm
from potion_fast.errors import DataError, ModelError

Samples = list[tuple[list[float], int]]


class Logistic(nn.Module):
    """Logits (0, <w, x>): a sample's gradient is σ x for class 0 and (σ - 1) x for class 1, with σ = σ(<w, x>)."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:  # [B, 2] -> [B, 2]
        return torch.stack([torch.zeros(len(x)), x @ self.w], dim=1)


def loader(*contents: Samples) -> list[tuple[Tensor, Tensor]]:
    return [(torch.tensor([x for x, _ in batch]), torch.tensor([y for _, y in batch])) for batch in contents]


@pytest.mark.parametrize(
    ("contents", "options", "expected"),
    [
        ([[([3.0, 4.0], 0)]], {}, [0.6, 0.8]),  # g / ‖g‖ = x / 5
        ([[([3.0, 4.0], 0)]], {"lr": 0.5}, [0.3, 0.4]),
        ([[([3.0, 4.0], 0)], [([0.0, 2.0], 1)]], {"lr": 0.5}, [0.3, -0.1]),  # the second: -(0, 1)
        ([[([3.0, 4.0], 0)], [([0.0, 2.0], 0)]], {}, [0.6 / math.sqrt(3.6), 1.8 / math.sqrt(3.6)]),  # (.6, 1.8) is out
        ([[([3.0, 4.0], 0)], [([0.0, 2.0], 0)]], {"budget": 2.0}, [0.6, 1.8]),
        ([[([3.0, 4.0], 0)]], {"lr": 9.0, "budget": 2.0}, [1.2, 1.6]),
        ([[([2.0, 0.0], 0), ([0.0, 2.0], 1)]], {}, [math.sqrt(0.5), -math.sqrt(0.5)]),  # a batch's mean: (.5, -.5)
        ([[([3.0, 4.0], 0)]], {"lr": 0.5, "epochs": 2}, [0.6, 0.8]),
        ([[([0.0, 0.0], 0)], [([3.0, 4.0], 0)]], {}, [0.6, 0.8]),  # a gradient of 0 changes nothing
    ],
)
def test_steps_are_those_of_the_formula(
    contents: list[Samples], options: dict[str, Any], expected: list[float]
) -> None:
    low = gradpc(Logistic(), loader(*contents), **options)
    assert torch.allclose(low.w.detach(), torch.tensor(expected), atol=1e-6)


def test_the_gradient_is_that_of_the_corrupted_weights() -> None:
    low = gradpc(Logistic(), loader([([3.0, 4.0], 0)], [([1.0, 0.0], 0), ([0.0, 1.0], 1)]), lr=1.0, budget=9.0)
    w = [0.6, 0.8]  # after the first batch; then g is (σ(.6), σ(.8) - 1) / 2
    g = [1 / (1 + math.exp(-0.6)), 1 / (1 + math.exp(-0.8)) - 1]
    expected = torch.tensor([weight + each / math.hypot(*g) for weight, each in zip(w, g, strict=True)])
    assert torch.allclose(low.w.detach(), expected, atol=1e-6)


@pytest.mark.parametrize("budget", [0.1, 1.0])
def test_budget_is_kept_and_used_and_the_loss_is_raised(budget: float) -> None:
    model, (inputs, labels) = net(dtype=torch.float64), samples(96, dtype=torch.float64)
    low = gradpc(model, batches(inputs, labels, 16), budget=budget)
    changes = [after.detach() - before for after, before in zip(low.parameters(), model.parameters(), strict=True)]
    assert norm(changes) == pytest.approx(budget, rel=1e-9)
    model.eval()
    with torch.no_grad():
        losses = [F.cross_entropy(each(inputs), labels).item() for each in (model, low)]
    assert losses[1] > losses[0] * (1 + 0.1 * budget)


def test_the_callers_model_and_generators_stay_as_they_are() -> None:
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(7)
    state = torch.get_rng_state()
    low = gradpc(model, batches(*samples(32), 16))
    assert model.training and not low.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_running_statistics_are_those_of_training_mode() -> None:
    model, (inputs, labels) = net(), samples(32)
    with torch.no_grad():
        mean = model.conv(inputs).mean(dim=(0, 2, 3))  # of the one batch, at the weights before the step
    low = gradpc(model, [(inputs, labels)])
    expected = 0.9 * model.norm.running_mean + 0.1 * mean
    assert torch.allclose(low.norm.running_mean, expected, atol=1e-6)
    assert not torch.allclose(expected, model.norm.running_mean, atol=1e-3)


def test_only_trainable_parameters_change() -> None:
    model = net()
    model.conv.requires_grad_(False)
    low = gradpc(model, batches(*samples(32), 16))
    changed = {
        name
        for (name, before), after in zip(model.named_parameters(), low.parameters(), strict=True)
        if not torch.equal(before, after)
    }
    assert changed == {"norm.weight", "norm.bias", "twice.weight", "twice.bias", "head.weight", "head.bias"}


def test_dropout_is_that_of_the_seed() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))
    data = batches(torch.randn(32, 4), torch.arange(32) % 3, 8)
    same, again, other = (gradpc(model, data, seed=seed)[0].weight for seed in (1, 1, 2))
    assert torch.equal(same, again) and not torch.equal(same, other)


@pytest.mark.parametrize(
    "options", [{"budget": 0.0}, {"lr": 0.0}, {"lr": math.inf}, {"budget": math.nan}, {"epochs": 0}]
)
def test_numbers_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="at least 1"):
        gradpc(Logistic(), loader([([3.0, 4.0], 0)]), **options)


def test_what_has_no_gradient_is_refused() -> None:
    with pytest.raises(DataError, match="no batch"):
        gradpc(Logistic(), [])
    with pytest.raises(DataError, match="no labels"):
        gradpc(Logistic(), [torch.ones(1, 2)])
    with pytest.raises(ModelError, match="none to corrupt"):
        gradpc(Logistic().requires_grad_(False), loader([([3.0, 4.0], 0)]))
    with pytest.raises(ModelError, match="not finite"):
        gradpc(Logistic(), loader([([math.nan, 4.0], 0)]))
