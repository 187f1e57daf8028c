"""Configuration of a healing."""

from __future__ import annotations

from typing import Literal

from ...relabel import Source
from ...user.device import resolved_device
from ...user.schema import FILE_OR_LIST, Schema, setting
from ...user.shared_fields import (
    amp_field,
    device_field,
    labels_field,
    max_damage_field,
    rate_field,
    seed_field,
    workers_field,
)
from .shared import found_field, reference_field, same_data_field, same_model_field, same_root_field


class HealConfig(Schema):
    """Healing the model of a training run; see `potion_fast.heal`."""

    run: str = setting(..., "folder of the training run", metavar="DIR")
    root: str | None = same_root_field()
    data: str | None = same_data_field()
    model: str | None = same_model_field()
    found: str | None = found_field()
    suspects: str | None = setting(
        None,
        "the suspects: suspects.csv of an earlier healing, perhaps edited, or a list as of --found",
        metavar=FILE_OR_LIST,
        default_text="none, they are sought",
    )
    reference: str | None = reference_field()
    dampened: str | None = setting(
        None,
        "unlearning run of the same training, to be shown beside the healed model",
        metavar="DIR",
        default_text="none, not shown",
    )
    rate: float = rate_field()
    labels: Source = labels_field()
    max_damage: float = max_damage_field()
    amp: Literal["bfloat16", "float16"] | None = amp_field()
    compiled: bool = setting(False, "compile the model")
    batch_size: int | None = setting(None, "samples per batch", metavar="N", default_text="the training's", ge=1)
    seed: int = seed_field()
    device: str = device_field()
    workers: int = workers_field()

    def resolved(self) -> HealConfig:
        """The same with absolute paths and a device.

        Raises:
            ModelError: the device is not there.
        """
        return self.updated(**self.absolute_paths(), device=resolved_device(self.device))
