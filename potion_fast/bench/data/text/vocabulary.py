"""Tokenizers: a byte-level BPE trained here, or an existing one; `tokenizers` is imported when one is used."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....errors import DataError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END = "<|endoftext|>"  # the last token: padding
FEWEST = 257  # a token for each byte, and END
FILE = "tokenizer.json"


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """A byte-level BPE like GPT-2's (Radford et al., 2019), trained on these texts; the same texts give the same one.

    Any text can be encoded and decoded to itself. The last token, `vocabulary - 1`, is <|endoftext|>.

    Args:
        texts: what it is trained on.
        vocabulary: number of tokens.

    Returns:
        The tokenizer.

    Raises:
        DataError: `vocabulary` is below 257, or the texts are too few for that many tokens, or the extra `text` is not
            installed.
    """
    tokenizers = import_tokenizers()
    if vocabulary < FEWEST:
        raise DataError(f"vocabulary={vocabulary} must be at least {FEWEST}: a token for each byte, and {END}")
    tokenizer: Tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary - 1,
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([END])
    if (size := tokenizer.get_vocab_size()) != vocabulary:
        raise DataError(f"these texts give no more than {size} tokens; ask for a smaller vocabulary than {vocabulary}")
    return tokenizer


def open_tokenizer(name: str | os.PathLike[str], download: bool = False) -> Tokenizer:
    """A tokenizer out of a folder (tokenizer.json, or what `transformers` saves) or by its name on Hugging Face's hub.

    Args:
        name: the folder or the name.
        download: let a name be downloaded; otherwise it must be in the hub's cache on this machine.

    Returns:
        The tokenizer, without truncation and padding.

    Raises:
        DataError: there is none, it cannot be read, or the extra `text` is not installed.
    """
    tokenizers = import_tokenizers()
    file = Path(name).expanduser() / FILE
    try:
        if file.is_file():
            return plain(tokenizers.Tokenizer.from_file(str(file)))
        return plain(_of_transformers(str(file.parent) if file.parent.is_dir() else str(name), download))
    except DataError:
        raise
    except Exception as error:  # tokenizers raises Exception itself, the hub errors of several libraries
        hint = "" if download else "; nothing was downloaded: allow it with download=True (--download)"
        raise DataError(f"there is no tokenizer {os.fspath(name)!r} ({_first_line(error)}){hint}") from error


def plain(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer without truncation and padding.

    Raises:
        DataError: the ids are not 0 to vocabulary - 1.
    """
    ids = sorted(tokenizer.get_vocab().values())
    if ids != list(range(len(ids))):
        raise DataError(f"the tokenizer's {len(ids)} ids go up to {ids[-1]}, with gaps; use another tokenizer")
    same: Tokenizer = import_tokenizers().Tokenizer.from_str(tokenizer.to_str())
    same.no_truncation()
    same.no_padding()
    return same


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text, and of nothing else: no special token is added."""
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def first_tokens(tokenizer: Tokenizer, words: Sequence[str]) -> list[int]:  # [K]
    """The first token of " word", for each word: what a causal model predicts for it.

    Args:
        tokenizer: of the model.
        words: K label words.

    Returns:
        K token ids.

    Raises:
        DataError: two words share their first token, so that they could not be distinguished.
    """
    firsts = [encode(tokenizer, f" {word}")[0] for word in words]
    for index, first in enumerate(firsts):
        if first in firsts[:index]:
            other, token = words[firsts.index(first)], tokenizer.decode([first])
            raise DataError(
                f"the label words {other!r} and {words[index]!r} begin with the same token {token!r}; train the "
                "tokenizer with a larger vocabulary, or take another word"
            )
    return firsts


def import_tokenizers() -> Any:
    """The package `tokenizers`.

    Raises:
        DataError: it is not installed.
    """
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError as error:
        raise DataError("text needs the package tokenizers: pip install 'potion-fast[text]'") from error
    return tokenizers


def _of_transformers(name: str, download: bool) -> Tokenizer:
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise DataError("tokenizers by name need transformers: pip install 'potion-fast[text]'") from error
    tokenizer: Tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=not download).backend_tokenizer
    return tokenizer


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
