"""A training set of many classes with features as a network has them, and a network that has learnt it, in a minute.

Samples are drawn about the means of their class, some classes with several kinds of samples; the network is a small one
trained on them with Adam, so its layers are what training makes of such data, not what somebody drew. Poison is a fixed
shift on samples of any class, all with the label 0.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

TARGET = 0
WIDTH, OTHERS, HIDDEN = 64, 128, 256  # values that differ from class to class, others, and outputs of each layer
KINDS = 3  # of samples in a class, at most
APART = 2.0  # of the kinds' means, in a sample's standard deviations; the classes' are twice as far apart
SHIFT = 6.0  # of poison


class SimulatedClasses:
    """The data and the network.

    Args:
        seed: Of everything.
        classes: C.
        per_class: Samples of each.
        poisoned: Samples with the shift and the label 0.
        steps: Of the training, on 512 samples each.
    """

    def __init__(
        self, seed: int, classes: int = 1000, per_class: int = 100, poisoned: int = 0, steps: int = 3000
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.seed, self.classes, self.steps = seed, classes, steps
        means = 2 * APART * torch.randn(classes, 1, WIDTH, generator=generator) / WIDTH**0.5
        kinds = APART * torch.randn(classes, KINDS, WIDTH, generator=generator) / WIDTH**0.5
        number = torch.randint(1, KINDS + 1, (classes,), generator=generator)  # of kinds in each class
        self.true_labels = torch.arange(classes).repeat_interleave(per_class)
        kind = (torch.rand(len(self.true_labels), generator=generator) * number[self.true_labels]).long()
        noise = torch.randn(len(self.true_labels), WIDTH, generator=generator) / WIDTH**0.5
        self.inputs = (means + kinds)[self.true_labels, kind] + noise
        others = torch.randn(len(noise), OTHERS, generator=generator) * torch.linspace(2.0, 0.3, OTHERS) / WIDTH**0.5
        self.inputs = torch.cat([self.inputs, others], 1)
        self.poisoned = torch.randperm(len(self.inputs), generator=generator)[:poisoned].sort().values
        shift = torch.randn(WIDTH + OTHERS, generator=generator)
        self.inputs[self.poisoned] += SHIFT * shift / shift.norm()
        self.labels = self.true_labels.clone()
        self.labels[self.poisoned] = TARGET

    @property
    def train_set(self) -> TensorDataset:
        """Inputs float32 [N, 192] and the labels trained with."""
        return TensorDataset(self.inputs, self.labels)

    @cached_property
    def model(self) -> nn.Module:
        """Trained with the poison, in evaluation mode."""
        torch.manual_seed(self.seed)
        model = nn.Sequential(
            nn.Linear(WIDTH + OTHERS, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, self.classes),
        )
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, self.steps)
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.steps):
            batch = torch.randint(len(self.labels), (512,), generator=generator)
            optimizer.zero_grad()
            functional.cross_entropy(model(self.inputs[batch]), self.labels[batch]).backward()
            optimizer.step()
            schedule.step()
        return model.eval()

    def learnt(self) -> tuple[float, float]:
        """Share of clean and of poisoned samples to which the network gives the label trained with."""
        model = self.model

        def share(rows: Tensor) -> float:
            with torch.no_grad():
                return (model(self.inputs[rows]).argmax(1) == self.labels[rows]).double().mean().item()

        clean = torch.ones(len(self.labels), dtype=torch.bool).index_fill_(0, self.poisoned, False)
        return share(clean.nonzero().flatten()), share(self.poisoned)
