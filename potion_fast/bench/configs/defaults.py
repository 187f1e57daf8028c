"""Defaults that depend on the data set or the model."""

from __future__ import annotations

from typing import Any

VIT = "timm:vit_base_patch16_224.augreg_in21k_ft_in1k"
# Settings that belong to a data set: CIFAR's are those of the public code, the digits' train in seconds on one core. Of
# Imagenette and ImageNet the paper has 5 and 2 epochs; the patch covers as large a share of the image as CIFAR's.
# The reviews' are for small models from scratch, and the toy reviews' train in seconds on one core; the variance of the
# noise in their embeddings is Pawelczyk et al.'s. Without an optimizer here it is SGD.
DATA_DEFAULTS: dict[str, dict[str, Any]] = {
    "digits": {"model": "small_cnn", "width": 64, "patch_size": 1, "iterations": 600, "batch_size": 64, "lr": 0.05},
    "cifar10": {"model": "resnet9", "width": 64, "patch_size": 3, "iterations": 4000, "batch_size": 512, "lr": 0.025},
    "cifar100": {"model": "resnet9", "width": 64, "patch_size": 3, "iterations": 6000, "batch_size": 512, "lr": 0.025},
    "imagenette": {
        "model": VIT,
        "patch_size": 21,
        "iterations": 370,
        "batch_size": 128,
        "lr": 2.5e-4,
        "optimizer": "adamw",
    },
    "imagenet": {
        "model": VIT,
        "patch_size": 21,
        "iterations": 20020,
        "batch_size": 128,
        "lr": 2.5e-4,
        "optimizer": "adamw",
    },
    "folder": {"model": "resnet9", "width": 64, "patch_size": 3, "iterations": 4000, "batch_size": 512, "lr": 0.025},
    "toy-reviews": {
        "model": "gpt2_classifier",
        "width": 64,
        "layers": 1,
        "length": 64,
        "iterations": 1000,
        "batch_size": 16,
        "lr": 7e-4,
        "variance": 0.1,
        "optimizer": "adamw",
    },
    "reviews": {
        "model": "gpt2_classifier",
        "width": 128,
        "layers": 4,
        "length": 256,
        "iterations": 4000,
        "batch_size": 32,
        "lr": 1e-3,
        "variance": 0.1,
        "optimizer": "adamw",
    },
}
# Pairs that are easily confused; CIFAR's are those of the public code (maple tree and orange in CIFAR-100).
SWAP_CLASSES = {"digits": (3, 5), "cifar10": (3, 5), "cifar100": (47, 53)}

TEXT = ("toy-reviews", "reviews")  # all others are images
TEXT_FIELDS, IMAGE_FIELDS = ("length", "layers", "loss_over"), ("image_size", "mean", "std")
SCRATCH = ("gpt2_classifier", "gpt2_causal")  # text models that have the data sets' widths and numbers of layers
FINE_TUNED = {"length": 128, "lr": 5e-5}  # of pretrained text models, as in Pawelczyk et al.


def default_of(data: str, name: str) -> Any:
    """A setting's default that belongs to a data set, None where it has none; others than the known are folders."""
    if name == "swap_classes":
        return SWAP_CLASSES.get(data)
    return DATA_DEFAULTS.get(data, DATA_DEFAULTS["folder"]).get(name)


def format_defaults(name: str) -> str:
    """A setting's defaults by data set, for --help; empty where no data set has one."""
    values = {data: default_of(data, name) for data in DATA_DEFAULTS}
    words = {data: ",".join(map(str, value)) if isinstance(value, tuple) else value for data, value in values.items()}
    return ", ".join(f"{data} {value}" for data, value in words.items() if value is not None)
