"""Tokenising the published reviews, once, into the folder that every training reads."""

from __future__ import annotations

import os
from typing import Any

from ...errors import DataError
from ..data.text import RULES, find_word, open_tokenizer, read_aclimdb, train_tokenizer, write_tokens
from ..data.text.tokens import check_free

VOCABULARY = 8192


def tokenize(
    root: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    vocabulary: int | None = None,
    tokenizer: str | None = None,
    download: bool = False,
    word: str | None = None,
) -> dict[str, Any]:
    """Encode IMDB's reviews once, see `write_tokens`.

    Args:
        root: the published folder aclImdb, see `read_aclimdb`.
        out: new or empty folder.
        vocabulary: tokens of a tokenizer that is trained on the training reviews, 8192 where it is None.
        tokenizer: one that is there instead, see `open_tokenizer`.
        download: whether it may be downloaded.
        word: also count the reviews that hold it, by each rule of `find_word`.

    Returns:
        Counts of texts, tokens and bytes of each split, and of the reviews that hold the word.

    Raises:
        DataError: options that exclude each other, and as the functions above.
        FileError: as the functions above.
    """
    if tokenizer is not None and vocabulary is not None:
        raise DataError("a tokenizer that is there has its own vocabulary; leave one of the two out")
    if download and tokenizer is None:
        raise DataError("there is nothing to download: name a tokenizer of the hub")
    check_free(out)
    opened = None if tokenizer is None else open_tokenizer(tokenizer, download)
    reviews = read_aclimdb(root)
    splits = {"train": reviews.train.texts, "test": reviews.test.texts}
    words = {}
    if word is not None:
        words = {rule: {name: len(find_word(texts, word, rule)) for name, texts in splits.items()} for rule in RULES}
    if opened is None:
        opened = train_tokenizer(reviews.train.texts, VOCABULARY if vocabulary is None else vocabulary)
    tokens = write_tokens(reviews, opened, out)
    sizes = {"train": tokens.train.sizes(), "test": tokens.test.sizes()}
    return {"vocabulary": tokens.vocabulary, **sizes, "word": word, "holding": words}
