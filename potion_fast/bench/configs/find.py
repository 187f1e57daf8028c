"""Configuration of a search for poison."""

from __future__ import annotations

from typing import Literal

from ...user.device import resolved_device
from ...user.schema import Schema, setting
from ...user.shared_fields import amp_field, device_field, label_errors_field, rate_field, seed_field, workers_field
from .shared import same_data_field, same_model_field, same_root_field


class FindConfig(Schema):
    """The search for poison in the data of a training run; see `potion_fast.suspects`."""

    run: str = setting(..., "folder of the training run", metavar="DIR")
    root: str | None = same_root_field()
    data: str | None = same_data_field()
    model: str | None = same_model_field()
    found: str | None = setting(
        None, "samples that were found, as indices or file names", metavar="FILE", default_text="none"
    )
    label_errors: bool = label_errors_field()
    rate: float = rate_field()
    amp: Literal["bfloat16", "float16"] | None = amp_field()
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
