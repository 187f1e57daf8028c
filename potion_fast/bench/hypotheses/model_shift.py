"""Hypothesis 1 (figure 4): leaving out poison shifts a model further than leaving out as many clean samples."""

from __future__ import annotations

import os
import time
from dataclasses import astuple, fields
from typing import Any, Literal

import numpy as np

from ...errors import DataError
from ...user.run_folder import RunFolder, strict
from ...user.schema import Integers, Schema, setting
from ...user.shared_fields import device_field, workers_field
from ...utils.progress import bar
from ..configs import EvaluateConfig, resolved_device
from ..configs.shared import same_model_field
from ..runs.inputs import check_out
from .bounds import check_seeds, seeds_field
from .feature_poisons import Poisoned, indiscriminate, random_clean, targeted
from .features import Features
from .logistic import Array, Minimiser, minimiser, predicted
from .plots import draw_shift
from .shifts import KINDS, SHARES, Shift, corrupted, curves, notes, ratios, shifts

PAPERS_SHARE = 384 / 50_000  # poisons of training samples, appendix E.1


class ShiftConfig(Schema):
    """What hypothesis 1 is measured on.

    The paper's gradient canceling is plain descent at a rate of 0.1, which hardly moves so few poisons; the default is
    Adam at that rate.
    """

    run: str | None = setting(
        None,
        "training or unlearning run whose model's last layer gets the features",
        metavar="DIR",
        default_text="none, pixels",
    )
    data: str | None = setting(
        None,
        "data set whose pixels are the features; with --run: as for evaluate",
        metavar="NAME",
        default_text="digits",
    )
    model: str | None = same_model_field()
    root: str | None = setting(
        None,
        "folder of the data",
        metavar="DIR",
        default_text="of --run, else $POTION_FAST_DATA; digits need none",
    )
    poisons: int | None = setting(
        None,
        "samples that are poisoned, and that are left out at random",
        metavar="N",
        default_text="384 of 50,000, as a share",
    )
    seeds: Integers = seeds_field()
    weight_decay: float = setting(5e-4, "of the regression, C = 1 / (decay · samples)", metavar="X", gt=0)
    tolerance: float = setting(1e-8, "largest entry of the gradient at which a minimiser counts", metavar="X", ge=0)
    budget: float = setting(1.0, "GradPC: distance of the bad weights", metavar="X", gt=0)
    cancel_steps: int = setting(1000, "gradient canceling: steps", metavar="N", gt=0)
    cancel_lr: float = setting(0.1, "gradient canceling: learning rate", metavar="X", gt=0)
    cancel_optimizer: Literal["descent", "adam"] = setting("adam", "gradient canceling: plain descent, or adam")
    epsilon: float = setting(16.0, "gradient matching: bound, of 255 for the range of a feature", metavar="X", gt=0)
    match_steps: int = setting(250, "gradient matching: steps of each restart", metavar="N", gt=0)
    restarts: int = setting(8, "gradient matching: restarts", metavar="N", ge=1)
    device: str = device_field()
    workers: int = workers_field()


def shift_run(
    config: ShiftConfig, out: str | os.PathLike[str], *, overwrite: bool = False, progress: bool = False
) -> dict[str, Any]:
    """Measure figure 4 of Pawelczyk et al.: curves of model shift for two kinds of poison and for clean samples.

    Writes config.yaml, shift.csv (a line per seed, kind and share), shift.png and metrics.json; returns what stands
    in metrics.json.

    Raises:
        PotionError: a setting out of range, and the errors of `load_trained` and `RunFolder`.
        DataError: features or sizes that do not do.
    """
    config = _checked(config)
    check_out(out, overwrite, config.run, config.root)
    start = time.perf_counter()
    features = _features(config, progress)
    config = config.updated(poisons=_poisons(config, features))
    clean = minimiser(features.train, features.labels, config.weight_decay, tolerance=config.tolerance)

    run = RunFolder.create(out, overwrite)
    run.write_config("hypothesis-shift", config.to_dict())
    rows: list[Shift] = []
    attacks = []
    wanted = [(seed, kind) for seed in config.seeds for kind in KINDS]
    for seed, kind in bar(wanted, label="hypothesis 1", unit="curve", shown=progress):
        poisoned = _poisoned(config, features, clean, kind, seed)
        whole = clean  # θ(S_corr): clean samples corrupt nothing
        if kind != "random":
            inputs, labels, decay = corrupted(features, poisoned), features.labels, config.weight_decay
            whole = minimiser(inputs, labels, decay, tolerance=config.tolerance, start=clean.theta)
            attacks.append({"seed": seed, "kind": kind, **_effect(features, poisoned, whole), "facts": poisoned.facts})
        rows += shifts(seed, kind, features, poisoned, whole, config.weight_decay, config.tolerance)
    run.write_csv("shift.csv", [field.name for field in fields(Shift)], map(astuple, rows))

    content: dict[str, Any] = strict(
        {
            "curves": curves(rows),
            "ratio": ratios(rows),
            "samples": len(features.labels),
            "features": features.train.shape[1],
            "poisons": config.poisons,
            "C": 1 / (config.weight_decay * len(features.labels)),
            "clean_accuracy": _accuracy(features, clean.theta),
            "attacks": attacks,
            "warnings": notes(rows),
            "seconds": time.perf_counter() - start,
        }
    )
    draw_shift(run / "shift.png", content, len(config.seeds))
    run.write_json("metrics.json", content)
    return content


def format_shift(content: dict[str, Any]) -> list[str]:
    """What a reader wants of `shift_run`'s result, as lines."""
    lines = [f"{content['poisons']} of {content['samples']} samples; model shift in the L1 norm, mean and deviation:"]
    lines.append(f"{'removed':16}" + "".join(f"{share:>15} %" for share in SHARES))
    for kind, points in content["curves"].items():
        lines.append(f"{kind:16}" + "".join(f"{point['mean']:>10.3f} ±{point['std']:5.2f}" for point in points))
    for kind, ratio in content["ratio"].items():
        if ratio["mean"] is not None:
            text = f"{ratio['mean']:.2f} times the shift of clean samples (lowest of a seed: {ratio['lowest']:.2f})"
            lines.append(f"{kind}: {text}")
    for attack in content["attacks"]:
        lines.append(f"seed {attack['seed']}, {attack['kind']}: {_in_words(attack)}")
    return lines + [f"note: {note}" for note in content["warnings"]]


def _in_words(attack: dict[str, Any]) -> str:
    """What an attack has reached."""
    accuracy, facts = f"{attack['clean_accuracy']:.1%} of the test samples right", attack["facts"]
    if attack["kind"] == "targeted":
        return f"{accuracy}; the target is {'' if attack['target_success'] else 'not '}hit"
    left = f"{facts['ratio']:.1%} of the clean gradient left"
    return f"{accuracy}, aimed at {facts['aimed_at_accuracy']:.1%}; {left}"


def _checked(config: ShiftConfig) -> ShiftConfig:
    """With absolute paths and a device. Raises PotionError for a setting out of range."""
    check_seeds(config.seeds)
    if config.run is None and config.model is not None:
        raise DataError("the model is that of a run, and none is given; give --run, or leave --model out")
    paths = {name: os.path.abspath(path) for name in ("run", "root") if (path := getattr(config, name)) is not None}
    return config.updated(**paths, device=resolved_device(config.device))


def _features(config: ShiftConfig, progress: bool) -> Features:
    if config.run is None:
        return Features.of_pixels(config.data or "digits", config.root)
    where: dict[str, Any] = {
        "root": config.root,
        "data": config.data,
        "model": config.model,
        "device": config.device,
        "workers": config.workers,
    }
    return Features.of_run(EvaluateConfig(run=config.run, **where), progress)


def _poisons(config: ShiftConfig, features: Features) -> int:
    """|S_poison|. Raises DataError where a class could be left without samples, or nothing is poisoned."""
    samples, smallest = len(features.labels), np.bincount(features.labels).min()
    count = max(1, round(PAPERS_SHARE * samples)) if config.poisons is None else config.poisons
    if not 1 <= count < smallest:
        raise DataError(f"{count} poisons, where the smallest class has {smallest} samples: choose 1 to {smallest - 1}")
    return count


def _poisoned(config: ShiftConfig, features: Features, clean: Minimiser, kind: str, seed: int) -> Poisoned:
    assert config.poisons is not None
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    if kind == "random":
        return random_clean(features, config.poisons, rng)
    how: dict[str, Any] = {"seed": seed}
    if kind == "targeted":
        how |= {"epsilon": config.epsilon / 255, "steps": config.match_steps, "restarts": config.restarts}
        return targeted(features, clean.theta, config.poisons, rng, **how)
    how |= {"weight_decay": config.weight_decay, "budget": config.budget}
    how |= {"steps": config.cancel_steps, "lr": config.cancel_lr, "optimizer": config.cancel_optimizer}
    return indiscriminate(features, clean.theta, config.poisons, rng, **how)


def _effect(features: Features, poisoned: Poisoned, whole: Minimiser) -> dict[str, Any]:
    """What the poison does to θ(S_corr): its accuracy on the clean test samples, and whether it hits its target."""
    effect: dict[str, Any] = {"clean_accuracy": _accuracy(features, whole.theta)}
    if poisoned.target is not None:
        row, intended = poisoned.target
        effect["target_success"] = bool(predicted(whole.theta, features.test[[row]])[0] == intended)
    return effect


def _accuracy(features: Features, theta: Array) -> float:
    return float((predicted(theta, features.test) == features.test_labels).mean())
