"""Configuration of an unlearning."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ...importances.objectives import resolve
from ...search import S_STEP, STRATEGIES, SearchOptions
from ...user.device import resolved_device
from ...user.schema import Schema, setting
from ...user.shared_fields import device_field, seed_field, workers_field
from .shared import (
    format_modes,
    found_field,
    mode_field,
    reference_field,
    same_data_field,
    same_model_field,
    same_root_field,
)


class UnlearnConfig(Schema):
    """Healing the model of a training run; see `potion_fast.unlearn`."""

    run: str = setting(..., "folder of the training run", metavar="DIR")
    root: str | None = same_root_field()
    data: str | None = same_data_field()
    model: str | None = same_model_field()
    forget: str | None = found_field()
    reference: str | None = reference_field()
    objective: str | None = setting(
        None, "objective of the importances: xlf, lf or ssd", metavar="NAME", default_text="xlf"
    )
    w: float | None = setting(
        None,
        "instead of an objective: exponent of the output's norm, above 0 (equation 4)",
        metavar="X",
        default_text="none",
    )
    mode: str = mode_field()
    group_size: Annotated[int, Field(ge=1)] | Literal["batch"] | None = setting(
        None,
        'samples whose loss is averaged before |gradient| is taken, or "batch"',
        metavar="N",
        default_text=f"{format_modes('group_size')}; no more than were found",
    )
    amp: Literal["bfloat16", "float16"] | None = setting(
        None,
        "precision of the model in the importance passes, which run under autocast",
        default_text="that of the weights",
    )
    compiled: bool = setting(False, "compile the model for the importance passes, from the third batch of a size on")
    samples: Annotated[int, Field(ge=1)] | Literal["auto"] | None = setting(
        None,
        'samples of the training data that the importances are taken from, or "auto", as many as the search needs',
        metavar="N",
        default_text="all",
    )
    strategy: str = setting(
        "sequential",
        "how the search goes: " + "; ".join(f"{name}, {strategy.summary}" for name, strategy in STRATEGIES.items()),
        choices=STRATEGIES,
    )
    rho: float = setting(
        0.2, "stop when the accuracy on S_f is down to this share of what it was, in [0, 1]", metavar="SHARE"
    )
    b_start: float | None = setting(
        None,
        "the search starts at s = X times the share of S_f in the data; not for minimal",
        metavar="X",
        default_text=format_modes("b_start"),
    )
    s_step: float | None = setting(
        None, "factor on s after each step, above 1; not for minimal", metavar="X", default_text=str(S_STEP)
    )
    max_steps: int = setting(500, "steps of the search at most", metavar="N", ge=1)
    max_damage: float | None = setting(
        None,
        "most points of clean accuracy that the search may cost: on the run's validation set, or where it has none on "
        "up to 1000 samples of the training data without S_f",
        metavar="POINTS",
        default_text="no limit",
    )
    batch_size: int | None = setting(None, "samples per batch", metavar="N", default_text="the training's", ge=1)
    curve: bool = setting(False, "also evaluate the test set along the search: curve.csv, and a finer picture")
    seed: int = seed_field()
    device: str = device_field()
    workers: int = workers_field()

    def resolved(self) -> UnlearnConfig:
        """The same with the mode's defaults, absolute paths and a device.

        Raises:
            SearchError: settings of the search that contradict each other or are out of range.
            ImportanceError: no objective is meant.
            ModelError: the device is not there.
        """
        search = SearchOptions.of(self).resolved()
        resolve(self.objective, self.w)  # raises where no objective is meant by them
        return self.updated(
            **self.absolute_paths(),
            objective="xlf" if self.objective is None and self.w is None else self.objective,
            b_start=search.b_start,
            s_step=search.s_step,
            device=resolved_device(self.device),
        )
