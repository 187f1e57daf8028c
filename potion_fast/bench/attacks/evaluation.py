"""Inputs of an attack's evaluation, and captions of its pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from ..data import Loader, PoisonedDataset

NO_LABEL = -1

Scores = Mapping[str, float]  # metrics by name: "clean_accuracy", the two scores of the poison, and others


@dataclass(frozen=True)
class Attacked:
    """The samples that an attack is judged by.

    Attributes:
        dataset: that holds them.
        rows: [M] positions in it.
        labels: int64 [M], clean.
        wanted: int64 [M], the labels that the attack wants; NO_LABEL where any wrong one, or none, will do.
    """

    dataset: PoisonedDataset
    rows: list[int]
    labels: Tensor
    wanted: Tensor


@dataclass(frozen=True)
class EvaluationInputs:
    """What a model is evaluated on.

    Attributes:
        clean: test samples in their order, with clean labels.
        attacked: the attacked samples in their order, with clean labels, not augmented.
        wanted: int64 [M], see `Attacked`.
        seed: of the run's random draws.
        sample: what one of the samples is called: "image" or "review".
        remark: what stands behind the number of attacked samples in a denominator; empty where nothing does.
    """

    clean: Loader
    attacked: Loader
    wanted: Tensor
    seed: int = 0
    sample: str = "image"
    remark: str = ""


@dataclass(frozen=True)
class Captions:
    """What an attack is called in the picture of a healing.

    In the texts "{sample}" is the name of a sample, image or review, and in `shown` and `none` "{target}" for the
    target's name.

    Attributes:
        attacked: the attacked samples, in the legend; empty where they are the clean ones.
        right: of the title: "triggered images right: ..."; empty where there is no such share.
        clean_right: of the title: "clean images right: ...".
        found: what the dotted line counts: what the found samples are still given.
        shown: above the attacked samples.
        none: instead of them, where the poisoned model does what the attack wants with none.
        score: what the second score is called in the title; empty where it does not stand there.
        clean: the clean samples, in the legend.
    """

    attacked: str
    right: str
    clean_right: str
    found: str
    shown: str
    none: str
    score: str = ""
    clean: str = "clean test {sample}s"

    def of(self, sample: str) -> Captions:
        """The same with what a sample is in the place of "{sample}"."""
        return Captions(**{name: text.replace("{sample}", sample) for name, text in asdict(self).items()})
