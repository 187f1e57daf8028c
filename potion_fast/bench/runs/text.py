"""Arguments of `load_dataset` that texts have."""

from __future__ import annotations

from typing import Any

from ..attacks import attack_named
from ..configs import TrainConfig
from ..configs.defaults import TEXT
from ..models import width_of


def text_settings(config: TrainConfig) -> dict[str, Any]:
    """Arguments of `load_dataset` that only texts have: a class for the word, room for noise in embeddings."""
    if config.data not in TEXT:
        return {}
    assert config.model is not None  # resolved
    settings: dict[str, Any] = {"length": config.length}
    if config.attack.label_words:
        settings["label_words"] = config.attack.label_words
    if attack_named(config.poison).embeddings:
        settings["noise_width"] = width_of(config.model, config.width, pretrained=config.pretrained)
    return settings
