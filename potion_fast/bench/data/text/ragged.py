"""Ragged arrays of encoded texts, in memory or memory-mapped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from ....errors import DataError
from .reviews import Texts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CHUNK = 1000  # texts that are encoded together


@dataclass(frozen=True, eq=False)
class TokenSplit:
    """Texts as two flat arrays, each with where its rows start: row i is flat[starts[i] : starts[i + 1]].

    Attributes:
        tokens: uint16 or uint32 [T].
        starts: int64 [N + 1].
        labels: int64 [N].
        characters: uint8 [C], the texts in UTF-8.
        text_starts: int64 [N + 1].
    """

    tokens: np.ndarray
    starts: np.ndarray
    labels: np.ndarray
    characters: np.ndarray
    text_starts: np.ndarray

    def __len__(self) -> int:
        """Number of texts."""
        return len(self.labels)

    def sizes(self) -> dict[str, int]:
        """Numbers of texts, tokens and bytes of text."""
        return {"texts": len(self), "tokens": len(self.tokens), "characters": len(self.characters)}

    def text(self, index: int) -> str:
        """A text as it was published."""
        return bytes(self.characters[self.text_starts[index] : self.text_starts[index + 1]]).decode("utf-8")

    def windows(
        self,
        indices: np.ndarray,  # [B] int64
        length: int,
        pad: int,
    ) -> np.ndarray:  # [B, length] int64
        """The first tokens of texts; shorter ones have the pad token behind them.

        Args:
            indices: int64 [B], which texts.
            length: number of tokens.
            pad: the padding token.

        Returns:
            int64 [B, length].
        """
        positions = self.starts[indices, None] + np.arange(length)  # [B, length]
        inside = positions < self.starts[indices + 1, None]
        return np.where(inside, self.tokens[np.minimum(positions, len(self.tokens) - 1)].astype(np.int64), pad)


ARRAYS = tuple(TokenSplit.__dataclass_fields__)


def encode_split(texts: Texts, tokenizer: Tokenizer, what: str) -> TokenSplit:
    """Encode texts.

    Args:
        texts: with their labels.
        tokenizer: its last token is the padding.
        what: what the texts are called in errors.

    Returns:
        The tokens, and the texts themselves.

    Raises:
        DataError: a text without a token, with the pad token or with half a character.
    """
    try:
        utf8 = [text.encode("utf-8") for text in texts.texts]
    except UnicodeEncodeError as error:
        raise DataError(f"a text of {what} cannot be written as UTF-8 ({error}); mend it or leave it out") from error
    pad = tokenizer.get_vocab_size() - 1
    kind = np.uint16 if pad < 2**16 else np.uint32
    rows: list[np.ndarray] = []
    for start in range(0, len(texts), CHUNK):
        chunk = list(texts.texts[start : start + CHUNK])
        encodings = tokenizer.encode_batch_fast(chunk, add_special_tokens=False)
        rows += [np.array(encoding.ids, dtype=kind) for encoding in encodings]
    for index, row in enumerate(rows):
        if not len(row) or (row == pad).any():
            why = f"holds the token {tokenizer.id_to_token(pad)!r}, which is for padding" if len(row) else "is empty"
            raise DataError(f"text {index} of {what} {why}; leave it out")
    return TokenSplit(
        tokens=np.concatenate(rows),
        starts=_starts(rows),
        labels=texts.labels.numpy(),
        characters=np.frombuffer(b"".join(utf8), dtype=np.uint8),
        text_starts=_starts(utf8),
    )


def _starts(rows: Sequence[Any]) -> np.ndarray:  # [N + 1] int64
    return np.array([0, *accumulate(len(row) for row in rows)], dtype=np.int64)
