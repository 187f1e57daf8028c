"""An estimate of a sweep: its counts, and the time that is left by what was measured on the part that is done."""

from __future__ import annotations

import os
from collections import defaultdict
from statistics import mean
from typing import Any

from ...user.run_folder import RunFolder
from .config import SweepConfig
from .plan import Crafting, RetainPass, SweepPlan, Task, Training, Unlearning, axes
from .sweep_folder import SweepFolder


def estimate(config: SweepConfig, plan: SweepPlan, out: str | os.PathLike[str]) -> dict[str, Any]:
    """Counts of all work and of what is left; nothing is made.

    Returns:
        "all" and "left", counts of each kind of work; "seconds" of what is left, by one process, as far as work of the
        same kind is done already; "not_measured", kinds of work that are left and were never done.
    """
    folder = SweepFolder(out)
    if (folder.path / "sweep.yaml").exists():
        folder.check(config)
    spent: dict[str, list[float]] = defaultdict(list)
    undone: list[Task] = []
    for task in plan.tasks:
        if folder.done(task, plan):
            if (seconds := _seconds(folder, task)) is not None:
                spent[_kind(plan, task)].append(seconds)
        else:
            undone.append(task)
    kinds = [_kind(plan, task) for task in undone]
    rows = {key: _rows(config, plan, key) for key in plan.unlearnings}
    return {
        "all": _counts(plan.tasks) | {"rows": sum(rows.values())},
        "left": _counts(undone) | {"rows": sum(rows.get(task.key, 0) for task in undone)},
        "seconds": sum(mean(spent[kind]) for kind in kinds if kind in spent) if spent else None,
        "not_measured": sorted({kind for kind in kinds if kind not in spent}),
    }


def format_estimate(name: str, estimated: dict[str, Any]) -> list[str]:
    """Lines for a terminal; what a sweep has none of is not named."""
    named = [kind for kind, count in estimated["all"].items() if count]
    lines = [f"{name}: {_listed(estimated['all'], named)}", f"left: {_listed(estimated['left'], named)}"]
    if estimated["seconds"] is None:
        return [*lines, "time: not measured yet"]
    lines.append(f"time left, of one process: {_duration(estimated['seconds'])}")
    if estimated["not_measured"]:
        lines[-1] += f", and of what is not measured yet: {', '.join(estimated['not_measured'])}"
    return lines


def _counts(tasks: list[Task]) -> dict[str, int]:
    kinds = {"trainings": Training, "craftings": Crafting, "passes": RetainPass, "unlearnings": Unlearning}
    return {name: sum(isinstance(task, kind) for task in tasks) for name, kind in kinds.items()}


def _rows(config: SweepConfig, plan: SweepPlan, key: str) -> int:
    method = plan.unlearnings[key].method
    rhos, s_steps = axes(config, method)
    return len(rhos) * len(s_steps) if method.searches else 1


def _kind(plan: SweepPlan, task: Task) -> str:
    """Work that takes about as long."""
    if isinstance(task, Training):
        return f"{task.data} training"
    data = plan.trainings[task.model].data
    if isinstance(task, Crafting):
        return f"{data} {plan.trainings[task.model].attack} crafting"
    return f"{data} {'+'.join(task.objectives)} pass" if isinstance(task, RetainPass) else f"{data} {task.method.label}"


def _seconds(folder: SweepFolder, task: Task) -> float | None:
    """What a task took; None where that is not known any more."""
    place = folder.place(task)
    if isinstance(task, (Training, Crafting)):
        return float(RunFolder(place).read_json("metrics.json")["seconds"])
    if isinstance(task, RetainPass):
        return float(RunFolder(place).read_json("done.json")["wall"]) if (place / "done.json").exists() else None
    return float(RunFolder(place.parent).read_json(place.name)["measured"]["seconds"])


def _listed(counts: dict[str, int], named: list[str]) -> str:
    return ", ".join(f"{counts[name]:,} {name}" for name in named)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
