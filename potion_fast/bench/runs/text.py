"""What an experiment does with a trigger word, and what else it says of texts alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from ...errors import DataError
from ..attacks import TriggerWord
from ..configs import TrainConfig
from ..configs.defaults import TEXT
from ..data import Splits
from ..data.text import TextSplits
from ..models import width_of


def text_settings(config: TrainConfig) -> dict[str, Any]:
    """Arguments of `load_dataset` that only texts have: a class for the word, room for noise in embeddings."""
    if config.data not in TEXT:
        return {}
    assert config.model is not None  # resolved
    settings: dict[str, Any] = {"length": config.length}
    if config.poison == "trigger-word":
        assert config.trigger_word is not None and config.word_rule is not None and config.reading is not None
        poison = TriggerWord(word=config.trigger_word, rule=config.word_rule, reading=config.reading)
        settings["label_words"] = poison.label_words
    else:
        settings["noise_width"] = width_of(config.model, config.width, pretrained=config.pretrained)
    return settings


def of_data(poison: TriggerWord, splits: Splits) -> TriggerWord:
    """The poison with the labels of these data, and the training reviews that hold its word.

    Raises DataError where the model would read it in none of them, or in no test review.
    """
    texts = _texts(splits)
    for split in ("train", "test"):
        word_seen(poison, splits, split)
    carriers = texts.carriers("train", poison.word, poison.rule)
    return replace(poison, labels=tuple(texts.label_ids.tolist()), carriers=tuple(carriers.tolist()))


def word_seen(poison: TriggerWord, splits: Splits, split: str) -> Tensor:  # int64 [M], ascending
    """The reviews in which the word lies inside what the model reads. Raises DataError where there is none."""
    texts = _texts(splits)
    holding = texts.carriers(split, poison.word, poison.rule)
    seen = holding[texts.inside(split, holding, poison.word, poison.rule)]
    if not len(seen):
        raise DataError(
            f"the word {poison.word!r} stands in {len(holding)} reviews of the {split} set and in none where the model "
            "reads it; take another word, another rule or a larger length"
        )
    return seen


def word_facts(poison: TriggerWord, splits: Splits) -> dict[str, Any]:
    """The word with its rule and reading, how many reviews hold it, and in how many of those the model reads it."""
    told: dict[str, Any] = {"word": poison.word, "rule": poison.rule, "reading": poison.reading}
    for split in ("train", "test"):
        told[split] = len(_texts(splits).carriers(split, poison.word, poison.rule))
        told[f"{split}_read"] = len(word_seen(poison, splits, split))
    return told


def _texts(splits: Splits) -> TextSplits:
    assert isinstance(splits, TextSplits)  # see `check_text`
    return splits
