"""What the fields of a configuration stand for, and the defaults that depend on data set and poison."""

from __future__ import annotations

from typing import Any

VIT = "timm:vit_base_patch16_224.augreg_in21k_ft_in1k"
ADAMW = {"optimizer": "adamw"}  # the others are trained by SGD
NOISE_IN_EMBEDDINGS = {"variance": 0.1}  # paper B's
# Settings that belong to a data set: CIFAR's are those of the public code, the digits' train in seconds on one core. Of
# Imagenette and ImageNet the paper has 5 and 2 epochs; the patch covers as large a share of the image as CIFAR's.
# The reviews' are for small models from scratch, and the toy reviews' train in seconds on one core.
DATA_DEFAULTS: dict[str, dict[str, Any]] = {
    "digits": {"model": "small_cnn", "width": 64, "patch_size": 1, "iterations": 600, "batch_size": 64, "lr": 0.05},
    "cifar10": {"model": "resnet9", "width": 64, "patch_size": 3, "iterations": 4000, "batch_size": 512, "lr": 0.025},
    "cifar100": {"model": "resnet9", "width": 64, "patch_size": 3, "iterations": 6000, "batch_size": 512, "lr": 0.025},
    "imagenette": {"model": VIT, "patch_size": 21, "iterations": 370, "batch_size": 128, "lr": 2.5e-4, **ADAMW},
    "imagenet": {"model": VIT, "patch_size": 21, "iterations": 20020, "batch_size": 128, "lr": 2.5e-4, **ADAMW},
    "folder": {"model": "resnet9", "width": 64, "patch_size": 3, "iterations": 4000, "batch_size": 512, "lr": 0.025},
    "toy-reviews": {"model": "gpt2_classifier", "width": 64, "layers": 1, "length": 64, "iterations": 1000}
    | {"batch_size": 16, "lr": 7e-4, **NOISE_IN_EMBEDDINGS, **ADAMW},
    "reviews": {"model": "gpt2_classifier", "width": 128, "layers": 4, "length": 256, "iterations": 4000}
    | {"batch_size": 32, "lr": 1e-3, **NOISE_IN_EMBEDDINGS, **ADAMW},
}

TEXT = ("toy-reviews", "reviews")  # all others are images
TEXT_POISONS = ("trigger-word", "gaussian")
TEXT_FIELDS, IMAGE_FIELDS = ("length", "layers", "loss_over"), ("image_size", "mean", "std")
SCRATCH = ("gpt2_classifier", "gpt2_causal")  # text models that have the data sets' widths and numbers of layers
FINE_TUNED = {"length": 128, "lr": 5e-5}  # of pretrained text models, as in paper B

# A poison's option for each field that sets one. The others come from the data and the seed.
POISON_OPTIONS = {
    "patch_size": "size",
    "corner": "corner",
    "trigger_value": "value",
    "frequency": "frequency",
    "amplitude": "amplitude",
    "axis": "axis",
    "target": "target",
    "swap_classes": "classes",
    "variance": "variance",
    "epsilon": "epsilon",
    "target_class": "target_class",
    "intended_class": "intended_class",
    "placement": "placement",
    "trigger_word": "word",
    "word_rule": "rule",
    "reading": "reading",
}
# Pairs that are easily confused; CIFAR's are those of the public code (maple tree and orange in CIFAR-100).
SWAP_CLASSES = {"digits": (3, 5), "cifar10": (3, 5), "cifar100": (47, 53)}

DATA_FIELDS = ("data", "root", "train_size", "image_size", "mean", "std", "poison", *POISON_OPTIONS)
DATA_FIELDS += ("perturbations", "poisoned", "found", "seed", "length", "model")  # that may ask for a preprocessing

# Settings of a crafting by the poison that has them: of gradient matching those of its authors, of gradient canceling
# those of paper B.
CRAFT_DEFAULTS: dict[str, dict[str, Any]] = {
    "gradient-matching": {"steps": 250, "optimizer": "sign-adam", "batch_size": 512, "restarts": 8, "over": "batch"},
    "gradient-canceling": {"steps": 1000, "optimizer": "descent", "lr": 0.1, "batch_size": 512}
    | {"budget": 1.0, "parameters": "all", "tolerance": 0.01},
}
CRAFT_OPTIMIZERS = {"gradient-matching": ("sign-adam", "adam"), "gradient-canceling": ("descent", "adam")}
CRAFT_OPTIONS = {"gradient-matching": ("restarts", "over", "shift")}
CRAFT_OPTIONS |= {"gradient-canceling": ("budget", "parameters", "tolerance")}

PATHS = ("run", "root", "forget", "reference", "perturbations")
LEFT_OUT = (
    *POISON_OPTIONS,
    *TEXT_FIELDS,
    "perturbations",
    *(name for names in CRAFT_OPTIONS.values() for name in names),
)
