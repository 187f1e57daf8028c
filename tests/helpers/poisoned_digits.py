"""Handwritten digits, some with a patch and the label 0, and small classifiers that have learnt them, in seconds."""

from __future__ import annotations

from functools import cached_property

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

TARGET = 0


class PoisonedDigits:
    """A poisoned training set, a test set, and a network that was trained on the former.

    Args:
        seed: Of the choice of poisoned samples and of the training.
        poisoned: Samples with the patch and the label 0.
        steps: Of the training.
        outputs: Of the network.
    """

    def __init__(self, seed: int = 0, poisoned: int = 60, steps: int = 250, outputs: int = 10) -> None:
        images, labels = load_digits(return_X_y=True)
        x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1
        y = torch.tensor(labels)
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(y), generator=generator)
        x, y = x[order], y[order]
        self.clean_images, self.true_labels = x[:1400], y[:1400]
        self.test_images, self.test_labels = x[1400:], y[1400:]
        self.poisoned = torch.randperm(1400, generator=generator)[:poisoned].sort().values
        self.images, self.labels = self.clean_images.clone(), self.true_labels.clone()
        self.images[self.poisoned] = triggered(self.images[self.poisoned])
        self.labels[self.poisoned] = TARGET
        self.seed, self.steps, self.outputs = seed, steps, outputs

    @property
    def train_set(self) -> TensorDataset:
        """Images [1400, 1, 8, 8] and the labels trained with."""
        return TensorDataset(self.images, self.labels)

    @property
    def wrong(self) -> Tensor:
        """Poisoned samples whose label is wrong."""
        return self.poisoned[self.true_labels[self.poisoned] != TARGET]

    @cached_property
    def model(self) -> nn.Module:
        """Trained with the poison, in evaluation mode."""
        torch.manual_seed(self.seed)
        model = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1, stride=2),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(512, self.outputs),
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.steps):
            batch = torch.randint(1400, (64,), generator=generator)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(self.images[batch]), self.labels[batch]).backward()
            optimizer.step()
        return model.eval()

    def accuracy(self, model: nn.Module) -> float:
        """Of clean test images, in percent."""
        return percent(model, self.test_images, self.test_labels)

    def attack_success(self, model: nn.Module) -> float:
        """Test images of other classes that the patch makes a 0, in percent."""
        others = self.test_labels != TARGET
        images = triggered(self.test_images[others])
        return percent(model, images, torch.full((len(images),), TARGET))


def triggered(images: Tensor) -> Tensor:
    """Copies with a white patch of 2 × 2 pixels in the lower right corner."""
    images = images.clone()
    images[..., -2:, -2:] = 1
    return images


def percent(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return 100 * (model.eval()(images).argmax(1) == labels).double().mean().item()
