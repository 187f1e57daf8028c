"""Training and test texts of a run: reviews as tokens, the labels of the model's head, and searches for a word."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from ....user.image_source import ImageSource
from ..dataset import check_indices
from ..splits import Splits
from .text_dataset import TextDataset, TextSource, with_noise_channels
from .word_match import find_word, word_pattern

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from ...attacks import Poison


@dataclass(frozen=True, eq=False, kw_only=True)
class TextSplits(Splits):
    """Texts as a run uses them, in the place of images: a sample's index is its position in `train` (or `test`).

    Attributes:
        train: training texts; their labels are those of the model's head.
        test: test texts.
        classes: of a classifier the names of the classes, of a causal head all tokens: a label is its index here.
        label_ids: int64 [K], the label of each class: 0 to K - 1, or of the causal head the first token of its word.
        size: of a sample, (L,) or (L, 1 + D).
        tokenizer: of the vocabulary, whose last token is padding.
        noise_width: D, the width of the embeddings that noise is added to; None where a sample is token ids alone.
    """

    train: TextSource
    test: TextSource
    label_ids: Tensor
    tokenizer: Tokenizer
    noise_width: int | None = None
    sample_name = "review"
    _carriers: dict[tuple[str, str, str], Tensor] = field(default_factory=dict, init=False, repr=False)  # a cache

    def source(self, split: str) -> TextSource:
        """The reviews of a split.

        Args:
            split: "train" or "test".

        Returns:
            Its source.

        Raises:
            DataError: another name.
        """
        return cast(TextSource, super().source(split))

    def sample(self) -> Tensor:
        """A valid input of one sample, zeros: int64 [1, L] or float32 [1, L, 1 + D]."""
        tokens = torch.zeros(1, self.size[0], dtype=torch.int64)
        return tokens if self.noise_width is None else with_noise_channels(tokens, self.noise_width)

    @property
    def model_options(self) -> dict[str, int]:
        """Options that a model must be made with to take these samples."""
        return {"vocabulary": self.tokenizer.get_vocab_size(), "length": self.size[0]}

    def text(self, split: str, index: int) -> str:
        """A review as it was published."""
        source = self.source(split)
        return source.split.text(int(source.rows[index]))

    def carriers(self, split: str, word: str, rule: str) -> Tensor:
        """The reviews that hold a word, inside the model's window or not.

        Args:
            split: "train" or "test".
            word: the word.
            rule: see `find_word`.

        Returns:
            Their positions: int64 [M], ascending.

        Raises:
            DataError: an empty word or an unknown rule.
        """
        query = (split, word, rule)
        if query not in self._carriers:
            texts = (self.text(split, index) for index in range(len(self.source(split))))
            self._carriers[query] = find_word(texts, word, rule)
        return self._carriers[query]

    def inside(self, split: str, ids: Collection[int] | Tensor, word: str, rule: str) -> Tensor:
        """Whether the model sees the word whole, at least once. It is searched in the whole review.

        Args:
            split: "train" or "test".
            ids: M positions of reviews.
            word: the word.
            rule: see `find_word`.

        Returns:
            bool [M].

        Raises:
            DataError: an index out of range or given twice, an empty word or an unknown rule.
        """
        source, pattern = self.source(split), word_pattern(word, rule)
        rows = check_indices(ids, len(source)).tolist()
        return torch.tensor(
            [self._sees(self.text(split, row), pattern, source.window) for row in rows], dtype=torch.bool
        )

    def _dataset(
        self,
        source: ImageSource,
        augment: bool,
        poison: Poison | None,
        poisoned: Collection[int] | None,
        covers: Collection[int],
        trigger_all: bool,
    ) -> TextDataset:
        """A `TextDataset`; `augment` changes nothing, as texts are not augmented."""
        return TextDataset(
            cast(TextSource, source),
            noise_width=self.noise_width,
            poison=poison,
            poisoned=poisoned,
            covers=covers,
            trigger_all=trigger_all,
        )

    def _sees(self, text: str, pattern: re.Pattern[str], window: int) -> bool:
        first = pattern.search(text)
        if first is None:
            return False
        spans = self.tokenizer.encode(text, add_special_tokens=False).offsets  # in characters
        return len(spans) <= window or first.end(1) <= spans[window][0]  # the first token that is not seen
