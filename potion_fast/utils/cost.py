"""Cost of healing, counted in samples that went through the model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """Samples that went through a model. Costs of several parts add up.

    Attributes:
        forward: Samples of forward passes, those before a backward pass too.
        backward: Samples of backward passes.
    """

    forward: int = 0
    backward: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.forward + other.forward, self.backward + other.backward)

    def epochs(self, samples: int) -> float:
        """In epochs of training on so many samples; a backward pass counts as two forward passes."""
        return (self.forward + 2 * self.backward) / (3 * samples)
