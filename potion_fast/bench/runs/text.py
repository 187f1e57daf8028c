"""Arguments of `load_dataset` that texts have."""

from __future__ import annotations

from typing import Any

from ..attacks import attack_named, read_options
from ..configs import TrainConfig
from ..configs.defaults import TEXT
from ..models import width_of


def text_settings(config: TrainConfig) -> dict[str, Any]:
    """Arguments of `load_dataset` that only texts have: a class for the word, room for noise in embeddings."""
    if config.data not in TEXT:
        return {}
    assert config.model is not None  # resolved
    settings: dict[str, Any] = {"length": config.length}
    attack = attack_named(config.poison)
    names = [name for name in attack.Options.model_fields if name != "poison"]
    options = read_options(attack.Options, {name: getattr(config, name) for name in names})
    if options.label_words:
        settings["label_words"] = options.label_words
    if attack.embeddings:
        settings["noise_width"] = width_of(config.model, config.width, pretrained=config.pretrained)
    return settings
