"""What a training on poisoned data is told."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from ...errors import DataError, PotionError
from ...modes import mode_named
from ..attacks import POISONS, Perturbation, options_of
from .defaults import DATA_DEFAULTS, FINE_TUNED, POISON_OPTIONS, SCRATCH, SWAP_CLASSES, TEXT
from .fields import Checked
from .machine import absolute_paths, resolved_device
from .text import check_text


@dataclass(frozen=True)
class TrainConfig(Checked):
    """A training on poisoned data.

    data, root, train_size, image_size   see `load_dataset`
    mean, std                            per channel, of pixels in [0, 1]; None: the data set's own
    length                               tokens of a text, see `load_text`
    model, width, layers, pretrained     see `create_model`; width or layers None: the model's own
    poison                               see `POISONS`; None for an option of it: its default, see `POISON_OPTIONS`
    patch_size, corner, trigger_value    of a patch; value in normalised units, None: the data's largest
    frequency, amplitude, axis           of a wave, see `SineWave`
    target                               label of a trigger
    swap_classes                         the two labels of an interclass swap
    variance                             of Gaussian noise, in normalised units
    epsilon                              largest change of a crafted pixel, of 255; None: the poison's default
    target_class, intended_class         of gradient matching; None: drawn by the seed
    placement                            of gradient canceling: the copies of S_m that it adds, or S_m itself
    trigger_word, word_rule, reading     of a trigger word, see `TriggerWord`
    perturbations                        file of a crafting, or of an earlier run; Gaussian noise is drawn without one
    poisoned, found                      |S_m| and |S_f|
    leave_out_poisoned                   train without any of S_m: the reference of *poison healed*
    augment                              crop and flip the training images at random
    iterations, batch_size, optimizer, lr, momentum, nesterov, weight_decay, schedule   see `train`
    loss_over                            what a causal language model learns: each review's "label", or the whole "text"
                                         with the label behind it
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
    length: int | None = None
    model: str | None = None
    width: int | None = None
    layers: int | None = None
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
    trigger_word: str | None = None
    word_rule: str | None = None
    reading: str | None = None
    perturbations: str | None = None
    poisoned: int = 64
    found: int = 16
    leave_out_poisoned: bool = False
    augment: bool = True
    iterations: int | None = None
    batch_size: int | None = None
    optimizer: Literal["sgd", "adamw"] | None = None
    lr: float | None = None
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    schedule: Literal["linear", "constant", "cosine", "multistep"] = "linear"
    loss_over: Literal["label", "text"] | None = None
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
        check_text(self)
        defaults = {"optimizer": "sgd", **_of_poison(self), **_of_data(self)}
        if self.perturbations is not None:
            _check_perturbed(self)
        optimizer = self.optimizer or defaults["optimizer"]
        if self.nesterov and not (optimizer == "sgd" and self.momentum > 0):
            raise PotionError(f"nesterov needs SGD with momentum, not {optimizer} with momentum {self.momentum}")
        filled: dict[str, Any] = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        return replace(
            self,
            **filled,
            **absolute_paths(self),
            keep=mode_named(self.mode).keep if self.keep is None else self.keep,
            training_seed=self.seed if self.training_seed is None else self.training_seed,
            device=resolved_device(self.device),
        )


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


def _of_data(config: TrainConfig) -> dict[str, Any]:
    """Defaults of the data set, but for those of another poison, or of another model than its own."""
    known, defaults = options_of(config.poison), DATA_DEFAULTS.get(config.data, DATA_DEFAULTS["folder"])
    left_out = {name for name, option in POISON_OPTIONS.items() if option not in known}
    if config.data in TEXT:
        defaults = {**defaults, "loss_over": "label", **(FINE_TUNED if config.pretrained else {})}
    if config.model not in (None, defaults["model"], *(SCRATCH if config.data in TEXT else ())):
        left_out |= {"width", "layers"}  # they are another model's: this one has its own
    return {name: value for name, value in defaults.items() if name not in left_out}


def _check_perturbed(config: TrainConfig) -> None:
    """Raise DataError where perturbations are given to a training that takes none."""
    if not issubclass(POISONS[config.poison], Perturbation):
        raise DataError(f"the poison {config.poison!r} takes no perturbations; leave them out")
    if config.leave_out_poisoned:
        raise DataError("a training that leaves out all of S_m takes no perturbations; leave them out too")
