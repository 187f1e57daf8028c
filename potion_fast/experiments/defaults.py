"""What the fields of a configuration stand for, and the defaults that depend on data set and poison."""

from __future__ import annotations

from typing import Any

VIT = "timm:vit_base_patch16_224.augreg_in21k_ft_in1k"
ADAMW = {"optimizer": "adamw"}  # the others are trained by SGD
# Settings that belong to a data set: CIFAR's are those of the public code, the digits' train in seconds on one core. Of
# Imagenette and ImageNet the paper has 5 and 2 epochs; the patch covers as large a share of the image as CIFAR's.
DATA_DEFAULTS: dict[str, dict[str, Any]] = {
    "digits": {"model": "small_cnn", "width": 64, "patch_size": 1, "iterations": 600, "batch_size": 64, "lr": 0.05},
    "cifar10": {"model": "resnet9", "width": 64, "patch_size": 3, "iterations": 4000, "batch_size": 512, "lr": 0.025},
    "cifar100": {"model": "resnet9", "width": 64, "patch_size": 3, "iterations": 6000, "batch_size": 512, "lr": 0.025},
    "imagenette": {"model": VIT, "patch_size": 21, "iterations": 370, "batch_size": 128, "lr": 2.5e-4, **ADAMW},
    "imagenet": {"model": VIT, "patch_size": 21, "iterations": 20020, "batch_size": 128, "lr": 2.5e-4, **ADAMW},
    "folder": {"model": "resnet9", "width": 64, "patch_size": 3, "iterations": 4000, "batch_size": 512, "lr": 0.025},
}

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
}
# Pairs that are easily confused; CIFAR's are those of the public code (maple tree and orange in CIFAR-100).
SWAP_CLASSES = {"digits": (3, 5), "cifar10": (3, 5), "cifar100": (47, 53)}

DATA_FIELDS = ("data", "root", "train_size", "image_size", "mean", "std", "poison", *POISON_OPTIONS)
DATA_FIELDS += ("perturbations", "poisoned", "found", "seed", "model")  # a model may ask for its own preprocessing

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
LEFT_OUT = (*POISON_OPTIONS, "perturbations", *(name for names in CRAFT_OPTIONS.values() for name in names))
