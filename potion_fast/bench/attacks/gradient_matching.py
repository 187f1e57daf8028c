"""Gradient matching: a targeted attack with right labels (Geiping et al., *Witches' Brew*, 2021)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from ...errors import DataError
from .perturbation import Perturbation


@dataclass(frozen=True, kw_only=True)
class GradientMatching(Perturbation):
    """Small perturbations of images of one class, crafted so that a test image of another is taken for theirs.

    Attributes:
        epsilon: largest change of a pixel's value, of 255.
        target_class: true label of the test images that the attack aims at; None: drawn.
        intended_class: label that it wants for them, and the class that is poisoned; None: drawn.
        targets: number of such test images.

    Raises:
        DataError: a value out of range, or one class for both; see also `Perturbation`.
    """

    kind = "targeted"
    scores = ("target_accuracy", "target_success")
    epsilon: float = 16.0
    target_class: int | None = None
    intended_class: int | None = None
    targets: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < math.inf or self.targets < 1:
            raise DataError(f"needs epsilon > 0 and targets >= 1; got {self.epsilon} and {self.targets}")
        if self.target_class is not None and self.target_class == self.intended_class:
            raise DataError(f"the target's class and the intended one must differ, not both be {self.target_class}")

    def classes(
        self,
        labels: torch.Tensor,  # [N] int64, of the whole training set
        seed: int,
    ) -> tuple[int, int]:
        """(target class, intended class), different; those that were not given are drawn, uniformly.

        Raises DataError for a given class that no sample has, or fewer than two classes.
        """
        present = labels.unique().numpy()
        given = [label for label in (self.target_class, self.intended_class) if label is not None]
        for label in given:
            if label not in present:
                raise DataError(f"no training sample has the label {label}; choose another class for the attack")
        if len(present) < 2:
            raise DataError("a targeted attack needs two classes, the target's and the intended one")
        drawn = (int(label) for label in np.random.default_rng(seed).permutation(present) if label not in given)
        target = next(drawn) if self.target_class is None else self.target_class
        return target, next(drawn) if self.intended_class is None else self.intended_class

    def choose(
        self,
        labels: torch.Tensor,  # [N]
        count: int,
        found: int,
        seed: int,
    ) -> tuple[np.ndarray, np.ndarray]:  # [count] int64, [found] int64
        """S_m uniformly from the intended class, S_f uniformly from S_m; sets of one seed are nested.

        Raises DataError where the class has too few samples, or S_f is no part of S_m.
        """
        if not 1 <= found <= count:
            raise DataError(f"cannot find {found} of {count} poisoned samples")
        _, intended = self.classes(labels, seed)
        members = (labels == intended).nonzero().squeeze(1).numpy()
        if len(members) < count:
            raise DataError(
                f"class {intended} has {len(members)} training samples; {count} are to be poisoned: poison fewer"
            )
        rng = np.random.RandomState(seed)  # numpy's legacy generator: its draws never change
        poisoned = rng.choice(members, count, replace=False)
        return poisoned, rng.choice(np.sort(poisoned), found, replace=False)
