"""Texts: labelled reviews, their tokens on disk, and the splits that language models are trained on."""

from .load import load_text
from .reviews import Reviews, Texts, from_datasets, read_aclimdb
from .text_dataset import TextDataset
from .text_splits import TextSplits
from .tokens import Tokens, write_tokens
from .toy import toy_reviews
from .vocabulary import open_tokenizer, train_tokenizer
from .word_match import RULES, find_word

__all__ = [
    "RULES",
    "Reviews",
    "TextDataset",
    "TextSplits",
    "Texts",
    "Tokens",
    "find_word",
    "from_datasets",
    "load_text",
    "open_tokenizer",
    "read_aclimdb",
    "toy_reviews",
    "train_tokenizer",
    "write_tokens",
]
