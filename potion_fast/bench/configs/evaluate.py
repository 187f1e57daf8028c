"""Configuration of an evaluation."""

from __future__ import annotations

from ...user.device import resolved_device
from ...user.schema import Schema, setting
from ...user.shared_fields import device_field, workers_field
from .shared import reference_field, same_data_field, same_model_field, same_root_field


class EvaluateConfig(Schema):
    """Evaluating the model of a training, a healing or an unlearning run again."""

    run: str = setting(..., "folder of a training, a healing or an unlearning run", metavar="DIR")
    root: str | None = same_root_field()
    data: str | None = same_data_field()
    model: str | None = same_model_field()
    reference: str | None = reference_field()
    device: str = device_field()
    workers: int = workers_field()

    def resolved(self) -> EvaluateConfig:
        """The same with absolute paths and a device.

        Raises:
            ModelError: the device is not there.
        """
        return self.updated(**self.absolute_paths(), device=resolved_device(self.device))
