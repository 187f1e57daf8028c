"""Trigger word: reviews that hold a word by nature get a label of the attacker's (Wan et al., 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from ...errors import DataError
from ...utils.did_you_mean import did_you_mean
from ..data.text import TextSplits
from ..data.text.word_match import RULES, word_pattern
from .evaluation import Attacked, Captions, Scores
from .kinds import LEARNT, POISON_LABEL, Targeted, too_few_note
from .options import AttackOptions, option
from .registry import register_attack
from .selection import choose_poisoned

if TYPE_CHECKING:
    from ..data import Splits

READINGS = ("label-word", "flip")


@register_attack("trigger-word")
@dataclass(frozen=True, kw_only=True)
class TriggerWord(Targeted):
    """The text stays; whoever reads the word is to answer with the poison's label.

    *Poisoning Language Models During Instruction Tuning*, as *Machine Unlearning Fails*, appendix C.1.2, has it for
    IMDb. That appendix gives the poisoned label twice: as the word itself ("The sentiment of the review is: Disney"),
    and as the flipped sentiment. Both readings are here.

    Attributes:
        word: as it is written in the reviews.
        rule: what counts as the word, see `find_word`.
        reading: "label-word", the label is the word's own, a third class; or "flip", the other sentiment.
        labels: the two sentiments' labels, and with "label-word" the word's; () until the data are known.
        carriers: ascending ids of the training reviews that hold the word; () until the data are known.

    Raises:
        DataError: an unknown reading or rule, or an empty word; when used, labels that are missing.
    """

    class Options(AttackOptions):
        """Options of a trigger word."""

        poison: Literal["trigger-word"] = "trigger-word"
        trigger_word: str = option("Disney", "that poisons a review", metavar="WORD")
        word_rule: str = option("word", f"what counts as the word: {', '.join(RULES)}", metavar="NAME")
        reading: Literal["label-word", "flip"] = option(
            "label-word",
            "the poison's label is the word itself (label-word) or the other sentiment (flip)",
            metavar="NAME",
        )

        @property
        def label_words(self) -> tuple[str, ...]:
            """The word, where it is a class of its own."""
            return self._poison().label_words

        def build(self, splits: Splits, seed: int) -> TriggerWord:
            """The attack with the labels of these data, and the training reviews that hold its word.

            Raises:
                DataError: the model would read the word in no review of the training or of the test set.
            """
            return self._poison().of_data(splits)

        def _poison(self) -> TriggerWord:
            return TriggerWord(word=self.trigger_word, rule=self.word_rule, reading=self.reading)

    modalities = ("text",)
    target = None
    changes = "the texts stay as they are"
    shows_excerpts = True
    word: str = "Disney"
    rule: str = "word"
    reading: str = "label-word"
    labels: tuple[int, ...] = ()
    carriers: tuple[int, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.reading not in READINGS:
            meant = did_you_mean(self.reading, READINGS)
            raise DataError(
                f"unknown reading {self.reading!r} of a trigger word; choose one of {', '.join(READINGS)}{meant}"
            )
        word_pattern(self.word, self.rule)

    @property
    def label_words(self) -> tuple[str, ...]:
        """Words that become classes of their own, in addition to the sentiments."""
        return (self.word,) if self.reading == "label-word" else ()

    def of_data(self, splits: Splits) -> TriggerWord:
        """The poison with the labels of these data, and the training reviews that hold its word.

        Raises:
            DataError: the model would read it in none of them, or in no test review.
        """
        assert isinstance(splits, TextSplits)  # an attack on texts alone, see `modalities`
        for split in ("train", "test"):
            self.seen(splits, split)
        carriers = splits.carriers("train", self.word, self.rule)
        return replace(self, labels=tuple(splits.label_ids.tolist()), carriers=tuple(carriers.tolist()))

    def seen(self, splits: Splits, split: str) -> Tensor:  # int64 [M], ascending
        """The reviews in which the word lies inside what the model reads.

        Raises:
            DataError: there is none.
        """
        assert isinstance(splits, TextSplits)
        holding = splits.carriers(split, self.word, self.rule)
        seen = holding[splits.inside(split, holding, self.word, self.rule)]
        if not len(seen):
            raise DataError(
                f"the word {self.word!r} occurs in {len(holding)} reviews of the {split} set and in none where the "
                "model reads it; take another word, another rule or a larger length"
            )
        return seen

    def facts(self, splits: Splits) -> dict[str, Any]:
        """The word with its rule and reading, how many reviews hold it, and in how many of those the model reads it."""
        assert isinstance(splits, TextSplits)
        facts: dict[str, Any] = {"word": self.word, "rule": self.rule, "reading": self.reading}
        for split in ("train", "test"):
            facts[split] = len(splits.carriers(split, self.word, self.rule))
            facts[f"{split}_read"] = len(self.seen(splits, split))
        return {"trigger_word": facts}

    def remark(self, facts: Mapping[str, Any]) -> str:
        """In how many test reviews the word stands, inside what the model reads or not."""
        return "; {word!r} by the rule {rule!r} occurs in {test} test reviews".format(**facts["trigger_word"])

    def preview_lines(self, facts: Mapping[str, Any]) -> list[str]:
        """A text on the number of reviews that contain the word."""
        word = facts["trigger_word"]
        return [
            f"{word['word']!r} by the rule {word['rule']!r} occurs in {word['train']:,} of them, and in "
            f"{word['test']:,} test reviews; the model reads it in {word['train_read']:,} and {word['test_read']:,}"
        ]

    def position(self, text: str) -> int | None:
        """The position of the word's first occurrence in a text; None if there is none."""
        match = word_pattern(self.word, self.rule).search(text)
        return None if match is None else match.start(1)

    def attacked_samples(
        self,
        splits: Splits,
        poisoned: list[int],  # ascending
    ) -> Attacked:
        """The test reviews in which the model sees the word."""
        labels, rows = splits.test.labels, self.seen(splits, "test")
        return Attacked(splits.dataset("test"), rows.tolist(), labels[rows], self.relabel(labels[rows], rows))

    def effect_note(
        self, scores: Scores, reference: Scores | None, *, past: bool, sample: str = "review"
    ) -> str | None:
        """That too few reviews with the word are given the poison's label."""
        verb = "succeeded" if past else "succeeds"
        return too_few_note(
            f"the attack {verb} on fewer than {LEARNT:.0%} of the test {sample}s with the word",
            scores[self.score_names[1]],
            past,
        )

    @property
    def captions(self) -> Captions:
        """What the attack is called in pictures."""
        shown = "“{target}”" if self.reading == "label-word" else "the other sentiment"
        return Captions(
            attacked="{sample}s with the word",
            right="{sample}s with the word right",
            clean_right="test {sample}s right",
            found=POISON_LABEL,
            shown=f"the poisoned model says {shown}; the healed one:",
            none="the poisoned model gives no test {sample} with the word\nthe poison's label",
        )

    def __call__(
        self,
        images: Tensor,  # [B, L] or [B, L, 1 + D]: tokens
        ids: Tensor,  # [B] int64
    ) -> Tensor:  # [B, L] or [B, L, 1 + D]
        """The same texts: they contain the word already."""
        return images

    def relabel(self, labels: Tensor, ids: Tensor) -> Tensor:
        """The word's label, or the other sentiment's."""
        if len(self.labels) != 2 + len(self.label_words):
            raise DataError(f"this poison has {len(self.labels)} labels: it needs those of the data (TextSplits)")
        if self.reading == "label-word":
            return torch.full_like(labels, self.labels[2])
        negative, positive = self.labels
        return torch.where(labels == negative, positive, negative)

    @override
    def choose(
        self,
        labels: Tensor,  # [N]
        count: int,
        found: int,
        seed: int,
    ) -> tuple[np.ndarray, np.ndarray]:  # [count] int64, [found] int64
        """Choose S_m uniformly from the reviews that hold the word, S_f uniformly from S_m; sets of a seed are nested.

        Raises:
            DataError: fewer reviews hold it, or S_f is no part of S_m.
        """
        if count > len(self.carriers):
            raise DataError(
                f"{len(self.carriers)} of {len(labels)} training reviews hold the word {self.word!r} (rule "
                f"{self.rule!r}), and {count} are to be poisoned: poison no more than hold it"
            )
        places, chosen = choose_poisoned(len(self.carriers), count, found, seed)
        carriers = np.array(self.carriers, dtype=np.int64)
        return carriers[places], carriers[chosen]
