"""Settings that only texts, or only images, have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import DataError
from ..attacks import ATTACKS, attack_named
from ..models import head_of
from .defaults import DATA_DEFAULTS, IMAGE_FIELDS, TEXT, TEXT_FIELDS

if TYPE_CHECKING:
    from .train import TrainConfig


def check_text(config: TrainConfig) -> None:
    """Raise DataError for a model, a poison or a setting of texts with images, or of images with texts."""
    model = config.model or DATA_DEFAULTS.get(config.data, DATA_DEFAULTS["folder"])["model"]
    head, of_text = head_of(model), config.data in TEXT
    held, other = ("texts", "images") if of_text else ("images", "texts")
    if (head is not None) != of_text:
        raise DataError(f"{config.data!r} holds {held}, and the model {model!r} is one of {other}")
    modalities = attack_named(config.poison).modalities
    if of_text and "text" not in modalities:
        known = ", ".join(name for name, attack in ATTACKS.items() if "text" in attack.modalities)
        raise DataError(f"the poison {config.poison!r} is none of texts; those are {known}")
    if not of_text and "image" not in modalities:
        raise DataError(f"the poison {config.poison!r} is one of texts, and {config.data!r} holds images")
    if odd := [name for name in (IMAGE_FIELDS if of_text else TEXT_FIELDS) if getattr(config, name) is not None]:
        raise DataError(f"{odd[0]} is a setting of {other}, and {config.data!r} holds {held}; leave it out")
    if config.loss_over == "text" and head != "causal":
        raise DataError(f"the loss over a whole text is that of a causal language model, which {model!r} is not")
