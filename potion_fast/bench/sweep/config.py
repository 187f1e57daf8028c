"""The configuration of a sweep: axes in a YAML file, a preset or a user's own, with overrides from the command line."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import yaml
from pydantic import Field, ValidationInfo, field_validator, model_validator
from typing_extensions import override

from ...errors import FileError, PotionError
from ...modes import mode_named
from ...search import S_STEP, SearchOptions
from ...user.read_data import parse_yaml, read_yaml
from ...user.schema import Schema, setting
from ...utils.did_you_mean import choices_for, did_you_mean

PRESETS = Path(__file__).with_name("presets")
MACHINE = ("root", "device", "workers")  # of `train`: where a sweep runs, not what it is
MOST = 1_000_000  # unlearnings
FILE_NAME = re.compile(r"[A-Za-z0-9_+=-][A-Za-z0-9_+=.-]{0,63}")
GROWING = ("poisoned", "found", "seeds", "methods", "group_sizes")  # a sweep may be started again with more of these


class NumberLoader(yaml.SafeLoader):
    """YAML whose 1e-5 is a number, as in YAML 1.2 and in JSON."""


NumberLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), [*"-+.0123456789"]
)

Size = int | float  # of S_f: a number of samples, or a share of S_m


class SweepConfig(Schema):
    """The axes of a sweep; their product is done."""

    name: str = setting(..., "of the preset or the file")
    poisoned: list[Annotated[int, Field(ge=1)]] = setting(..., "|S_m|")
    found: list[Size] = setting(..., "|S_f|: whole numbers are samples, others shares of S_m")
    methods: list[Any] = setting(..., "unlearners, see `MethodSpec`")
    train: dict[str, Any] = setting({}, "fields of `TrainConfig` for every training")
    data: dict[str, dict[str, Any]] = setting(
        {"digits": {"data": "digits"}}, "more of them by name: data sets with their models"
    )
    attacks: dict[str, dict[str, Any]] = setting(
        {"badnet": {"poison": "badnet"}},
        "more of them by name: poisons. `craft` holds fields of `CraftConfig`: then perturbations are crafted against "
        "the model that was trained without S_m, for a victim with other initial weights",
    )
    seeds: list[Annotated[int, Field(ge=0)]] = setting([0], "of all that is random")
    group_sizes: list[Annotated[int, Field(ge=1)] | Literal["batch"] | None] = setting(
        [None], "of the importances; null: the mode's, never more than |S_f|"
    )
    rho: list[int | float] = setting([0.2], "of the searches: all are read off as few searches as can be")
    s_step: list[int | float] = setting([S_STEP], "of the searches, as rho")
    mode: str = setting("default", 'see `potion_fast.modes`; "reference" also takes the public code\'s S_f')
    augment: bool | None = setting(
        None,
        "importances of training data as augmented in training; else of the images as stored, and then one pass over "
        'S_tr serves every S_f. null: only in mode "reference"',
    )
    batch_size: int | None = setting(None, "of the passes for importances; null: the training's", ge=1)
    clean_samples: int = setting(
        0, "clean training samples with their labels, for the methods that take some, drawn by the seed", ge=0
    )
    curve: int = setting(0, "points of a search at which the test set is evaluated too, for the trade-off curve", ge=0)

    @field_validator(*GROWING, "rho", "s_step", mode="before")
    @classmethod
    def _hold_something(cls, value: object, info: ValidationInfo) -> list[Any]:
        values = listed(str(info.field_name), value)
        return [checked_size(size) for size in values] if info.field_name == "found" else values

    @field_validator("train", "data", "attacks", mode="before")
    @classmethod
    def _are_mappings(cls, value: object, info: ValidationInfo) -> object:
        if not isinstance(value, dict) or not (value or info.field_name == "train"):
            raise PotionError(f"{info.field_name} must be a mapping, not {value!r}")
        for key, settings in value.items() if info.field_name != "train" else ():
            if not isinstance(key, str) or not FILE_NAME.fullmatch(key):
                raise PotionError(
                    f"{info.field_name} holds {key!r}; a name is letters, digits and -_=+. only: files get it"
                )
            if not isinstance(settings, dict):
                raise PotionError(f"{info.field_name}.{key} must be a mapping, not {settings!r}")
        return value

    @model_validator(mode="after")
    def _can_be_searched(self) -> SweepConfig:
        mode_named(self.mode)
        lengths = [len(getattr(self, name)) for name in (*GROWING, "data", "attacks")]
        if math.prod(lengths) > MOST:
            raise PotionError(f"a grid of {math.prod(lengths):,} unlearnings; a sweep has at most {MOST:,}")
        for rho in self.rho:
            for s_step in self.s_step:
                SearchOptions(rho=rho, s_step=s_step)
        return self

    @classmethod
    @override
    def refuse_key(cls, key: object) -> NoReturn:
        raise PotionError(f"unknown key {key!r} of a sweep; known: {choices_for(key, cls.keys())}")

    @property
    def augmented(self) -> bool:
        """Whether importances are those of augmented images."""
        return mode_named(self.mode).augmented_forget if self.augment is None else self.augment


def checked_size(size: Any) -> Size:
    """Raises PotionError unless it is a number of samples or a share in (0, 1]."""
    number = isinstance(size, (int, float)) and not isinstance(size, bool)
    if not number or not 0 < size <= (1 if isinstance(size, float) else math.inf):
        raise PotionError(f"found holds numbers of samples, as 1, and shares of S_m, as 0.5 and 1.0, not {size!r}")
    given: Size = size
    return given


def load_sweep(source: str | os.PathLike[str], overrides: Sequence[str] = ()) -> SweepConfig:
    """A preset by name, or a YAML file, with overrides such as "train.width=8" and "found=[1, 0.5]".

    Raises:
        PotionError: an unknown preset or key, or a wrong value.
    """
    path, name = Path(source), Path(source).name
    if path.suffix not in (".yaml", ".yml"):
        path, name = PRESETS / f"{source}.yaml", str(source)
        if name not in presets():
            raise PotionError(f"there is no sweep {name!r}; give a .yaml file or one of {choices_for(name, presets())}")
    try:
        content = read_yaml(path, NumberLoader)
    except FileError as error:
        raise PotionError(f"the sweep {error}") from error
    if not isinstance(content, dict):
        raise PotionError(f"{source} is not the description of a sweep: it holds no keys")
    content.setdefault("name", name)
    for assignment in overrides:
        _override(content, assignment)
    return SweepConfig.from_dict(content)


def presets() -> list[str]:
    """Names of all presets."""
    return sorted(path.relative_to(PRESETS).with_suffix("").as_posix() for path in PRESETS.rglob("*.yaml"))


def identity(config: SweepConfig) -> dict[str, Any]:
    """What must be the same for another start of a sweep to add to its results."""
    content = {name: value for name, value in config.model_dump().items() if name not in GROWING}
    content["train"] = {name: value for name, value in config.train.items() if name not in MACHINE}
    return content


def _override(content: dict[str, Any], text: str) -> None:
    path, equals, value = text.partition("=")
    *outer, last = path.split(".")
    if not equals or not last:
        raise PotionError(f"an override is KEY=VALUE or KEY.KEY=VALUE, not {text!r}")
    place: Any = content
    for number, key in enumerate(outer):
        place = place.setdefault(key, {}) if number == 0 and key == "train" else place.get(key)
        if not isinstance(place, dict):
            name, known = ".".join(outer[: number + 1]), SweepConfig.keys()
            raise PotionError(f"{text!r}: the sweep has no mapping {name!r}{did_you_mean(name, known)}")
    place[last] = parse_yaml(value, repr(text), NumberLoader)


def listed(name: str, value: object) -> list[Any]:
    """Raises PotionError unless it is a list that holds something."""
    if not isinstance(value, (list, tuple)) or not value:
        raise PotionError(f"{name} must be a list, not {value!r}")
    return list(value)
