"""What a run is told. An unknown key or a wrong value is an error; what is left None is resolved before it starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any, Literal, TypeVar

import torch

from ..errors import DataError, ModelError, PotionError
from ..importances.objectives import resolve
from ..modes import GroupSize, mode_named
from ..poisons import POISONS, Perturbation, options_of
from ..search import S_STEP, check_options
from .defaults import (
    CRAFT_DEFAULTS,
    CRAFT_OPTIMIZERS,
    CRAFT_OPTIONS,
    DATA_DEFAULTS,
    DATA_FIELDS,
    LEFT_OUT,
    PATHS,
    POISON_OPTIONS,
    SWAP_CLASSES,
)
from .fields import Checked


@dataclass(frozen=True)
class TrainConfig(Checked):
    """A training on poisoned data.

    data, root, train_size, image_size   see `load_dataset`
    mean, std                            per channel, of pixels in [0, 1]; None: the data set's own
    model, width, pretrained             see `create_model`; width None: the model's own
    poison                               see `POISONS`; None for an option of it: its default, see `POISON_OPTIONS`
    patch_size, corner, trigger_value    of a patch; value in normalised units, None: the data's largest
    frequency, amplitude, axis           of a wave, see `SineWave`
    target                               label of a trigger
    swap_classes                         the two labels of an interclass swap
    variance                             of Gaussian noise, in normalised units
    epsilon                              largest change of a crafted pixel, of 255; None: the poison's default
    target_class, intended_class         of gradient matching; None: drawn by the seed
    placement                            of gradient canceling: the copies of S_m that it adds, or S_m itself
    perturbations                        file of a crafting, or of an earlier run; Gaussian noise is drawn without one
    poisoned, found                      |S_m| and |S_f|
    leave_out_poisoned                   train without any of S_m: the reference of *poison healed*
    iterations, batch_size, optimizer, lr, momentum, nesterov, weight_decay, schedule   see `train`
    keep, validation                     the epoch that is kept: "last", or the best on the "test" or a "validation" set
                                         of so many samples held out of the training data
    mode                                 default of `keep`
    seed, device, workers                "auto" takes a CUDA GPU where there is one
    training_seed                        of the initial weights and the batches alone; None: seed
    """

    data: str = "digits"
    root: str | None = None
    train_size: int | None = None
    image_size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    model: str | None = None
    width: int | None = None
    pretrained: bool = False
    poison: str = "badnet"
    patch_size: int | None = None
    corner: str | None = None
    trigger_value: float | None = None
    frequency: float | None = None
    amplitude: float | None = None
    axis: str | None = None
    target: int | None = None
    swap_classes: tuple[int, ...] | None = None
    variance: float | None = None
    epsilon: float | None = None
    target_class: int | None = None
    intended_class: int | None = None
    placement: str | None = None
    perturbations: str | None = None
    poisoned: int = 64
    found: int = 16
    leave_out_poisoned: bool = False
    iterations: int | None = None
    batch_size: int | None = None
    optimizer: Literal["sgd", "adamw"] | None = None
    lr: float | None = None
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    schedule: Literal["linear", "constant", "cosine", "multistep"] = "linear"
    keep: Literal["last", "test", "validation"] | None = None
    validation: int | None = None
    mode: str = "default"
    seed: int = 0
    training_seed: int | None = None
    device: str = "auto"
    workers: int = 0

    def resolved(self) -> TrainConfig:
        """With absolute paths and every default that needs no data. Raises DataError, SearchError or ModelError."""
        if self.data not in DATA_DEFAULTS and ":" not in self.data:
            raise DataError(f"unknown data set {self.data!r}; known: {', '.join(DATA_DEFAULTS)} and module:factory")
        defaults = {"optimizer": "sgd", **_of_poison(self), **DATA_DEFAULTS.get(self.data, DATA_DEFAULTS["folder"])}
        if "size" not in options_of(self.poison):
            del defaults["patch_size"]
        if self.perturbations is not None:
            _check_perturbed(self)
        optimizer = self.optimizer or defaults["optimizer"]
        if self.nesterov and not (optimizer == "sgd" and self.momentum > 0):
            raise PotionError(f"nesterov needs SGD with momentum, not {optimizer} with momentum {self.momentum}")
        if self.model not in (None, defaults["model"]):
            defaults.pop("width", None)  # it is another model's: this one has its own
        filled: dict[str, Any] = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        return replace(
            self,
            **filled,
            **_absolute_paths(self),
            keep=mode_named(self.mode).keep if self.keep is None else self.keep,
            training_seed=self.seed if self.training_seed is None else self.training_seed,
            device=resolved_device(self.device),
        )


@dataclass(frozen=True)
class UnlearnConfig(Checked):
    """Healing the model of a training run.

    run         folder of the training run
    root        folder of the data; None: where the training run read them
    data        of a training on a "module:factory": the same name, typed by you; a file alone does not make code run
    forget      file of the indices of S_f; None: found.txt of the training run
    reference   folder of a training run without any of S_m, for *poison healed*; None: not computed
    curve       also evaluate the test set along the search, for the picture
    the others  see `unlearn`; batch_size None is the training's
    """

    run: str
    root: str | None = None
    data: str | None = None
    forget: str | None = None
    reference: str | None = None
    objective: str | None = None
    w: float | None = None
    mode: str = "default"
    group_size: GroupSize | None = None
    amp: Literal["bfloat16", "float16"] | None = None
    strategy: str = "sequential"
    rho: float = 0.2
    b_start: float | None = None
    s_step: float | None = None
    max_steps: int = 500
    batch_size: int | None = None
    curve: bool = False
    seed: int = 0
    device: str = "auto"
    workers: int = 0

    def resolved(self) -> UnlearnConfig:
        """With the mode's defaults filled in and absolute paths. Raises SearchError, ImportanceError or ModelError."""
        mode = mode_named(self.mode)
        check_options(self.rho, self.b_start, self.s_step, self.max_steps, self.strategy)
        steps: dict[str, Any] = {} if self.strategy == "minimal" else {"b_start": mode.b_start, "s_step": S_STEP}
        resolve(self.objective, self.w)  # raises where no objective is meant by them
        return replace(
            self,
            **_absolute_paths(self),
            objective="xlf" if self.objective is None and self.w is None else self.objective,
            **{name: value for name, value in steps.items() if getattr(self, name) is None},
            device=resolved_device(self.device),
        )


@dataclass(frozen=True)
class EvaluateConfig(Checked):
    """Evaluating the model of a training or an unlearning run again.

    run        folder of the run
    root       folder of the data; None: where the training run read them
    data       see `UnlearnConfig`
    reference  folder of a training run without any of S_m, for *poison healed*; None: not computed
    """

    run: str
    root: str | None = None
    data: str | None = None
    reference: str | None = None
    device: str = "auto"
    workers: int = 0

    def resolved(self) -> EvaluateConfig:
        """With absolute paths. Raises ModelError for a device that is not there."""
        return replace(self, **_absolute_paths(self), device=resolved_device(self.device))


@dataclass(frozen=True)
class CraftConfig(Checked):
    """Crafting the perturbations of a poison, against the model of a training without any of S_m.

    run                              folder of that training, which says what is poisoned and how
    root, data                       see `UnlearnConfig`
    steps, optimizer, lr, batch_size   see `gradient_matching` and `gradient_canceling`
    restarts, over                   of gradient matching
    shift                            of its augmentation, in pixels; None: its own; 0: no augmentation, no flips
    budget                           of gradient canceling: how far from the model its target parameters are, ε_w
    parameters, tolerance            of gradient canceling
    seed                             of all that is random; None: the training's
    """

    run: str
    root: str | None = None
    data: str | None = None
    steps: int | None = None
    optimizer: Literal["sign-adam", "adam", "descent"] | None = None
    lr: float | None = None
    batch_size: int | None = None
    restarts: int | None = None
    over: Literal["batch", "all"] | None = None
    shift: int | None = None
    budget: float | None = None
    parameters: Literal["all", "first"] | None = None
    tolerance: float | None = None
    seed: int | None = None
    device: str = "auto"
    workers: int = 0

    def resolved(self, poison: str) -> CraftConfig:
        """With absolute paths and the poison's defaults.

        Raises DataError for a poison that is not crafted, or an option that it has not, and ModelError.
        """
        if poison not in CRAFT_DEFAULTS:
            raise DataError(f"the poison {poison!r} is not crafted; that can be: {', '.join(CRAFT_DEFAULTS)}")
        others = [name for each, names in CRAFT_OPTIONS.items() if each != poison for name in names]
        if foreign := [name for name in others if getattr(self, name) is not None]:
            raise DataError(f"crafting {poison!r} takes no {', '.join(foreign)}")
        if self.optimizer not in (None, *CRAFT_OPTIMIZERS[poison]):
            raise DataError(f"crafting {poison!r} takes the optimizer {' or '.join(CRAFT_OPTIMIZERS[poison])}")
        defaults = CRAFT_DEFAULTS[poison]
        filled: dict[str, Any] = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        return replace(self, **filled, **_absolute_paths(self), device=resolved_device(self.device))


AnyConfig = TrainConfig | UnlearnConfig | EvaluateConfig | CraftConfig
Config = TypeVar("Config", TrainConfig, UnlearnConfig, EvaluateConfig, CraftConfig)


def to_dict(config: AnyConfig) -> dict[str, Any]:
    """Plain values for YAML, without the options that belong to other poisons."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(config).items()
        if value is not None or name not in LEFT_OUT
    }


def data_part(config: TrainConfig) -> dict[str, Any]:
    """The part of `to_dict` that says what the poisoned data are."""
    return {name: value for name, value in to_dict(config).items() if name in DATA_FIELDS}


def from_dict(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """A configuration from what `to_dict` gave. Raises PotionError for an unknown or missing key or a wrong value."""
    known = {field.name: field for field in fields(kind)}
    if unknown := [name for name in values if name not in known]:
        raise PotionError(f"unknown key {unknown[0]!r} in the configuration; known: {', '.join(known)}")
    if missing := [name for name, field in known.items() if field.default is MISSING and name not in values]:
        raise PotionError(f"the configuration lacks the key {missing[0]!r}")
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return kind(**given)


def resolved_device(name: str) -> str:
    """The device a name stands for; "auto" is a CUDA GPU where there is one. Raises ModelError where there is none."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ModelError(f"unknown device {name!r}; give cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise ModelError(f"device {name!r} is not supported; give cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(f"device {name!r} was asked for, and {torch.cuda.device_count()} CUDA GPUs are there")
    return name


def _of_poison(config: TrainConfig) -> dict[str, Any]:
    """Defaults of the poison's options, by their fields. Raises DataError for an option of another poison."""
    known = options_of(config.poison)
    names = [name for name, option in POISON_OPTIONS.items() if option in known]
    if others := [name for name in POISON_OPTIONS if name not in names and getattr(config, name) is not None]:
        options = f"it has {', '.join(names)}" if names else "it has none"
        raise DataError(f"the poison {config.poison!r} has no option {', '.join(others)}; {options}")
    by_poison = {field.name: field.default for field in fields(POISONS[config.poison])}  # type: ignore[arg-type]
    defaults = {name: by_poison[POISON_OPTIONS[name]] for name in names if name != "trigger_value"}
    if "swap_classes" in names:
        if config.swap_classes is None and config.data not in SWAP_CLASSES:
            raise DataError(f"the poison {config.poison!r} needs swap_classes, the two labels that it swaps")
        defaults["swap_classes"] = SWAP_CLASSES.get(config.data)
    return defaults


def _check_perturbed(config: TrainConfig) -> None:
    """Raise DataError where perturbations are given to a training that takes none."""
    if not issubclass(POISONS[config.poison], Perturbation):
        raise DataError(f"the poison {config.poison!r} takes no perturbations; leave them out")
    if config.leave_out_poisoned:
        raise DataError("a training that leaves out all of S_m takes no perturbations; leave them out too")


def _absolute_paths(config: AnyConfig) -> dict[str, Any]:
    """The paths among the fields, made absolute: a later run may read this configuration from another folder."""
    paths = {name: getattr(config, name, None) for name in PATHS}
    return {name: os.path.abspath(os.path.expanduser(path)) for name, path in paths.items() if path is not None}
