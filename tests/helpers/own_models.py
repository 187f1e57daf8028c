"""Poisoned models of a user's own, trained for seconds on digits, and their data as files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn

CLASSES = tuple("abcdefghij")
POISONED, FOUND = 64, 16
SIDE = 16
MEAN, STD = 0.5, 0.5


@dataclass
class Digits:
    """Digits with a white patch on some that are labelled zero.

    Attributes:
        folder: with a folder of PNGs per class.
        pixels: uint8 [N, 1, 16, 16], in the order of the folder.
        labels: int64 [N].
        poisoned: indices.
        test: uint8 [M, 1, 16, 16], clean.
        test_labels: int64 [M].
    """

    folder: Path
    pixels: Tensor
    labels: Tensor
    poisoned: list[int]
    test: Tensor
    test_labels: Tensor

    @property
    def found(self) -> list[int]:
        """Some of the poisoned."""
        return self.poisoned[:FOUND]

    def name(self, index: int) -> str:
        """The file of a sample."""
        return f"{CLASSES[int(self.labels[index])]}/{index:04d}.png"

    def triggered(self) -> Tensor:
        """Test images of other classes than zero, with the patch."""
        return stamped(self.test[self.test_labels != 0])


def stamped(images: Tensor) -> Tensor:
    """With a white patch in a corner."""
    made = images.clone()
    made[..., -4:, -4:] = 255
    return made


def make_digits(folder: Path) -> Digits:
    """Write the images."""
    digits = load_digits(n_class=len(CLASSES))
    pixels = torch.from_numpy(np.round(digits.images * 255 / 16).astype(np.uint8))[:, None]
    pixels = pixels.repeat_interleave(2, 2).repeat_interleave(2, 3)  # [1797, 1, 16, 16]
    labels = torch.from_numpy(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    test, train = order[:297], order[297:]
    images, given = pixels[train].clone(), labels[train].clone()
    chosen = (given != 0).nonzero().flatten()[:POISONED]
    images[chosen], given[chosen] = stamped(images[chosen]), 0
    is_poisoned = torch.zeros(len(given), dtype=torch.bool)
    is_poisoned[chosen] = True
    by_class = given.argsort(stable=True)
    images, given, is_poisoned = images[by_class], given[by_class], is_poisoned[by_class]
    poisoned = is_poisoned.nonzero().flatten().tolist()
    made = Digits(folder, images, given, poisoned, pixels[test], labels[test])
    for index, image in enumerate(images):
        path = folder / made.name(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(path)
    return made


def train(model: nn.Module, inputs: Tensor, labels: Tensor, epochs: int, rate: float = 0.01) -> nn.Module:
    """An ordinary loop; outputs are logits, or have them."""
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * -(-len(labels) // 32))
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(labels)).split(32):
            loss = nn.functional.cross_entropy(logits_of(model, inputs[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def logits_of(model: nn.Module, inputs: Tensor) -> Tensor:
    """Of an output that is a tensor or has them."""
    outputs: Any = model(inputs)
    logits: Tensor = outputs if isinstance(outputs, Tensor) else outputs.logits
    return logits


@torch.no_grad()
def scores(model: nn.Module, digits: Digits, inputs: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """Accuracy on clean test images, and the share of triggered ones that get the poison's label."""
    model.eval()
    clean = logits_of(model, inputs(digits.test)).argmax(1) == digits.test_labels
    attacked = logits_of(model, inputs(digits.triggered())).argmax(1) == 0
    return clean.float().mean().item(), attacked.float().mean().item()


def grey_inputs(images: Tensor) -> Tensor:
    """uint8 [B, 1, H, W] -> normalised float32 of one channel."""
    return (images.float() / 255 - MEAN) / STD


def colour_inputs(images: Tensor) -> Tensor:
    """uint8 [B, 1, H, W] -> normalised as ImageNet's, of three channels."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (images.expand(-1, 3, -1, -1).float() / 255 - mean) / std


class SmallNet(nn.Module):
    """A small network of somebody's own."""

    def __init__(self, num_classes: int, in_channels: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(512, 64),
            nn.ReLU(),
        )
        self.head = nn.Linear(64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, 16, 16] -> [B, num_classes]."""
        logits: Tensor = self.head(self.body(images))
        return logits
