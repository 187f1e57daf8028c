"""What methods and attacks are called in print, in which order they come, and how they look in a figure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from ...modes import MODES
from ..sweep.rows import Row

# name -> (in print, colour, marker, line); the paper's come first
METHODS: dict[str, tuple[str, str, str, str]] = {
    "ptn-xlf": ("PTN-XLF", "#1b7f79", "o", "-"),
    "ptn-lf": ("PTN-LF", "#d9a441", "s", "-"),
    "ptn-ssd": ("PTN-SSD", "#c8553d", "D", "-"),
    "ssd-goel": ("SSD, grid", "#6a5d9c", "^", "-"),
    "eu": ("EU", "#3d3d3d", "P", "--"),
    "none": ("None", "#8a8a8a", "", ":"),
    "assd": ("ASSD", "#a23b72", "v", "-"),
    "cf": ("CF", "#2f6db3", "<", "--"),
    "cf-k": ("CF-k", "#7fb0dd", ">", "--"),
    "euk-goel": ("EU-k", "#7d7d7d", "X", "--"),
    "badt": ("BadT", "#8c6d46", "p", "--"),
    "scrub-goel": ("SCRUB", "#5a9e4b", "h", "--"),
    "retrain": ("Retrain", "#3d3d3d", "P", "--"),
    "gd": ("GD", "#2f6db3", "o", "--"),
    "ngd": ("NGD", "#e0699f", "*", "--"),
    "ga": ("GA", "#8c6d46", "v", "--"),
    "cfk-pawelczyk": ("CFk", "#7fb0dd", ">", "--"),
    "euk-pawelczyk": ("EUk", "#7d7d7d", "X", "--"),
    "scrub-pawelczyk": ("SCRUB, Pawelczyk", "#5a9e4b", "h", "--"),
    "scrub-kurmanji": ("SCRUB, Kurmanji", "#2e6b34", "H", ":"),
    "neggrad-plus": ("NegGrad+", "#6a5d9c", "s", "--"),
    "jit": ("JiT", "#a23b72", "d", ":"),
}
PAPERS = ("ptn-xlf", "ptn-lf", "ptn-ssd", "ssd-goel", "eu", "none")
UNKNOWN = ("#444444", "#b0713b", "#4f9da6", "#9b4f96")  # of methods that are not listed, in the order of their names
ATTACKS = {
    "badnet": "BadNet",
    "sine-wave": "sine wave",
    "moving-trigger": "moving trigger",
    "interclass-swap": "interclass swap",
    "random-swap": "random swap",
    "gaussian": "Gaussian noise",
    "gradient-matching": "gradient matching",
    "gradient-canceling": "gradient canceling",
    "trigger-word": "trigger word",
}
DATA = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagenette": "Imagenette", "imagenet": "ImageNet"}
MODELS = {
    "resnet9": "ResNet-9",
    "resnet18": "ResNet-18",
    "wrn28_10": "WRN-28-10",
    "vit": "ViT",
    "small_cnn": "small CNN",
}
MODELS |= {"small_cnn": "small CNN", "gpt2_classifier": "GPT-2 classifier", "gpt2_causal": "causal GPT-2"}

Variant = tuple[str, tuple[str, ...]]  # method, and in words what is not its default


def label(method: str) -> str:
    return METHODS[method][0] if method in METHODS else method


def attack_label(attack: str) -> str:
    return ATTACKS.get(attack, attack)


def data_label(data: str) -> str:
    return DATA.get(data, data)


def setting_label(setting: tuple[str, str, int | None]) -> str:
    """Data, model and width in words."""
    data, model, width = setting
    return f"{data_label(data)}, {MODELS.get(model, model)}" + (f" of width {width}" if width is not None else "")


def variant(row: Row, budgets: bool = True) -> Variant:
    """The row's method and in words what it was told otherwise than by default; its budget only if `budgets`."""
    told = dict(row.settings)
    for name in ("rho", "s_step", "strategy"):
        told.pop(name, None)  # they have columns of their own
    size = told.pop("group_size", row.group_size)
    words = []
    if size is not None and size not in (MODES["default"].group_size, MODES["default"].group_size_for(row.found)):
        words.append(f"m = {size}")
    if row.strategy not in (None, "sequential"):
        words.append(str(row.strategy))
    if budgets and row.budget is not None:
        words.append(f"budget {100 * row.budget:g} %")
    words += [f"{name} = {_short(value)}" for name, value in sorted(told.items())]
    return row.method, tuple(words)


def _short(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def variant_label(one: Variant) -> str:
    return f"{label(one[0])} ({', '.join(one[1])})" if one[1] else label(one[0])


def variants(rows: Iterable[Row], budgets: bool = True) -> dict[Variant, list[Row]]:
    """The rows by variant: the paper's methods first, then the other known ones, then the rest by name."""
    found: dict[Variant, list[Row]] = {}
    for row in rows:
        found.setdefault(variant(row, budgets), []).append(row)
    order = {name: number for number, name in enumerate(METHODS)}
    return {key: found[key] for key in sorted(found, key=lambda key: (order.get(key[0], len(order)), key))}


def plain(rows: Sequence[Row]) -> list[Row]:
    """The rows of methods at their defaults; of a method that has none, those of its first variant."""
    by_variant, chosen = variants(rows), {}
    for key in by_variant:
        if key[0] not in chosen or not key[1]:
            chosen[key[0]] = key
    return [row for key in chosen.values() for row in by_variant[key]]


def look(method: str) -> tuple[str, str, str]:
    """(colour, marker, line) of a method."""
    if method in METHODS:
        return METHODS[method][1:]
    return UNKNOWN[sum(map(ord, method)) % len(UNKNOWN)], "*", "-."


def file_name(text: str) -> str:
    """The text as part of a file's name, whatever attacks, data and methods are called."""
    return "".join(char if char.isalnum() or char in "-_." else "-" for char in text).lstrip(".")
