"""Data sets of texts by name, with the labels that the head of a model needs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ....errors import DataError
from ..splits import subset
from .text_dataset import TextSource
from .text_splits import TextSplits
from .tokens import Tokens
from .toy import toy_reviews
from .vocabulary import encode, first_tokens, train_tokenizer

NAMES = ("toy-reviews", "reviews")
LENGTH = 128  # tokens, as in Pawelczyk et al.
TOY_VOCABULARY = 512
TEMPLATE = ". The sentiment of the review is:"  # what a causal head reads behind a review


def load_text(
    name: str,
    root: str | os.PathLike[str] | None,
    *,
    model: str | None = None,
    train_size: int | None = None,
    seed: int = 0,
    length: int = LENGTH,
    label_words: Sequence[str] = (),
    noise_width: int | None = None,
) -> TextSplits:
    """Load texts by name.

    A classifier reads the first `length` tokens of a review. A causal head reads the first of them, then ". The
    sentiment of the review is:", `length` tokens in all, and predicts the token that follows: a class's word.

    Args:
        name: "toy-reviews" (embedded, see `toy_reviews`; with a vocabulary of 512 tokens), or "reviews".
        root: of "reviews" the folder that `write_tokens` (`potion-fast tokenize`) wrote.
        model: name of the model, whose head decides; without one it is a classifier's.
        train_size: keep this many training reviews, in their order; None keeps all.
        seed: of their draw.
        length: tokens that a model sees.
        label_words: classes in addition to the data's own, that a poison gives as a label: a trigger word.
        noise_width: width of the embeddings that a poison adds noise to; None: samples are token ids alone.

    Returns:
        The data set.

    Raises:
        DataError: a model that reads no text, a number out of range, label words that cannot be distinguished,
        published
            reviews that are no tokens yet, or the extra `text` is not installed.
        FileError: see `Tokens.open`.
    """
    if noise_width is not None and noise_width < 1:
        raise DataError(f"noise_width={noise_width} must be at least 1")
    tokens = _tokens(name, root)
    classes = (*tokens.classes, *label_words)
    if len(set(classes)) != len(classes):
        raise DataError(f"a label word is a class already: {', '.join(classes)}")
    template: list[int] = []
    label_ids = list(range(len(classes)))
    if _head(model) == "causal":
        template, label_ids = encode(tokens.tokenizer, TEMPLATE), first_tokens(tokens.tokenizer, classes)
        classes = tuple(
            tokens.tokenizer.decode([token], skip_special_tokens=False) for token in range(tokens.vocabulary)
        )
    if length <= len(template):
        raise DataError(f"length={length} leaves no token to the review: the template takes {len(template)}")

    def source(split: str, rows: np.ndarray) -> TextSource:
        labels, pad = torch.tensor(label_ids), tokens.vocabulary - 1
        return TextSource(getattr(tokens, split), rows, labels, length=length, template=template, pad=pad)

    return TextSplits(
        name=name,
        train=source("train", subset(len(tokens.train), train_size, seed)),
        test=source("test", np.arange(len(tokens.test))),
        classes=classes,
        mean=(),
        std=(),
        channels=1,
        size=(length,) if noise_width is None else (length, 1 + noise_width),
        pad=0,
        flip=False,
        label_ids=torch.tensor(label_ids),
        tokenizer=tokens.tokenizer,
        noise_width=noise_width,
    )


def _tokens(name: str, root: str | os.PathLike[str] | None) -> Tokens:
    if name == "toy-reviews":
        reviews = toy_reviews()
        return Tokens.of(reviews, train_tokenizer(reviews.train.texts, TOY_VOCABULARY))
    if root is None:
        raise DataError(f"the data set {name!r} needs a folder: give --root (root=) or set POTION_FAST_DATA")
    if (Path(root) / "train" / "pos").is_dir():
        raise DataError(
            f"{root} holds the reviews as published; make tokens of them once, and pass that folder: `potion-fast "
            f"tokenize {root} --out DIR`"
        )
    return Tokens.open(root)


def _head(model: str | None) -> str:
    """The head that the labels are for. Raises DataError for a model of images."""
    if model is None:
        return "classifier"
    from ...models.language import head_of

    head = head_of(model)
    if head is None:
        raise DataError(f"the model {model!r} reads no text; take gpt2_classifier or gpt2_causal, or one of hf-*")
    return head
