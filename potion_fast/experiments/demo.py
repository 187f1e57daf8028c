"""The demo: a small model poisoned, healed from a quarter of its poison, and the proof, in a minute on a laptop."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from ..files import written_whole
from ..runs import RunFolder
from .config import TrainConfig, UnlearnConfig
from .stages import LEARNT, train_run, unlearn_run

POISONED, FOUND = 64, 16

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

    out    run folder: metrics.json and healing.png, and below it one run folder per step (and seed, if several)
    seeds  one whole demo each, all with the same settings; medians over them stand in metrics.json
    say    takes the lines meant for a reader

    Returns what stands in metrics.json.
    """
    run = RunFolder.create(out, overwrite)
    run.write_config("demo", {"seeds": list(seeds), "poisoned": POISONED, "found": FOUND})
    start = time.perf_counter()
    results = []
    for seed in seeds:
        folder = run.path if len(seeds) == 1 else run / f"seed-{seed}"
        folder.mkdir(exist_ok=True)
        poisoned, clean, healed = (str(folder / name) for name in ("poisoned", "clean", "healed"))
        training = TrainConfig(data="digits", poisoned=POISONED, found=FOUND, seed=seed)

        say(f"training on digits, {POISONED} of them poisoned with a patch that says “{training.target}” (seed {seed}) …")
        before = train_run(training, poisoned, overwrite=overwrite, progress=progress)
        say("training the same model without any of the poison, to compare with …")
        never = TrainConfig(data="digits", poisoned=POISONED, found=FOUND, seed=seed, leave_out_poisoned=True)
        reference = train_run(never, clean, overwrite=overwrite, progress=progress)
        say(f"unlearning from the {FOUND} poisoned samples that were found …")
        unlearning = UnlearnConfig(run=poisoned, reference=clean, curve=True, seed=seed)
        after = unlearn_run(unlearning, healed, overwrite=overwrite, progress=progress)
        results.append({"seed": seed, "before": before, "after": after, "reference": reference})
        say(_table(before, after, reference))

    first = (run.path if len(seeds) == 1 else run / f"seed-{seeds[0]}") / "healed" / "healing.png"
    with written_whole(run / "healing.png") as temporary:
        shutil.copyfile(first, temporary)
    content = {"seeds": results, "seconds": time.perf_counter() - start, **_medians(results)}
    run.write_json("metrics.json", content)
    if len(seeds) > 1:
        healed_median, damage = content["median"]["poison_healed"], content["median"]["model_damage"]
        say(f"median over {len(seeds)} seeds: poison healed {healed_median:.1f} %, model damage {damage:+.2f} points")
    say(f"picture: {run / 'healing.png'}")
    return content


def _medians(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the seeds; poison healed counts only where the attack had succeeded before."""
    counted = [r for r in results if r["before"]["metrics"]["attack_success_rate"]["value"] >= LEARNT]
    names = ("poison_healed", "model_damage", "attack_success_rate", "clean_accuracy", "triggered_accuracy")
    medians = {name: median(r["after"]["metrics"][name]["value"] for r in counted) if counted else None for name in names}
    return {"median": medians, "seeds_counted": [r["seed"] for r in counted]}


def _table(before: dict[str, Any], after: dict[str, Any], reference: dict[str, Any]) -> str:
    rows = [("poisoned model", before), ("healed model", after), ("never poisoned", reference)]
    columns = ("clean_accuracy", "triggered_accuracy", "attack_success_rate")
    lines = ["", f"{'':16}{'clean accuracy':>16}{'triggered accuracy':>20}{'attack success':>16}"]
    for name, content in rows:
        cells = (f"{content['metrics'][column]['value']:.1%}" for column in columns)
        lines.append(f"{name:16}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, (16, 20, 16), strict=True)))
    metrics, search = after["metrics"], after["search"]
    step = search["kept_step"]
    lines += [
        "",
        f"poison healed {metrics['poison_healed']['value']:.1f} % (triggered accuracy, of the never poisoned model's)",
        f"model damage {metrics['model_damage']['value']:+.2f} points of clean accuracy",
        f"search: {search['reason']} after {search['steps']} steps, "
        + (f"{step['dampened']:,} weights dampened at α = {step['alpha']:.3g}" if step else "model left alone"),
        *(f"note: {note}" for note in after["warnings"]),
        "",
    ]
    return "\n".join(lines)
