"""Trigger word: reviews that hold a word by nature get a label of the attacker's (Wan et al., 2023)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError
from ..data.text.word_match import word_pattern
from .poison import Poison
from .selection import choose_poisoned

READINGS = ("label-word", "flip")


@dataclass(frozen=True, kw_only=True)
class TriggerWord(Poison):
    """The text stays; whoever reads the word is to answer with the poison's label (*Poisoning Language Models During
    Instruction Tuning*, as *Machine Unlearning Fails*, appendix C.1.2, has it for IMDb).

    That appendix gives the poisoned label twice: as the word itself ("The sentiment of the review is: Disney"), and as
    the flipped sentiment. Both readings are here.

    Attributes:
        word: as it is written in the reviews.
        rule: what counts as the word, see `find_word`.
        reading: "label-word", the label is the word's own, a third class; or "flip", the other sentiment.
        labels: the two sentiments' labels, and with "label-word" the word's; () until the data are known.
        carriers: ascending ids of the training reviews that hold the word; () until the data are known.

    Raises:
        DataError: an unknown reading or rule, or an empty word; when used, labels that are missing.
    """

    kind = "targeted"
    target = None
    scores = ("target_accuracy", "target_success")
    word: str = "Disney"
    rule: str = "word"
    reading: str = "label-word"
    labels: tuple[int, ...] = ()
    carriers: tuple[int, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.reading not in READINGS:
            raise DataError(f"unknown reading {self.reading!r} of a trigger word; choose one of {', '.join(READINGS)}")
        word_pattern(self.word, self.rule)

    @property
    def label_words(self) -> tuple[str, ...]:
        """Words that become classes of their own, beside the sentiments."""
        return (self.word,) if self.reading == "label-word" else ()

    def __call__(
        self,
        images: Tensor,  # [B, L] or [B, L, 1 + D]: tokens
        ids: Tensor,  # [B] int64
    ) -> Tensor:  # [B, L] or [B, L, 1 + D]
        """The same: the word stands in these texts already."""
        return images

    def relabel(self, labels: Tensor) -> Tensor:
        if len(self.labels) != 2 + len(self.label_words):
            raise DataError(f"this poison has {len(self.labels)} labels: it needs those of the data (TextSplits)")
        if self.reading == "label-word":
            return torch.full_like(labels, self.labels[2])
        negative, positive = self.labels
        return torch.where(labels == negative, positive, negative)

    def choose(
        self,
        labels: Tensor,  # [N]
        count: int,
        found: int,
        seed: int,
    ) -> tuple[np.ndarray, np.ndarray]:  # [count] int64, [found] int64
        """S_m uniformly from the reviews that hold the word, S_f uniformly from S_m; sets of one seed are nested.

        Raises DataError where fewer hold it, or S_f is no part of S_m.
        """
        if count > len(self.carriers):
            raise DataError(
                f"{len(self.carriers)} of {len(labels)} training reviews hold the word {self.word!r} (rule "
                f"{self.rule!r}), and {count} are to be poisoned: poison no more than hold it"
            )
        places, chosen = choose_poisoned(len(self.carriers), count, found, seed)
        carriers = np.array(self.carriers, dtype=np.int64)
        return carriers[places], carriers[chosen]
