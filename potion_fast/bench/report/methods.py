"""Labels of methods, attacks, data and models in print, the order of methods, and their look in a figure.

What is not listed here, such as an unlearner of one's own, is called by its name and has a look by default.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ...modes import MODES
from ..attacks import ATTACKS
from ..sweep.rows import Row


class Look(NamedTuple):
    """A method in print and in a figure.

    Attributes:
        label: in print.
        color, marker, line: as Matplotlib has them.
    """

    label: str
    color: str
    marker: str
    line: str


METHODS = {  # the paper's come first
    "ptn-xlf": Look("PTN-XLF", "#1b7f79", "o", "-"),
    "ptn-lf": Look("PTN-LF", "#d9a441", "s", "-"),
    "ptn-ssd": Look("PTN-SSD", "#c8553d", "D", "-"),
    "ssd-goel": Look("SSD, grid", "#6a5d9c", "^", "-"),
    "eu": Look("EU", "#3d3d3d", "P", "--"),
    "none": Look("None", "#8a8a8a", "", ":"),
    "heal": Look("Heal", "#1f4e9c", "*", "-"),
    "assd": Look("ASSD", "#a23b72", "v", "-"),
    "cf": Look("CF", "#2f6db3", "<", "--"),
    "cf-k": Look("CF-k", "#7fb0dd", ">", "--"),
    "euk-goel": Look("EU-k", "#7d7d7d", "X", "--"),
    "badt": Look("BadT", "#8c6d46", "p", "--"),
    "scrub-goel": Look("SCRUB", "#5a9e4b", "h", "--"),
    "retrain": Look("Retrain", "#3d3d3d", "P", "--"),
    "gd": Look("GD", "#2f6db3", "o", "--"),
    "ngd": Look("NGD", "#e0699f", "*", "--"),
    "ga": Look("GA", "#8c6d46", "v", "--"),
    "cfk-pawelczyk": Look("CFk", "#7fb0dd", ">", "--"),
    "euk-pawelczyk": Look("EUk", "#7d7d7d", "X", "--"),
    "scrub-pawelczyk": Look("SCRUB, Pawelczyk", "#5a9e4b", "h", "--"),
    "scrub-kurmanji": Look("SCRUB, Kurmanji", "#2e6b34", "H", ":"),
    "neggrad-plus": Look("NegGrad+", "#6a5d9c", "s", "--"),
    "jit": Look("JiT", "#a23b72", "d", ":"),
    "rem": Look("REM", "#b0713b", "o", "-"),
    "npo": Look("NPO", "#c98f5f", "s", "--"),
    "cuts": Look("CUTS", "#4f9da6", "D", "--"),
    "sap": Look("SAP", "#7f8f3a", "^", "--"),
    "cf-expanded": Look("CF, expanded", "#2f6db3", "P", "-"),
    "ft": Look("FT, clean", "#8a8a8a", "<", "--"),
    "ft-sam": Look("FT-SAM", "#5f5f8f", ">", "--"),
    "anp": Look("ANP", "#9b4f96", "X", "--"),
    "i-bau": Look("I-BAU", "#3a7d5a", "p", "--"),
    "nad": Look("NAD", "#b34d4d", "h", "--"),
}
PAPERS = ("ptn-xlf", "ptn-lf", "ptn-ssd", "ssd-goel", "eu", "none")
UNKNOWN = ("#444444", "#b0713b", "#4f9da6", "#9b4f96")  # colours of methods that are not listed
ATTACK_LABELS = {
    "badnet": "BadNet",
    "blended": "blended pattern",
    "sine-wave": "sine wave",
    "moving-trigger": "moving trigger",
    "sig": "SIG",
    "wanet": "WaNet",
    "sample-specific": "sample-specific noise",
    "all-to-all": "all-to-all",
    "several-targets": "several targets",
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
    "gpt2_classifier": "GPT-2 classifier",
    "gpt2_causal": "causal GPT-2",
}

Variant = tuple[str, tuple[str, ...]]  # method, and as texts what is not its default


def label(method: str) -> str:
    """A method in print; by its name where it is not known here."""
    return METHODS[method].label if method in METHODS else method


def attack_label(attack: str) -> str:
    """An attack in print; by its name where it is not known here, with spaces where it is a registered one."""
    return ATTACK_LABELS.get(attack) or (attack.replace("-", " ") if attack in ATTACKS else attack)


def data_label(data: str) -> str:
    """A data set in print; by its name where it is not known here."""
    return DATA.get(data, data)


def setting_label(setting: tuple[str, str, int | None]) -> str:
    """A text that names data, model and width."""
    data, model, width = setting
    return f"{data_label(data)}, {MODELS.get(model, model)}" + (f" of width {width}" if width is not None else "")


def variant(row: Row, budgets: bool = True) -> Variant:
    """The row's method, and as texts its settings other than the defaults; its budget only if `budgets`."""
    settings = dict(row.settings)
    for name in ("rho", "s_step", "strategy"):
        settings.pop(name, None)  # they have columns of their own
    size = settings.pop("group_size", row.group_size)
    texts = []
    if size is not None and size not in (MODES["default"].group_size, MODES["default"].group_size_for(row.found)):
        texts.append(f"m = {size}")
    if row.strategy not in (None, "sequential"):
        texts.append(str(row.strategy))
    if budgets and row.budget is not None:
        texts.append(f"budget {100 * row.budget:g} %")
    texts += [f"{name} = {_short(value)}" for name, value in sorted(settings.items())]
    return row.method, tuple(texts)


def _short(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def variant_label(variant: Variant) -> str:
    """In print: the method, and its settings in brackets."""
    method, texts = variant
    return f"{label(method)} ({', '.join(texts)})" if texts else label(method)


def variants(rows: Iterable[Row], budgets: bool = True) -> dict[Variant, list[Row]]:
    """The rows by variant: the paper's methods first, then the other known ones, then the rest by name."""
    by_variant: dict[Variant, list[Row]] = {}
    for row in rows:
        by_variant.setdefault(variant(row, budgets), []).append(row)
    order = {name: number for number, name in enumerate(METHODS)}
    return {key: by_variant[key] for key in sorted(by_variant, key=lambda key: (order.get(key[0], len(order)), key))}


def plain(rows: Sequence[Row]) -> list[Row]:
    """The rows of methods at their defaults; of a method that has none, those of its first variant."""
    by_variant, chosen = variants(rows), {}
    for key in by_variant:
        if key[0] not in chosen or not key[1]:
            chosen[key[0]] = key
    return [row for key in chosen.values() for row in by_variant[key]]


def look(method: str) -> Look:
    """How a method looks; one that is not known here has a colour by its name."""
    return METHODS.get(method) or Look(method, UNKNOWN[sum(map(ord, method)) % len(UNKNOWN)], "*", "-.")


def file_name(text: str) -> str:
    """The text as part of a file's name, whatever attacks, data and methods are called."""
    return "".join(char if char.isalnum() or char in "-_." else "-" for char in text).lstrip(".")
