"""What a sweep is told: axes in a YAML file, a preset or a user's own, with overrides from the command line."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from ...errors import FileError, PotionError
from ...modes import GroupSize, mode_named
from ...search import S_STEP, SearchOptions
from ...user.read_data import parse_yaml, read_yaml

PRESETS = Path(__file__).with_name("presets")
MACHINE = ("root", "device", "workers")  # of `train`: where a sweep runs, not what it is
MOST = 1_000_000  # unlearnings
FILE_NAME = re.compile(r"[A-Za-z0-9_+=-][A-Za-z0-9_+=.-]{0,63}")
GROWING = ("poisoned", "found", "seeds", "methods", "group_sizes")  # a sweep may be started again with more of these


class Loader(yaml.SafeLoader):
    """YAML whose 1e-5 is a number, as in YAML 1.2 and in JSON."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), [*"-+.0123456789"]
)

Size = int | float  # of S_f: a number of samples, or a share of S_m


@dataclass(frozen=True)
class SweepConfig:
    """The axes of a sweep; their product is done.

    name         of the preset or the file
    train        fields of `TrainConfig` for every training
    data         more of them by name: data sets with their models
    attacks      more of them by name: poisons. `craft` holds fields of `CraftConfig`: then perturbations are crafted
                 against the model that was trained without S_m, for a victim with other initial weights
    poisoned     |S_m|
    found        |S_f|: whole numbers are samples, others shares of S_m
    seeds        of all that is random
    methods      unlearners, see `Method`
    group_sizes  of the importances; None: the mode's, never more than |S_f|
    rho, s_step  of the searches: all are read off as few searches as can be
    mode         see `potion_fast.modes`; "reference" also takes the public code's S_f
    augment      importances of training data as augmented in training; else of the images as stored, and then one pass
                 over S_tr serves every S_f. None: only in mode "reference"
    batch_size   of the passes for importances; None: the training's
    curve        points of a search at which the test set is evaluated too, for the trade-off curve
    """

    name: str
    poisoned: list[int]
    found: list[Size]
    methods: list[Any]
    train: dict[str, Any] = field(default_factory=dict)
    data: dict[str, dict[str, Any]] = field(default_factory=lambda: {"digits": {"data": "digits"}})
    attacks: dict[str, dict[str, Any]] = field(default_factory=lambda: {"badnet": {"poison": "badnet"}})
    seeds: list[int] = field(default_factory=lambda: [0])
    group_sizes: list[GroupSize | None] = field(default_factory=lambda: [None])
    rho: list[float] = field(default_factory=lambda: [0.2])
    s_step: list[float] = field(default_factory=lambda: [S_STEP])
    mode: str = "default"
    augment: bool | None = None
    batch_size: int | None = None
    curve: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise PotionError(f"the name of a sweep is text, not {self.name!r}")
        mode_named(self.mode)
        for name in (*GROWING, "rho", "s_step"):
            listed(name, getattr(self, name))
        for name in ("train", "data", "attacks"):
            if not isinstance(getattr(self, name), dict) or not (getattr(self, name) or name == "train"):
                raise PotionError(f"{name} must be a mapping, not {getattr(self, name)!r}")
        self._check_names()
        self._check_numbers()
        lengths = [len(getattr(self, name)) for name in (*GROWING, "data", "attacks")]
        if math.prod(lengths) > MOST:
            raise PotionError(f"a grid of {math.prod(lengths):,} unlearnings; a sweep has at most {MOST:,}")
        for rho in self.rho:
            for s_step in self.s_step:
                SearchOptions(rho=rho, s_step=s_step)
        if not _is_whole(self.curve, 0):
            raise PotionError(f"curve must be a number of points, not {self.curve!r}")

    def _check_names(self) -> None:
        for name in ("data", "attacks"):
            for key, value in getattr(self, name).items():
                if not isinstance(key, str) or not FILE_NAME.fullmatch(key):
                    raise PotionError(f"{name} holds {key!r}; a name is letters, digits and -_=+. only: files get it")
                if not isinstance(value, dict):
                    raise PotionError(f"{name}.{key} must be a mapping, not {value!r}")

    def _check_numbers(self) -> None:
        for name, least in {"poisoned": 1, "seeds": 0}.items():
            for number in getattr(self, name):
                if not _is_whole(number, least):
                    raise PotionError(f"{name} holds whole numbers from {least}, not {number!r}")
        for group in self.group_sizes:
            if group not in (None, "batch") and not _is_whole(group, 1):
                raise PotionError(f'group_sizes holds whole numbers from 1, "batch" and null, not {group!r}')
        if self.batch_size is not None and not _is_whole(self.batch_size, 1):
            raise PotionError(f"batch_size must be a whole number from 1, not {self.batch_size!r}")
        if self.augment not in (None, True, False):
            raise PotionError(f"augment must be true or false, not {self.augment!r}")
        for size in self.found:
            checked_size(size)
        for name in ("rho", "s_step"):
            for value in getattr(self, name):
                if isinstance(value, bool) or not isinstance(value, (int, float)):
                    raise PotionError(f"{name} holds numbers, not {value!r}")

    @property
    def augmented(self) -> bool:
        return mode_named(self.mode).augmented_forget if self.augment is None else self.augment


def _is_whole(number: object, least: int) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and least <= number < 2**53


def checked_size(size: Any) -> Size:
    """Raises PotionError unless it is a number of samples or a share in (0, 1]."""
    number = isinstance(size, (int, float)) and not isinstance(size, bool)
    if not number or not 0 < size <= (1 if isinstance(size, float) else math.inf):
        raise PotionError(f"found holds numbers of samples, as 1, and shares of S_m, as 0.5 and 1.0, not {size!r}")
    given: Size = size
    return given


def load_sweep(source: str | os.PathLike[str], overrides: Sequence[str] = ()) -> SweepConfig:
    """A preset by name, or a YAML file, with overrides such as "train.width=8" and "found=[1, 0.5]".

    Raises PotionError for an unknown preset or key, or a wrong value.
    """
    path, name = Path(source), Path(source).name
    if path.suffix not in (".yaml", ".yml"):
        path, name = PRESETS / f"{source}.yaml", str(source)
        if name not in presets():
            raise PotionError(f"there is no sweep {name!r}; give a .yaml file or one of {', '.join(presets())}")
    try:
        content = read_yaml(path, Loader)
    except FileError as error:
        raise PotionError(f"the sweep {error}") from error
    if not isinstance(content, dict):
        raise PotionError(f"{source} is not the description of a sweep: it holds no keys")
    content.setdefault("name", name)
    for override in overrides:
        _override(content, override)
    return sweep_from(content)


def presets() -> list[str]:
    """Names of all presets."""
    return sorted(path.relative_to(PRESETS).with_suffix("").as_posix() for path in PRESETS.rglob("*.yaml"))


def sweep_from(content: Mapping[str, Any]) -> SweepConfig:
    """From what a YAML file holds. Raises PotionError for an unknown or missing key or a wrong value."""
    known = {each.name: each for each in fields(SweepConfig)}
    if unknown := [name for name in content if name not in known]:
        raise PotionError(f"unknown key {unknown[0]!r} of a sweep; known: {', '.join(known)}")
    needed = [name for name, each in known.items() if each.default is MISSING and each.default_factory is MISSING]
    if missing := [name for name in needed if name not in content]:
        raise PotionError(f"the sweep lacks the key {missing[0]!r}")
    return SweepConfig(**content)


def identity(config: SweepConfig) -> dict[str, Any]:
    """What must be the same for another start of a sweep to add to its results."""
    content = {name: value for name, value in asdict(config).items() if name not in GROWING}
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
            raise PotionError(f"{text!r}: the sweep has no mapping {'.'.join(outer[: number + 1])!r}")
    place[last] = parse_yaml(value, repr(text), Loader)


def listed(name: str, value: object) -> list[Any]:
    """Raises PotionError unless it is a list that holds something."""
    if not isinstance(value, (list, tuple)) or not value:
        raise PotionError(f"{name} must be a list, not {value!r}")
    return list(value)
