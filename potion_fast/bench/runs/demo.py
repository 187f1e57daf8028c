"""The demo: a small model poisoned, healed from a quarter of its poison, and measured, in a minute on a laptop."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from ...errors import PotionError
from ...utils.atomic_files import written_whole
from ..attacks import LEARNT
from ..attacks.badnet import BadNet
from ..configs import TrainConfig, UnlearnConfig, resolved_device
from .folder import RunFolder
from .stages import train_run, unlearn_run

POISONED, FOUND, TARGET = 64, 16, 0

Say = Callable[[str], None]


def demo(
    out: str | os.PathLike[str],
    seeds: Sequence[int] = (0,),
    *,
    overwrite: bool = False,
    progress: bool = False,
    say: Say = print,
) -> dict[str, Any]:
    """Train on poisoned digits, unlearn from a quarter of the poisoned samples, compare with a model never poisoned.

    Args:
        out: run folder: metrics.json and healing.png (of the first seed), and below it one run folder per step (and
            seed, if several).
        seeds: one whole demo each, all with the same settings; medians over them are in metrics.json.
        overwrite: whether an earlier run there may go.
        progress: show progress bars and say what is being done.
        say: takes the lines meant for a reader.

    Returns:
        The content of metrics.json.

    Raises:
        PotionError: seeds that are negative, given twice or none at all.
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise PotionError(f"seeds must be given, and each one once; got {list(seeds)}")
    attack = BadNet.Options(target=TARGET)
    trainings = [TrainConfig(data="digits", attack=attack, poisoned=POISONED, found=FOUND, seed=seed) for seed in seeds]
    run = RunFolder.create(out, overwrite)
    device = resolved_device("auto")
    run.write_config("demo", {"seeds": list(seeds), "poisoned": POISONED, "found": FOUND, "device": device})
    comment: Say = say if progress else lambda line: None
    start = time.perf_counter()
    results = []
    for training in trainings:
        folder = run.path if len(seeds) == 1 else run / f"seed-{training.seed}"
        poisoned, clean, healed = (str(folder / name) for name in ("poisoned", "clean", "healed"))
        of_them = f"{POISONED} of them poisoned with a patch that says “{TARGET}” (seed {training.seed})"
        comment(f"training on digits, {of_them} …")
        before = train_run(training, poisoned, overwrite=overwrite, progress=progress)
        comment("training the same model without any of the poison, to compare with …")
        never = training.updated(leave_out_poisoned=True)
        reference = train_run(never, clean, overwrite=overwrite, progress=progress)
        comment(f"unlearning from the {FOUND} poisoned samples that were found …")
        unlearning = UnlearnConfig(run=poisoned, reference=clean, curve=True, seed=training.seed)
        after = unlearn_run(unlearning, healed, overwrite=overwrite, progress=progress)
        results.append({"seed": training.seed, "before": before, "after": after, "reference": reference})
        say(_table(before, after, reference))
        if len(results) == 1:
            with written_whole(run / "healing.png") as temporary:
                shutil.copyfile(os.path.join(healed, "healing.png"), temporary)

    content = {"seeds": results, "seconds": time.perf_counter() - start, **_medians(results)}
    run.write_json("metrics.json", content)
    if len(seeds) > 1:
        say(_summary(content))
    say(f"picture: {run / 'healing.png'}")
    return content


def _medians(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the seeds where the attack had succeeded before; None where it never had."""
    counted = [result for result in results if result["before"]["metrics"]["attack_success_rate"]["value"] >= LEARNT]
    names = ("poison_healed", "model_damage", "attack_success_rate", "clean_accuracy", "triggered_accuracy")
    medians = {
        name: median(result["after"]["metrics"][name]["value"] for result in counted) if counted else None
        for name in names
    }
    return {"median": medians, "seeds_counted": [result["seed"] for result in counted]}


def _summary(content: dict[str, Any]) -> str:
    seeds, counted, medians = content["seeds"], content["seeds_counted"], content["median"]
    if not counted:
        return f"the attack succeeded with none of {len(seeds)} seeds: there is nothing to take a median over"
    return (
        f"median over {len(counted)} of {len(seeds)} seeds, those with which the attack had succeeded: "
        f"poison healed {medians['poison_healed']:.1f} %, model damage {medians['model_damage']:+.2f} points"
    )


def _table(before: dict[str, Any], after: dict[str, Any], reference: dict[str, Any]) -> str:
    rows = [("poisoned model", before), ("healed model", after), ("never poisoned", reference)]
    columns = ("clean_accuracy", "triggered_accuracy", "attack_success_rate")
    lines = ["", f"{'':16}{'clean accuracy':>16}{'triggered accuracy':>20}{'attack success':>16}"]
    for name, content in rows:
        cells = (f"{content['metrics'][column]['value']:.1%}" for column in columns)
        lines.append(
            f"{name:16}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, (16, 20, 16), strict=True))
        )
    metrics, search = after["metrics"], after["search"]
    step = search["kept_step"]
    lines += [
        "",
        f"poison healed {metrics['poison_healed']['value']:.1f} % (triggered accuracy, of the never poisoned model's)",
        f"model damage {metrics['model_damage']['value']:+.2f} points of clean accuracy",
        f"search: {search['reason']} after {search['steps']} steps, "
        + (f"{step['dampened']:,} weights dampened" if step else "model unchanged")
        + (f" at α = {step['alpha']:.3g}" if step and step["alpha"] is not None else ""),
        *(f"note: {note}" for note in after["warnings"]),
        "",
    ]
    return "\n".join(lines)
