"""What --help says of the two hypotheses' settings."""

from __future__ import annotations

from ..configs.flags import DEVICE, WORKERS, Flag

CANCELING = "gradient canceling"

SHIFT = {
    "run": Flag("training or unlearning run whose model's last layer gets the features", "DIR", "none, pixels"),
    "data": Flag("data set whose pixels are the features; with --run: as for evaluate", "NAME", "digits"),
    "root": Flag("folder of the data", "DIR", "of --run, else $POTION_FAST_DATA; digits need none"),
    "poisons": Flag("samples that are poisoned, and that are left out at random", "N", "384 of 50,000, as a share"),
    "weight_decay": Flag("of the regression, C = 1 / (decay · samples)", "X"),
    "tolerance": Flag("largest entry of the gradient at which a minimiser counts", "X"),
    "budget": Flag("GradPC: distance of the bad weights", "X"),
    "cancel_steps": Flag(f"{CANCELING}: steps", "N"),
    "cancel_lr": Flag(f"{CANCELING}: learning rate", "X"),
    "cancel_optimizer": Flag(f"{CANCELING}: plain descent, or adam", choices=("descent", "adam")),
    "epsilon": Flag("gradient matching: bound, of 255 for the range of a feature", "X"),
    "match_steps": Flag("gradient matching: steps of each restart", "N"),
    "restarts": Flag("gradient matching: restarts", "N"),
    "device": DEVICE,
    "workers": WORKERS,
}

COSINE = {
    "samples": Flag("of the synthetic set", "N"),
    "dimension": Flag("coordinates of a sample", "N"),
    "informative": Flag("of them, those that its label depends on", "N"),
    "poisons": Flag("samples that are poisoned and appended", "N"),
    "removed": Flag("clean samples left out to compare with", "N", "as many as shift the model as far as the poisons"),
    "weight_decay": Flag("of the regression; 0: plain least squares", "X"),
    "budget": Flag("GradPC: distance of the bad weights", "X"),
    "cancel_steps": Flag(f"{CANCELING}: steps", "N"),
    "cancel_lr": Flag(f"{CANCELING}: learning rate", "X"),
    "steps": Flag("of the gradient descent", "N"),
    "lr": Flag("learning rate of the gradient descent", "X"),
    "batch_size": Flag("samples of a mini-batch", "N"),
}
