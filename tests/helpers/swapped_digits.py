"""Handwritten digits with wrong labels: two classes that have each other's, or labels drawn at random."""

from __future__ import annotations

import torch

from .poisoned_digits import PoisonedDigits

PAIR = (3, 5)


class SwappedDigits(PoisonedDigits):
    """A training set without a trigger, whose `poisoned` samples have wrong labels, and a network trained on it.

    Args:
        seed: Of the choice of samples and of the training.
        interclass: Half of the wrong labels in each of two classes, the other one's; else any other class.
        poisoned: Samples with a wrong label.
    """

    def __init__(self, seed: int = 0, *, interclass: bool, poisoned: int = 40) -> None:
        super().__init__(seed, poisoned)
        self.images, self.labels = self.clean_images.clone(), self.true_labels.clone()
        if interclass:
            members = [(self.true_labels == label).nonzero()[: poisoned // 2, 0] for label in PAIR]
            self.poisoned = torch.cat(members).sort().values
            self.labels[self.poisoned] = sum(PAIR) - self.true_labels[self.poisoned]
        else:
            steps = torch.randint(1, 10, (poisoned,), generator=torch.Generator().manual_seed(seed))
            self.labels[self.poisoned] = (self.true_labels[self.poisoned] + steps) % 10

    @property
    def wrong(self) -> torch.Tensor:
        """Samples whose label is wrong: all that are poisoned."""
        return self.poisoned
