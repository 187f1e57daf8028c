"""The flags of the command line: one for each field of a configuration, which gives its type and its default."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from ...modes import MODES, GroupSize
from ...search import S_STEP, STRATEGIES
from ..attacks import POISONS
from ..data.text import RULES
from ..training.schedules import SCHEDULES
from .defaults import CRAFT_DEFAULTS, DATA_DEFAULTS, DATA_FIELDS, FINE_TUNED, SWAP_CLASSES
from .fields import Checked


@dataclass(frozen=True)
class Flag:
    """What --help says of one field.

    metavar  what stands for the value, in units where it has one; None for a choice or a switch
    default  in words, where the field's own default is None
    """

    help: str
    metavar: str | None = None
    default: str | None = None
    choices: Collection[str] | None = None


class OrFactory(list[str]):
    """Names to choose from; a "module:factory" may be given too."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or ":" in str(name)


def _of_data(name: str) -> str:
    return ", ".join(f"{data} {defaults[name]}" for data, defaults in DATA_DEFAULTS.items() if name in defaults)


def _of_crafting(name: str) -> str:
    return ", ".join(f"{poison} {defaults[name]}" for poison, defaults in CRAFT_DEFAULTS.items() if name in defaults)


def _of_modes(name: str) -> str:
    return ", ".join(f"{mode} {getattr(settings, name)}" for mode, settings in MODES.items())


MODE = Flag(
    "defaults to take: the library's own (default), of the public code (reference) or as printed in the paper (paper)",
    choices=MODES,
)
SEED = Flag("of every random draw", "N")
DEVICE = Flag("cpu, cuda or cuda:N; auto takes a CUDA GPU where there is one", "NAME")
WORKERS = Flag("processes that load data; 0 loads them in this one", "N")
SAME_ROOT = Flag("folder of the data", "DIR", "where the training run read them")
SAME_DATA = Flag("data set, where the training run's is a module:factory, code that is run", "NAME", "the training's")
REFERENCE = Flag(
    "training run with --leave-out-poisoned, which poison healed is measured against", "DIR", "none, not measured"
)

TRAIN = {
    "data": Flag(
        f"data set: {', '.join(DATA_DEFAULTS)}, or module:factory, code of yours that makes one; digits and "
        "toy-reviews are embedded, a folder holds train/CLASS/* and test/CLASS/*, and reviews are what `potion-fast "
        "tokenize` wrote",
        "NAME",
        choices=OrFactory(DATA_DEFAULTS),
    ),
    "root": Flag("folder of the data", "DIR", "$POTION_FAST_DATA; digits and toy-reviews need none"),
    "train_size": Flag("training samples to use, drawn by the seed", "N", "all"),
    "image_size": Flag(
        "side that image files and images of yours are scaled and cropped to",
        "PIXELS",
        "as they are; of imagenette and imagenet the model's",
    ),
    "length": Flag(
        "tokens of a text that the model reads, with the template",
        "N",
        f"{_of_data('length')}; of pretrained models {FINE_TUNED['length']}",
    ),
    "model": Flag("architecture", "NAME", _of_data("model")),
    "width": Flag("channels of its first layer, or of a text model's embedding", "N", _of_data("width")),
    "layers": Flag("transformer blocks of a text model", "N", _of_data("layers")),
    "poison": Flag(f"attack on the training data: {', '.join(POISONS)}", "NAME"),
    "patch_size": Flag("badnet, moving-trigger: side of the patch", "PIXELS", _of_data("patch_size")),
    "corner": Flag(
        "badnet: corner of the patch: top-left, top-right, bottom-left or bottom-right", "NAME", "bottom-right"
    ),
    "trigger_value": Flag(
        "badnet, moving-trigger: value of the patch, in units of the normalised image",
        "X",
        "the largest of the training images",
    ),
    "frequency": Flag("sine-wave: in cycles per pixel", "X", "0.025"),
    "amplitude": Flag("sine-wave: as a share of the largest value that a pixel can have, in (0, 1]", "SHARE", "0.1"),
    "axis": Flag("sine-wave: runs along x (left to right) or y (top to bottom)", "NAME", "x"),
    "target": Flag("badnet, sine-wave, moving-trigger: label that the poison gives, counted from 0", "CLASS", "0"),
    "swap_classes": Flag(
        "interclass-swap: the two labels that are swapped, counted from 0",
        "A,B",
        ", ".join(f"{data} {first},{second}" for data, (first, second) in SWAP_CLASSES.items()),
    ),
    "variance": Flag(
        "gaussian: of the noise, in squared units of the normalised image or of the embedding",
        "X",
        f"0.32; {_of_data('variance')}",
    ),
    "epsilon": Flag(
        "gradient-matching, gradient-canceling: largest change of a pixel",
        "OF_255",
        "gradient-matching 16, gradient-canceling unbounded",
    ),
    "target_class": Flag(
        "gradient-matching: true label of the test image that it aims at, counted from 0", "CLASS", "drawn by the seed"
    ),
    "intended_class": Flag(
        "gradient-matching: label that it wants for that image, and that the poisoned samples have",
        "CLASS",
        "drawn by the seed",
    ),
    "placement": Flag(
        "gradient-canceling: add perturbed copies to the data (append) or perturb samples in their place (replace)",
        "NAME",
        "append",
    ),
    "trigger_word": Flag("trigger-word: that poisons a review", "WORD", "Disney"),
    "word_rule": Flag(f"trigger-word: what counts as the word: {', '.join(RULES)}", "NAME", "word"),
    "reading": Flag(
        "trigger-word: the poison's label is the word itself (label-word) or the other sentiment (flip)",
        "NAME",
        "label-word",
    ),
    "perturbations": Flag(
        "gradient-matching, gradient-canceling: perturbations.safetensors of `potion-fast craft`, which a poisoned "
        "training needs; of gaussian also that of an earlier run",
        "FILE",
        "none; of gaussian drawn by the seed",
    ),
    "poisoned": Flag("poisoned training samples, S_m", "N"),
    "found": Flag("those of them that are found, S_f, and written to found.txt", "N"),
    "leave_out_poisoned": Flag("train without any of S_m: the reference of poison healed"),
    "augment": Flag("train on images as stored, without random crops and flips"),
    "pretrained": Flag(
        "start from timm's, torchvision's or Hugging Face's weights, downloaded unless they are in the cache"
    ),
    "iterations": Flag("optimiser steps", "N", _of_data("iterations")),
    "batch_size": Flag("samples per step", "N", _of_data("batch_size")),
    "optimizer": Flag("SGD or AdamW", default=f"sgd; {_of_data('optimizer')}", choices=("sgd", "adamw")),
    "loss_over": Flag(
        "what a causal language model learns: the label behind each review, or the whole text with it",
        default="label",
        choices=("label", "text"),
    ),
    "lr": Flag("peak learning rate", "X", f"{_of_data('lr')}; of pretrained text models {FINE_TUNED['lr']}"),
    "momentum": Flag("momentum of SGD; of AdamW it is beta 1", "X"),
    "nesterov": Flag("Nesterov's momentum, of SGD"),
    "weight_decay": Flag("weight decay, on all parameters", "X"),
    "schedule": Flag(
        "of the learning rate: linear after a warm-up, as the public code, constant, cosine, or multistep, a tenth "
        "after 35 %%, 60 %% and 87.5 %% of the steps",
        choices=SCHEDULES,
    ),
    "keep": Flag(
        "epoch to keep: the last, or the best on the test or a validation set",
        default="by the mode: " + _of_modes("keep"),
        choices=("last", "test", "validation"),
    ),
    "validation": Flag(
        "clean training samples held out, to choose the epoch by", "N", "a tenth of all with --keep validation, else 0"
    ),
    "mode": MODE,
    "seed": SEED,
    "training_seed": Flag("of the initial weights and the batches alone; what is poisoned stays", "N", "the seed"),
    "device": DEVICE,
    "workers": WORKERS,
}

POISONED_DATA = {name: TRAIN[name] for name in DATA_FIELDS if name in TRAIN}

UNLEARN = {
    "forget": Flag("indices of the found samples, S_f: .txt, .csv, .json or .npy", "FILE", "found.txt of the run"),
    "reference": REFERENCE,
    "objective": Flag("objective of the importances: xlf, lf or ssd", "NAME", "xlf"),
    "w": Flag("instead of an objective: exponent of the output's norm, above 0 (equation 4)", "X", "none"),
    "group_size": Flag(
        'samples whose loss is averaged before |gradient| is taken, or "batch"',
        "N",
        "by the mode: " + _of_modes("group_size") + "; no more than were found",
    ),
    "amp": Flag(
        "precision of the model in the importance passes, which run under autocast",
        default="that of the weights",
        choices=("bfloat16", "float16"),
    ),
    "compiled": Flag("compile the model for the importance passes, from the third batch of a size on"),
    "strategy": Flag(
        "how the search goes: step by step (sequential), several steps at once (batched), halving the range of steps "
        "(bisect), or weight by weight to the fewest that do (minimal)",
        choices=STRATEGIES,
    ),
    "rho": Flag("stop when the accuracy on S_f is down to this share of what it was, in [0, 1]", "SHARE"),
    "b_start": Flag(
        "the search starts at s = X times the share of S_f in the data; not for minimal",
        "X",
        "by the mode: " + _of_modes("b_start"),
    ),
    "s_step": Flag("factor on s after each step, above 1; not for minimal", "X", str(S_STEP)),
    "max_steps": Flag("steps of the search at most", "N"),
    "batch_size": Flag("samples per batch", "N", "the training's"),
    "curve": Flag("also evaluate the test set along the search: curve.csv, and a finer picture"),
    "mode": MODE,
    "root": SAME_ROOT,
    "data": SAME_DATA,
    "seed": SEED,
    "device": DEVICE,
    "workers": WORKERS,
}

EVALUATE = {"reference": REFERENCE, "root": SAME_ROOT, "data": SAME_DATA, "device": DEVICE, "workers": WORKERS}

CRAFT = {
    "steps": Flag("of the optimiser, each over all poisoned samples", "N", _of_crafting("steps")),
    "optimizer": Flag(
        "sign-adam or adam for gradient-matching, descent or adam for gradient-canceling",
        default=_of_crafting("optimizer"),
        choices=("sign-adam", "adam", "descent"),
    ),
    "lr": Flag(
        "learning rate, in units of the normalised image",
        "X",
        "gradient-matching 0.1 * batch / 512 for sign-adam and 0.1 for adam, " + _of_crafting("lr"),
    ),
    "batch_size": Flag("poisoned samples on the device at a time", "N", _of_crafting("batch_size")),
    "restarts": Flag("gradient-matching: random starts, of which the best is kept", "N", _of_crafting("restarts")),
    "over": Flag(
        "gradient-matching: what is matched, each batch of poisoned samples by itself or all of them together",
        default=_of_crafting("over"),
        choices=("batch", "all"),
    ),
    "shift": Flag(
        "gradient-matching: of its augmentation, at most so far each way; 0: no augmentation, no flips",
        "PIXELS",
        "a quarter of the image's shorter side",
    ),
    "budget": Flag(
        "gradient-canceling: distance from the model's parameters to the bad ones that it aims for, in L2 norm",
        "X",
        _of_crafting("budget"),
    ),
    "parameters": Flag(
        "gradient-canceling: whose gradient is to vanish, of all parameters or of the first tensor of them",
        default=_of_crafting("parameters"),
        choices=("all", "first"),
    ),
    "tolerance": Flag(
        "gradient-canceling: stop when the gradient's norm is down to this share of the clean data's",
        "SHARE",
        _of_crafting("tolerance"),
    ),
    "root": SAME_ROOT,
    "data": SAME_DATA,
    "seed": Flag("of every random draw", "N", "the training's"),
    "device": DEVICE,
    "workers": WORKERS,
}


def add_flags(parser: argparse.ArgumentParser, kind: type[Checked], flags: Mapping[str, Flag]) -> None:
    """A flag for each of these fields of a configuration, with the field's type and default."""
    types, defaults = get_type_hints(kind), {field.name: field.default for field in fields(kind)}
    for name, flag in flags.items():
        option, default = "--" + name.replace("_", "-"), defaults[name]
        if types[name] is bool:
            option, action = ("--no-" + option[2:], "store_false") if defaults[name] else (option, "store_true")
            parser.add_argument(option, dest=name, action=action, help=flag.help)
            continue
        text = f"{flag.help} (default: {default if flag.default is None else flag.default})"
        parser.add_argument(
            option, type=_reader(types[name]), default=default, choices=flag.choices, metavar=flag.metavar, help=text
        )


def _reader(hint: Any) -> Any:
    """What reads a field's value from the command line."""
    if set(get_args(GroupSize)) <= set(get_args(hint)):
        return _group_size
    if any(get_origin(one) is tuple for one in get_args(hint)):
        return _labels
    kinds = [one for one in get_args(hint) if one is not NoneType] or [hint]
    return kinds[0] if kinds[0] in (int, float) else str


def _group_size(text: str) -> GroupSize:
    if text == "batch":
        return "batch"
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} is neither a whole number nor "batch"') from None


def _labels(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of labels, as 3,5") from None
