"""Configuration of a training on poisoned data."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator
from pydantic.fields import FieldInfo
from typing_extensions import override

from ...errors import DataError, PotionError
from ...modes import mode_named
from ...user.device import resolved_device
from ...user.flags import OrFactory
from ...user.schema import SEEDS, Deviations, Means, Schema, setting
from ...user.shared_fields import device_field, seed_field, workers_field
from ...utils.did_you_mean import did_you_mean
from ..attacks import ATTACKS, AttackOptions, attack_named, shared_options
from .defaults import DATA_DEFAULTS, FINE_TUNED, SCRATCH, TEXT, default_of, format_defaults
from .options import flag_of, refuse_foreign
from .shared import format_modes, mode_field
from .text import check_text

DATA_FIELDS = (  # that say what the poisoned data are, with the attack's options; the model may ask for a preprocessing
    "data",
    "root",
    "train_size",
    "image_size",
    "mean",
    "std",
    "poison",
    "perturbations",
    "poisoned",
    "found",
    "seed",
    "length",
    "model",
)


class TrainConfig(Schema):
    """A training on poisoned data; what is None is resolved before it starts.

    The options of the attack are keys among the others, in YAML as in Python and on the command line:
    `TrainConfig(poison="badnet", patch_size=2)`. An option of another attack is an error.

    Attributes:
        attack: the options of the attack, of the model that the attack `poison` is registered with.
    """

    data: str = setting(
        "digits",
        f"data set: {', '.join(DATA_DEFAULTS)}, or module:factory, code of yours that makes one; digits and "
        "toy-reviews are embedded, a folder holds train/CLASS/* and test/CLASS/*, and reviews are what `potion-fast "
        "tokenize` wrote",
        metavar="NAME",
        choices=OrFactory(DATA_DEFAULTS),
    )
    root: str | None = setting(
        None,
        "folder of the data",
        metavar="DIR",
        default_text="$POTION_FAST_DATA; digits and toy-reviews need none",
    )
    train_size: int | None = setting(
        None, "training samples to use, drawn by the seed", metavar="N", default_text="all", ge=1
    )
    image_size: int | None = setting(
        None,
        "side that image files and images of yours are scaled and cropped to",
        metavar="PIXELS",
        default_text="as they are; of imagenette and imagenet the model's",
        ge=1,
    )
    mean: Means | None = setting(
        None,
        "mean of each channel, of pixels in [0, 1], that images are normalised by",
        metavar="X",
        default_text="the data set's; of images of yours ImageNet's, or 0.5 where they have not three channels",
        many=True,
    )
    std: Deviations | None = setting(
        None,
        "standard deviation of each channel, of pixels in [0, 1]",
        metavar="X",
        default_text="as for the mean",
        many=True,
    )
    length: int | None = setting(
        None,
        "tokens of a text that the model reads, with the template",
        metavar="N",
        default_text=f"{format_defaults('length')}; of pretrained models {FINE_TUNED['length']}",
        left_out=True,
        ge=1,
    )
    model: str | None = setting(None, "architecture", metavar="NAME", default_text=format_defaults("model"))
    width: int | None = setting(
        None,
        "channels of its first layer, or of a text model's embedding",
        metavar="N",
        default_text=format_defaults("width"),
        ge=1,
    )
    layers: int | None = setting(
        None,
        "transformer blocks of a text model",
        metavar="N",
        default_text=format_defaults("layers"),
        left_out=True,
        ge=1,
    )
    pretrained: bool = setting(
        False, "start from timm's, torchvision's or Hugging Face's weights, downloaded unless they are in the cache"
    )
    poison: str = setting("badnet", f"attack on the training data: {', '.join(ATTACKS)}", metavar="NAME")
    attack: AttackOptions = setting(..., "options of the attack", flag=False)
    perturbations: str | None = setting(
        None,
        "gradient-matching, gradient-canceling: perturbations.safetensors of `potion-fast craft`, which a poisoned "
        "training needs; of gaussian also that of an earlier run",
        metavar="FILE",
        default_text="none; of gaussian drawn by the seed",
        left_out=True,
    )
    poisoned: int = setting(64, "poisoned training samples, S_m", metavar="N", ge=1)
    found: int = setting(16, "those of them that are found, S_f, and written to found.txt", metavar="N", ge=1)
    leave_out_poisoned: bool = setting(False, "train without any of S_m: the reference of poison healed")
    augment: bool = setting(True, "train on images as stored, without random crops and flips")
    iterations: int | None = setting(
        None, "optimiser steps", metavar="N", default_text=format_defaults("iterations"), ge=1
    )
    batch_size: int | None = setting(
        None, "samples per step", metavar="N", default_text=format_defaults("batch_size"), ge=1
    )
    optimizer: Literal["sgd", "adamw"] | None = setting(
        None, "SGD or AdamW", default_text=f"sgd; {format_defaults('optimizer')}"
    )
    lr: float | None = setting(
        None,
        "peak learning rate",
        metavar="X",
        default_text=f"{format_defaults('lr')}; of pretrained text models {FINE_TUNED['lr']}",
        gt=0,
    )
    momentum: float = setting(0.9, "momentum of SGD; of AdamW it is beta 1", metavar="X", ge=0)
    nesterov: bool = setting(False, "Nesterov's momentum, of SGD")
    weight_decay: float = setting(5e-4, "weight decay, on all parameters", metavar="X", ge=0)
    schedule: Literal["linear", "constant", "cosine", "multistep"] = setting(
        "linear",
        "of the learning rate: linear after a warm-up, as the public code, constant, cosine, or multistep, a tenth "
        "after 35 %, 60 % and 87.5 % of the steps",
    )
    loss_over: Literal["label", "text"] | None = setting(
        None,
        "what a causal language model learns: the label behind each review, or the whole text with it",
        default_text="label",
        left_out=True,
    )
    keep: Literal["last", "test", "validation"] | None = setting(
        None,
        "epoch to keep: the last, or the best on the test or a validation set",
        default_text=format_modes("keep"),
    )
    validation: int | None = setting(
        None,
        "clean training samples held out, to choose the epoch by",
        metavar="N",
        default_text="a tenth of all with --keep validation, else 0",
        ge=0,
    )
    mode: str = mode_field()
    seed: int = seed_field()
    training_seed: int | None = setting(
        None,
        "of the initial weights and the batches alone; what is poisoned stays",
        metavar="N",
        default_text="the seed",
        ge=0,
        lt=SEEDS,
    )
    device: str = device_field()
    workers: int = workers_field()

    @model_validator(mode="before")
    @classmethod
    def _with_attack(cls, values: dict[str, Any]) -> dict[str, Any]:
        """The keys that are no fields become the options of the attack."""
        own = {name: value for name, value in values.items() if name in cls.model_fields}
        options = {name: value for name, value in values.items() if name not in own and value is not None}
        attack = own.get("attack")
        poison = own.setdefault("poison", "badnet" if attack is None else attack.poison)
        if not isinstance(poison, str):
            raise PotionError(f"poison must be text, not {poison!r}")
        kind = attack_named(poison).Options  # before the keys, which may be those of an attack that is not imported
        unknown = [name for name in values if name not in own and name not in shared_options()]
        if unknown:
            cls.refuse_key(unknown[0])
        refuse_foreign(f"the poison {poison!r} has no option", options, kind)
        if attack is None:
            own["attack"] = kind(**options)
        elif attack.poison != poison:
            raise DataError(f"the options given are those of {attack.poison!r}, and the poison is {poison!r}")
        elif options:
            own["attack"] = attack.updated(**options)
        return own

    @override
    @classmethod
    def flag_fields(cls) -> dict[str, FieldInfo]:
        """The fields of the command line: the options of all attacks follow the attack."""
        fields: dict[str, FieldInfo] = {}
        for name, field in super().flag_fields().items():
            fields[name] = field
            if name == "poison":
                fields |= {key: flag_of(option, format_defaults(key)) for key, option in shared_options().items()}
        return fields

    @override
    @classmethod
    def keys(cls) -> list[str]:
        """The keys that a file may have: fields, and the options of all attacks."""
        return [name for name in cls.model_fields if name != "attack"] + list(shared_options())

    @override
    def to_dict(self) -> dict[str, Any]:
        """Plain values for YAML, the options of the attack behind its name."""
        plain: dict[str, Any] = {}
        for name, value in super().to_dict().items():
            plain |= value.to_dict() if name == "attack" else {name: value}
        return plain

    def data_part(self) -> dict[str, Any]:
        """The part of `to_dict` that says what the poisoned data are."""
        names = self.data_keys()
        return {name: value for name, value in self.to_dict().items() if name in names}

    @classmethod
    def data_keys(cls) -> set[str]:
        """The keys of `data_part`."""
        return {*DATA_FIELDS, *shared_options()}

    def resolved(self) -> TrainConfig:
        """The same with absolute paths, a device, and every default that needs no data.

        Raises:
            DataError: an unknown data set, or settings that contradict each other.
            SearchError: an unknown mode.
            ModelError: the device is not there.
        """
        if self.data not in DATA_DEFAULTS and ":" not in self.data:
            known, meant = ", ".join(DATA_DEFAULTS), did_you_mean(self.data, DATA_DEFAULTS)
            raise DataError(f"unknown data set {self.data!r}; known: {known} and module:factory{meant}")
        check_text(self)
        if self.perturbations is not None:
            self._check_perturbed()
        defaults = self._defaults()
        optimizer = self.optimizer or defaults["optimizer"]
        if self.nesterov and not (optimizer == "sgd" and self.momentum > 0):
            raise PotionError(f"nesterov needs SGD with momentum, not {optimizer} with momentum {self.momentum}")
        return self.updated(
            **{name: value for name, value in defaults.items() if getattr(self, name) is None},
            **self.absolute_paths(),
            attack=self._attack_resolved(),
            keep=mode_named(self.mode).keep if self.keep is None else self.keep,
            training_seed=self.seed if self.training_seed is None else self.training_seed,
            device=resolved_device(self.device),
        )

    def _defaults(self) -> dict[str, Any]:
        """Defaults of the data set, but for those of another model than its own."""
        names = ["model", "length", "width", "layers", "iterations", "batch_size", "optimizer", "lr"]
        defaults = {name: default_of(self.data, name) for name in names}
        defaults["optimizer"] = defaults["optimizer"] or "sgd"
        scratch: tuple[str, ...] = ()
        if self.data in TEXT:
            scratch = SCRATCH
            defaults |= {"loss_over": "label", **(FINE_TUNED if self.pretrained else {})}
        if self.model not in (None, defaults["model"], *scratch):
            del defaults["width"], defaults["layers"]  # they are another model's: this one has its own
        return defaults

    def _attack_resolved(self) -> AttackOptions:
        """The attack's options, with the data set's defaults for those that were not given."""
        missing = [name for name in type(self.attack).model_fields if name not in self.attack.model_fields_set]
        defaults = {name: value for name in missing if (value := default_of(self.data, name)) is not None}
        options = self.attack.updated(**defaults)
        options.check_complete()
        return options

    def _check_perturbed(self) -> None:
        """Raise DataError where perturbations are given to a training that takes none."""
        if not attack_named(self.poison).takes_perturbations:
            raise DataError(f"the poison {self.poison!r} takes no perturbations; leave them out")
        if self.leave_out_poisoned:
            raise DataError("a training that leaves out all of S_m takes no perturbations; leave them out too")
