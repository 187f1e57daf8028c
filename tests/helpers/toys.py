"""Small models and loaders shared by the tests of the method."""

from __future__ import annotations

import torch
from torch import Tensor, nn

Batches = list[tuple[Tensor, Tensor]]


class Net(nn.Module):
    """A convolution, a batch norm, and a layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.twice = nn.Linear(16, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:  # [B, 2, 4, 4] -> [B, 3]
        x = torch.celu(self.norm(self.conv(x))).flatten(1)
        return self.head(torch.tanh(self.twice(torch.tanh(self.twice(x)))))


class NetWithUnread(Net):
    """The same, and a parameter that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.unread = nn.Parameter(torch.ones(2))


def net(seed: int = 0, dtype: torch.dtype = torch.float32) -> Net:
    """A Net whose batch norm has seen data; in train mode."""
    torch.manual_seed(seed)
    model = Net().to(dtype)
    with torch.no_grad():
        model(torch.randn(64, 2, 4, 4, dtype=dtype))
    return model


def samples(n: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Inputs [n, 2, 4, 4] and labels [n] of three classes."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, 2, 4, 4, generator=generator, dtype=dtype)
    return inputs, torch.randint(0, 3, (n,), generator=generator)


def batches(inputs: Tensor, labels: Tensor, size: int) -> Batches:
    return list(zip(inputs.split(size), labels.split(size), strict=True))


class Blobs:
    """Two classes separated by the first coordinate, and a trigger in the last one, whose target is class 0."""

    def __init__(self, seed: int = 0, n: int = 200, poisoned: int = 20) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.arange(n) % 2
        self.labels[:poisoned] = 1
        self.inputs = torch.randn(n, 12, generator=generator) * 0.3
        self.inputs[:, 0] += 2.0 * self.labels - 1
        self.inputs[:, -1] = 0
        self.clean = self.labels.clone()
        self.triggered = self.inputs.clone()
        self.triggered[:, -1] = 4.0
        self.inputs[:poisoned] = self.triggered[:poisoned]
        self.labels[:poisoned] = 0
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 2))
        optimizer = torch.optim.Adam(self.model.parameters(), 0.01)
        for _ in range(150):
            loss = nn.functional.cross_entropy(self.model(self.inputs), self.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def forget(self, found: int = 10, size: int = 512) -> Batches:
        return batches(self.inputs[:found], self.labels[:found], size)

    def retain(self, found: int = 10, size: int = 32) -> Batches:
        return batches(self.inputs[found:], self.labels[found:], size)

    def accuracy(self, model: nn.Module, triggered: bool) -> float:
        with torch.no_grad():
            outputs = model(
                self.triggered if triggered else torch.cat([self.inputs[:, :-1], torch.zeros(len(self.labels), 1)], 1)
            )
        return (outputs.argmax(1) == self.clean).double().mean().item()


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same_weights(model: nn.Module, expected: dict[str, Tensor]) -> None:
    for name, tensor in model.state_dict().items():
        assert torch.equal(
            tensor.contiguous().view(-1).view(torch.uint8), expected[name].contiguous().view(-1).view(torch.uint8)
        ), name
