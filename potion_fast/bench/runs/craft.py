"""Crafting the perturbations of a poison against the model of a clean training, into a run folder of its own.

A crafting that was interrupted goes on when it is started again with the same configuration.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import DataError, FileError
from ...utils.predict import accuracy, predict
from ..attacks import GradientCanceling, GradientMatching, Perturbations
from ..attacks.crafting.crafted import Crafted
from ..attacks.crafting.gradient_canceling import gradient_canceling, summed_gradient
from ..attacks.crafting.gradient_matching import gradient_matching
from ..attacks.crafting.gradpc import gradpc
from ..attacks.perturbation import BASES
from ..configs import CraftConfig, to_dict
from ..figures.crafting import draw_crafting
from ..metrics import Metric
from .folder import CONFIG, RunFolder
from .inputs import PERTURBATIONS, check_out, load_trained, load_weights
from .scenario import Scenario
from .stages import write_metrics

CHECKPOINT = "crafting.safetensors"  # of a crafting under way
MACHINE = ("run", "root", "device", "workers")  # where a crafting runs, not what it is: its checkpoint knows the model


@dataclass(frozen=True)
class Made:
    """What a crafting has made.

    metrics, notes     for metrics.json
    targets, intended  int64 [T], of a targeted attack
    """

    crafted: Crafted
    metrics: list[Metric]
    notes: list[str] = field(default_factory=list)
    targets: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    intended: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))


def craft_run(
    config: CraftConfig, out: str | os.PathLike[str], *, overwrite: bool = False, progress: bool = False
) -> dict[str, Any]:
    """Craft perturbations for the samples that a training left out, against its model; see `gradient_matching` and
    `gradient_canceling`.

    Writes config.yaml, poisoned.txt (S_m), found.txt (S_f), perturbations.safetensors, losses.csv, losses.png and
    metrics.json; returns what stands in metrics.json. An unfinished crafting of the same configuration in `out` is
    gone on with, unless `overwrite` starts anew.

    Raises FileError, and DataError for a training that is not clean or whose poison is not crafted, settings that it
    does not have, or a model that gets no test image of the target's class right.
    """
    begun = not overwrite and _unfinished(out)
    check_out(out, overwrite or begun, config.run, config.root)
    trained = RunFolder.open(config.run)
    scenario, _ = load_trained(trained, config)
    if not scenario.config.leave_out_poisoned:
        raise DataError(f"{config.run} was trained on poison; craft against a training with --leave-out-poisoned")
    config = config.resolved(scenario.config.poison)
    config = replace(config, seed=scenario.config.seed if config.seed is None else config.seed)
    model, _ = load_weights(trained, scenario, config.device)
    targets = _targets(model, scenario, config) if isinstance(scenario.poison, GradientMatching) else None

    run = RunFolder(out) if begun else RunFolder.create(out, overwrite)
    if begun:
        _check_same(run, config)
    else:
        (run / CHECKPOINT).unlink(missing_ok=True)
        run.write_config("craft", to_dict(config))
        run.write_indices("poisoned.txt", scenario.poisoned)
        run.write_indices("found.txt", scenario.found)
    start = time.perf_counter()
    if targets is not None:
        made = _matched(model, scenario, config, targets, run, progress)
    else:
        made = _canceled(model, scenario, config, run, progress)
    seconds, crafted = time.perf_counter() - start, made.crafted
    facts = {"poison": scenario.config.poison, BASES: scenario.bases, **crafted.facts}
    table = Perturbations(
        torch.tensor(scenario.poisoned), crafted.perturbations, made.targets, made.intended, facts=facts
    )
    table.save(run / PERTURBATIONS)
    losses = ((restart, step, loss) for restart, each in enumerate(crafted.losses) for step, loss in enumerate(each))
    run.write_csv("losses.csv", ("restart", "step", "loss"), losses)
    draw_crafting(run / "losses.png", scenario.perturbed(table), crafted)
    aims = zip(made.targets.tolist(), made.intended.tolist(), strict=True)
    more = {
        "targets": [{"index": index, "intended": intended} for index, intended in aims],
        "kept_restart": crafted.kept,
        "seconds": seconds,
    }
    return write_metrics(run, {metric.name: metric for metric in made.metrics}, made.notes, more)


def _unfinished(out: str | os.PathLike[str]) -> bool:
    """Whether a crafting was begun there, and not ended."""
    run = RunFolder(out)
    if not (run / CONFIG).is_file() or (run / "metrics.json").exists():
        return False
    try:
        run.read_config("craft")
    except FileError:
        return False
    return True


def _check_same(run: RunFolder, config: CraftConfig) -> None:
    """Raise FileError unless the crafting that was begun is this one."""
    begun, now = run.read_config("craft")[1], to_dict(config)
    for name in sorted(set(begun) | set(now)):
        if name not in MACHINE and begun.get(name) != now.get(name):
            raise FileError(
                f"{run.path} holds an unfinished crafting with {name} {begun.get(name)!r}, not {now.get(name)!r}; "
                "go on with that, overwrite it, or choose another folder"
            )


def _targets(model: nn.Module, scenario: Scenario, config: CraftConfig) -> list[int]:
    """Test images of the target's class that the clean model gets right: the first in an order drawn by the seed."""
    poison = scenario.poison
    assert isinstance(poison, GradientMatching)
    images = scenario.attacked.rows
    logits, labels = predict(model, scenario.attacked_loader())
    right = (logits.argmax(1) == labels).tolist()
    order = np.random.default_rng(config.seed).permutation(len(images)).tolist()
    chosen = [images[place] for place in order if right[place]][: poison.targets]
    if len(chosen) < poison.targets:
        raise DataError(
            f"the model gets {len(chosen)} of the {len(images)} test images of the target's class "
            f"{poison.target_class} right, and {poison.targets} are to be attacked; train it longer or choose another"
        )
    return chosen


def _matched(
    model: nn.Module, scenario: Scenario, config: CraftConfig, targets: list[int], run: RunFolder, progress: bool
) -> Made:
    """Gradient matching."""
    poison, splits = scenario.poison, scenario.splits
    assert isinstance(poison, GradientMatching) and poison.intended_class is not None
    images, intended = splits.dataset("test").batch(targets)[0], torch.full((len(targets),), poison.intended_class)
    names = ("restarts", "steps", "batch_size", "optimizer", "lr", "over", "shift", "seed")
    crafted = gradient_matching(
        model,
        _reader(scenario),
        splits.train.labels[torch.tensor(scenario.poisoned)],
        images,
        intended,
        epsilon=poison.epsilon / 255,
        mean=splits.mean,
        std=splits.std,
        augment=config.shift != 0,
        flip=splits.flip,
        checkpoint=run / CHECKPOINT,
        progress=progress,
        **{name: getattr(config, name) for name in names},
    )
    before, after = crafted.facts["unperturbed_loss"], crafted.facts["final_losses"][crafted.kept]
    aims = "1 target" if len(targets) == 1 else f"{len(targets)} targets"
    where = f"1 - cosine of the gradients of {len(scenario.poisoned)} poisons and {aims}"
    metrics = _of_losses(before, after, len(scenario.poisoned), where)
    notes = [] if after < before else ["the perturbations match the targets no better than none: try more steps"]
    return Made(crafted, metrics, notes, targets=torch.tensor(targets), intended=intended)


def _canceled(model: nn.Module, scenario: Scenario, config: CraftConfig, run: RunFolder, progress: bool) -> Made:
    """Gradient canceling, for the target parameters of GradPC."""
    poison, splits = scenario.poison, scenario.splits
    assert isinstance(poison, GradientCanceling) and config.seed is not None
    assert config.budget is not None and config.parameters is not None and config.tolerance is not None  # resolved
    shuffled = scenario.plain_loader(shuffle=True, seed=config.seed)
    bad = gradpc(model, shuffled, budget=config.budget, seed=config.seed, progress=progress)
    loader = scenario.plain_loader(shuffle=False, seed=config.seed)
    clean = summed_gradient(bad, loader, config.parameters, progress=progress)
    names = ("steps", "lr", "optimizer", "parameters", "tolerance", "batch_size")
    crafted = gradient_canceling(
        bad,
        clean,
        len(scenario.trained_on),
        _reader(scenario),
        splits.train.labels[torch.tensor(scenario.poisoned)],
        epsilon=None if poison.epsilon is None else poison.epsilon / 255,
        mean=splits.mean,
        std=splits.std,
        checkpoint=run / CHECKPOINT,
        progress=progress,
        **{name: getattr(config, name) for name in names},
    )
    losses, ratio, n = crafted.losses[0], crafted.facts["ratio"], len(splits.test)
    test = scenario.test_loader(False)
    metrics = [
        *_of_losses(
            losses[0], losses[-1], len(scenario.poisoned), "1/2 of the squared norm of the training's gradient"
        ),
        Metric(
            "gradient_left", ratio, "fraction", len(scenario.trained_on), 0.0, "the norm of the clean data's gradient"
        ),
        Metric(
            "bad_accuracy", accuracy(*predict(bad, test)), "fraction", n, 0.0, f"{n} test images, target parameters"
        ),
        Metric(
            "clean_accuracy", accuracy(*predict(model, test)), "fraction", n, 1.0, f"{n} test images, the clean model"
        ),
    ]
    left = f"the gradient was not canceled: {ratio:.1%} of the clean data's is left after {len(losses) - 1} steps"
    left += "; try adam, a lower rate or a smaller budget" if losses[-1] > losses[0] else ""
    return Made(crafted, metrics, [left] if ratio > config.tolerance else [])


def _of_losses(before: float, after: float, n: int, where: str) -> list[Metric]:
    """What was minimised, without perturbations and with them."""
    return [
        Metric("unperturbed_loss", before, "loss", n, 0.0, where),
        Metric("crafted_loss", after, "loss", n, 0.0, where),
        Metric("loss_reduction", 100 * (1 - after / before), "percent", n, 100.0, f"the unperturbed loss {before:.4g}"),
    ]


def _reader(scenario: Scenario) -> Callable[[slice], Tensor]:
    """Reads images of S_m [B, C, H, W], clean, not augmented, by their places in it."""
    dataset = scenario.splits.dataset("train")
    return lambda places: dataset.batch(scenario.poisoned[places])[0]
