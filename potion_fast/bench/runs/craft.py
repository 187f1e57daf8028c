"""Crafting the perturbations of a poison against the model of a clean training, into a run folder of its own.

A crafting that was interrupted is resumed when it is started again with the same configuration.
"""

from __future__ import annotations

import os
import time
from typing import Any

import torch

from ...errors import DataError, FileError
from ...user.run_folder import CONFIG, RunFolder
from ..attacks import Perturbations
from ..attacks.crafting.job import CraftJob
from ..attacks.perturbation import BASES
from ..configs import CraftConfig
from ..figures.crafting import draw_crafting
from .inputs import PERTURBATIONS, check_out, load_trained, load_weights
from .stages import write_metrics

CHECKPOINT = "crafting.safetensors"  # of a crafting under way
MACHINE = ("run", "root", "device", "workers")  # where a crafting runs, not what it is: its checkpoint knows the model


def craft_run(
    config: CraftConfig, out: str | os.PathLike[str], *, overwrite: bool = False, progress: bool = False
) -> dict[str, Any]:
    """Craft perturbations for the samples that a training left out, against its model; see the attacks' `craft`.

    Writes config.yaml, poisoned.txt (S_m), found.txt (S_f), perturbations.safetensors, losses.csv, losses.png and
    metrics.json. An unfinished crafting of the same configuration in `out` is resumed, unless `overwrite` starts anew.

    Args:
        config: of the crafting.
        out: run folder.
        overwrite: whether an earlier run there may go.
        progress: show progress bars.

    Returns:
        The content of metrics.json.

    Raises:
        FileError: runs or files are missing, broken or in the way.
        DataError: a training that is not clean or whose poison is not crafted, settings that it does not have, or a
            model that gets no test image of the target's class right.
    """
    begun = not overwrite and _unfinished(out)
    check_out(out, overwrite or begun, config.run, config.root)
    trained = RunFolder.open(config.run)
    scenario, _ = load_trained(trained, config)
    if not scenario.config.leave_out_poisoned:
        raise DataError(f"{config.run} was trained on poison; craft against a training with --leave-out-poisoned")
    config = config.resolved(scenario.config.poison)
    config = config.updated(seed=scenario.config.seed if config.seed is None else config.seed)
    model, _ = load_weights(trained, scenario, config.device)
    poison, seed = scenario.poison, config.seed
    assert poison.Crafting is not None and seed is not None  # resolved
    settings = config.crafting(scenario.config.poison)
    targets = poison.crafting_targets(model, scenario.attacked, scenario.attacked_loader(), seed)

    run = RunFolder(out) if begun else RunFolder.create(out, overwrite)
    if begun:
        _check_same(run, config)
    else:
        (run / CHECKPOINT).unlink(missing_ok=True)
        run.write_config("craft", config.to_dict())
        scenario.write_indices(run)
    start = time.perf_counter()
    job = CraftJob(
        model,
        scenario.splits,
        scenario.poisoned,
        targets,
        plain_loader=lambda shuffle: scenario.plain_loader(shuffle=shuffle, seed=seed),
        trained_on=len(scenario.trained_on),
        test_loader=scenario.test_loader(False),
        settings=settings,
        seed=seed,
        checkpoint=run / CHECKPOINT,
        progress=progress,
    )
    result = poison.craft(job)
    seconds, crafted = time.perf_counter() - start, result.crafted
    facts = {"poison": scenario.config.poison, BASES: scenario.bases, **crafted.facts}
    table = Perturbations(
        torch.tensor(scenario.poisoned), crafted.perturbations, result.targets, result.intended, facts=facts
    )
    table.save(run / PERTURBATIONS)
    losses = (
        (restart, step, loss) for restart, by_step in enumerate(crafted.losses) for step, loss in enumerate(by_step)
    )
    run.write_csv("losses.csv", ("restart", "step", "loss"), losses)
    draw_crafting(run / "losses.png", scenario.perturbed(table), crafted)
    aims = zip(result.targets.tolist(), result.intended.tolist(), strict=True)
    more = {
        "targets": [{"index": index, "intended": intended} for index, intended in aims],
        "kept_restart": crafted.kept,
        "seconds": seconds,
    }
    return write_metrics(run, {metric.name: metric for metric in result.metrics}, result.notes, more)


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
    begun, now = run.read_config("craft")[1], config.to_dict()
    for name in sorted(set(begun) | set(now)):
        if name not in MACHINE and begun.get(name) != now.get(name):
            raise FileError(
                f"{run.path} holds an unfinished crafting with {name} {begun.get(name)!r}, not {now.get(name)!r}; "
                "resume that one, overwrite it, or choose another folder"
            )
