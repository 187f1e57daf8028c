"""Configuration of a search for poison."""

from __future__ import annotations

from typing import Literal

from ...user.device import resolved_device
from ...user.schema import Schema, setting
from .shared import device_field, same_data_field, same_model_field, same_root_field, seed_field, workers_field


class FindConfig(Schema):
    """The search for poison in the data of a training run; see `potion_fast.suspects`."""

    run: str = setting(..., "folder of the training run", metavar="DIR")
    root: str | None = same_root_field()
    data: str | None = same_data_field()
    model: str | None = same_model_field()
    found: str | None = setting(
        None, "samples that were found, as indices or file names", metavar="FILE", default_text="none"
    )
    rate: float = setting(0.05, "share of false ones among the suspects that is accepted", metavar="SHARE", gt=0, lt=1)
    amp: Literal["bfloat16", "float16"] | None = setting(
        None, "precision of the model, which runs under autocast", default_text="that of the weights"
    )
    batch_size: int | None = setting(None, "samples per batch", metavar="N", default_text="the training's", ge=1)
    seed: int = seed_field()
    device: str = device_field()
    workers: int = workers_field()

    def resolved(self) -> FindConfig:
        """The same with absolute paths and a device.

        Raises:
            ModelError: the device is not there.
        """
        return self.updated(**self.absolute_paths(), device=resolved_device(self.device))
