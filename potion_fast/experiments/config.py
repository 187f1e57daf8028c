"""What a run is told. An unknown key is an error; what is left None is resolved before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeVar

import torch

from ..errors import DataError, ModelError, PotionError
from ..modes import GroupSize, mode_named

Config = TypeVar("Config", bound="TrainConfig | UnlearnConfig")

# Settings that belong to a data set: CIFAR's are those of the public code, the digits' train in seconds on one core.
DATA_DEFAULTS: dict[str, dict[str, Any]] = {
    "digits": {"model": "small_cnn", "width": 32, "iterations": 600, "batch_size": 64, "lr": 0.05},
    "cifar10": {"model": "resnet9", "width": 64, "iterations": 4000, "batch_size": 512, "lr": 0.025},
    "cifar100": {"model": "resnet9", "width": 64, "iterations": 6000, "batch_size": 512, "lr": 0.025},
    "folder": {"model": "resnet9", "width": 64, "iterations": 4000, "batch_size": 512, "lr": 0.025},
}


@dataclass(frozen=True)
class TrainConfig:
    """A training on poisoned data.

    data, root, train_size, image_size   see `load_dataset`
    mean, std                            per channel, of pixels in [0, 1]; None: the data set's own
    model, width                         see `create_model`
    poison, patch_size, corner, trigger_value, target   the trigger; value in normalised units, None: the data's largest
    poisoned, found                      |S_m| and |S_f|
    leave_out_poisoned                   train without any of S_m: the reference of *poison healed*
    iterations, batch_size, lr, momentum, weight_decay   see `train`
    keep, validation                     the epoch that is kept: "last", or the best on the "test" or a "validation" set
                                         of so many samples held out of the training data
    mode                                 default of `keep`
    seed, device, workers                "auto" takes a CUDA GPU where there is one
    """

    data: str = "digits"
    root: str | None = None
    train_size: int | None = None
    image_size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    model: str | None = None
    width: int | None = None
    poison: str = "badnet"
    patch_size: int = 3
    corner: str = "bottom-right"
    trigger_value: float | None = None
    target: int = 0
    poisoned: int = 64
    found: int = 16
    leave_out_poisoned: bool = False
    iterations: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    momentum: float = 0.9
    weight_decay: float = 5e-4
    keep: str | None = None
    validation: int | None = None
    mode: str = "default"
    seed: int = 0
    device: str = "auto"
    workers: int = 0

    def resolved(self) -> TrainConfig:
        """With every default that does not need the data. Raises DataError, SearchError or ModelError for bad values."""
        if self.data not in DATA_DEFAULTS:
            raise DataError(f"unknown data set {self.data!r}; known: {', '.join(DATA_DEFAULTS)}")
        keep = mode_named(self.mode).keep if self.keep is None else self.keep
        if keep not in ("last", "test", "validation"):
            raise DataError(f"keep is 'last', 'test' or 'validation', not {keep!r}")
        filled = {name: value for name, value in DATA_DEFAULTS[self.data].items() if getattr(self, name) is None}
        return replace(self, **filled, keep=keep, device=resolved_device(self.device))


@dataclass(frozen=True)
class UnlearnConfig:
    """Healing the model of a training run.

    run         folder of the training run
    forget      file of the indices of S_f; None: those that the training run marked as found
    reference   folder of a training run without any of S_m, for *poison healed*; None: not computed
    curve       also evaluate the test set along the search, for the picture
    the others  see `unlearn`; batch_size None is the training's
    """

    run: str
    forget: str | None = None
    reference: str | None = None
    objective: str | None = None
    w: float | None = None
    mode: str = "default"
    group_size: GroupSize | None = None
    rho: float = 0.2
    b_start: float | None = None
    s_step: float = 1.1
    max_steps: int = 500
    batch_size: int | None = None
    curve: bool = False
    seed: int = 0
    device: str = "auto"
    workers: int = 0

    def resolved(self) -> UnlearnConfig:
        """With the mode's defaults filled in. Raises SearchError or ModelError for bad values."""
        mode = mode_named(self.mode)
        return replace(
            self,
            objective="xlf" if self.objective is None and self.w is None else self.objective,
            group_size=mode.group_size if self.group_size is None else self.group_size,
            b_start=mode.b_start if self.b_start is None else self.b_start,
            device=resolved_device(self.device),
        )


def to_dict(config: TrainConfig | UnlearnConfig) -> dict[str, Any]:
    """Plain values for YAML."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()}


def from_dict(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """A configuration from what `to_dict` gave. Raises PotionError for a key that it does not have."""
    known = {field.name for field in fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise PotionError(f"unknown key {', '.join(unknown)} in the configuration; known: {', '.join(sorted(known))}")
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def resolved_device(name: str) -> str:
    """The device that a name stands for; "auto" is a CUDA GPU where there is one. Raises ModelError where it is missing."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ModelError(f"unknown device {name!r}; give cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"device {name!r} was asked for and no CUDA GPU is there")
    return name
