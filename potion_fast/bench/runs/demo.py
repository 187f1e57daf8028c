"""The demo: a small model poisoned, dampened, healed from a quarter of its poison, and measured, on a laptop."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from ...errors import PotionError
from ...user.run_folder import RunFolder
from ...utils.atomic_files import written_whole
from ..attacks import LEARNT
from ..attacks.badnet import BadNet
from ..configs import HealConfig, TrainConfig, UnlearnConfig, resolved_device
from .heal import heal_run
from .stages import train_run, unlearn_run

POISONED, FOUND, TARGET = 64, 16, 0
PICTURES = ("healing.png", "suspects.png")

Say = Callable[[str], None]


def demo(
    out: str | os.PathLike[str],
    seeds: Sequence[int] = (0,),
    *,
    overwrite: bool = False,
    progress: bool = False,
    say: Say = print,
) -> dict[str, Any]:
    """Train on poisoned digits, heal from a quarter of the poison, compare with models dampened and never poisoned.

    Args:
        out: run folder: metrics.json, and healing.png and suspects.png (of the first seed), and below it one run folder
            per step (and seed, if several).
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
        poisoned, clean, dampened, healed = (str(folder / name) for name in ("poisoned", "clean", "dampened", "healed"))
        of_them = f"{POISONED} of them poisoned with a patch that says “{TARGET}” (seed {training.seed})"
        comment(f"training on digits, {of_them} …")
        before = train_run(training, poisoned, overwrite=overwrite, progress=progress)
        comment("training the same model without any of the poison, to compare with …")
        never = training.updated(leave_out_poisoned=True)
        reference = train_run(never, clean, overwrite=overwrite, progress=progress)
        comment(f"dampening what makes the {FOUND} poisoned samples that were found, as Potion does …")
        unlearning = UnlearnConfig(run=poisoned, reference=clean, seed=training.seed)
        damped = unlearn_run(unlearning, dampened, overwrite=overwrite, progress=progress)
        comment(f"finding the rest of the poison from these {FOUND}, and healing the poisoned model …")
        healing = HealConfig(run=poisoned, reference=clean, dampened=dampened, seed=training.seed)
        after = heal_run(healing, healed, overwrite=overwrite, progress=progress)
        result = {"before": before, "dampened": damped, "after": after, "reference": reference}
        results.append({"seed": training.seed, **result})
        say(_table(**result))
        if len(results) == 1:
            for name in PICTURES:
                with written_whole(run / name) as temporary:
                    shutil.copyfile(os.path.join(healed, name), temporary)

    content = {"seeds": results, "seconds": time.perf_counter() - start, **_medians(results)}
    run.write_json("metrics.json", content)
    if len(seeds) > 1:
        say(_summary(content))
    say("pictures: " + ", ".join(str(run / name) for name in PICTURES))
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


def _table(before: dict[str, Any], dampened: dict[str, Any], after: dict[str, Any], reference: dict[str, Any]) -> str:
    rows = {"poisoned": before, "dampened": dampened, "healed": after, "never poisoned": reference}
    columns = {
        "clean_accuracy": 16,
        "triggered_accuracy": 20,
        "attack_success_rate": 16,
        "poison_healed": 15,
        "model_damage": 14,
    }
    names = ("clean accuracy", "triggered accuracy", "attack success", "poison healed", "model damage")
    heads = (f"{name:>{width}}" for name, width in zip(names, columns.values(), strict=True))
    lines = ["", f"{'':14}" + "".join(heads)]
    for name, content in rows.items():
        cells = (f"{_cell(content['metrics'].get(column)):>{width}}" for column, width in columns.items())
        lines.append(f"{name:14}" + "".join(cells))
    suspects = after["suspects"]
    lines += [
        "",
        f"the rest of the poison: found {suspects['hidden_suspects']} of {suspects['hidden']} samples, and "
        f"{suspects['clean']} that are clean",
        *(f"note: {note}" for note in after["warnings"]),
        "",
    ]
    return "\n".join(lines)


def _cell(metric: dict[str, Any] | None) -> str:
    """A metric's value in percent, or in points where it is a difference."""
    if metric is None:
        return ""
    value = metric["value"]
    return {"fraction": f"{value:.1%}", "percent": f"{value:.1f}%"}.get(metric["unit"], f"{value:+.2f}")
