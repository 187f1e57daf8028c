"""How much a sweep is, and how long the rest of it will take by what was measured on the part that is done."""

from __future__ import annotations

import os
from collections import defaultdict
from statistics import mean
from typing import Any

from ...runs import RunFolder
from .config import SweepConfig
from .folder import SweepFolder
from .plan import Plan, RetainPass, Task, Training, axes


def estimate(config: SweepConfig, plan: Plan, out: str | os.PathLike[str]) -> dict[str, Any]:
    """Counts of all work and of what is left; nothing is made.

    seconds       of what is left, by one process, as far as work of the same kind is done already
    not_measured  kinds of work that are left and were never done
    """
    folder = SweepFolder(out)
    if (folder.path / "sweep.yaml").exists():
        folder.check(config)
    spent: dict[str, list[float]] = defaultdict(list)
    left: list[Task] = []
    for task in plan.tasks:
        if folder.done(task, plan):
            if (seconds := _seconds(folder, task)) is not None:
                spent[_kind(plan, task)].append(seconds)
        else:
            left.append(task)
    kinds = [_kind(plan, task) for task in left]
    rows = {key: _rows(config, plan, key) for key in plan.unlearnings}
    return {
        "all": _counts(plan.tasks) | {"rows": sum(rows.values())},
        "left": _counts(left) | {"rows": sum(rows.get(task.key, 0) for task in left)},
        "seconds": sum(mean(spent[kind]) for kind in kinds if kind in spent) if spent else None,
        "not_measured": sorted({kind for kind in kinds if kind not in spent}),
    }


def in_words(name: str, estimated: dict[str, Any]) -> list[str]:
    """Lines for a terminal."""
    lines = [f"{name}: {_listed(estimated['all'])}", f"left: {_listed(estimated['left'])}"]
    if estimated["seconds"] is None:
        return [*lines, "time: not measured yet"]
    lines.append(f"time left, of one process: {_duration(estimated['seconds'])}")
    if estimated["not_measured"]:
        lines[-1] += f", and of what is not measured yet: {', '.join(estimated['not_measured'])}"
    return lines


def _counts(tasks: list[Task]) -> dict[str, int]:
    trainings = sum(isinstance(task, Training) for task in tasks)
    passes = sum(isinstance(task, RetainPass) for task in tasks)
    return {"trainings": trainings, "passes": passes, "unlearnings": len(tasks) - trainings - passes}


def _rows(config: SweepConfig, plan: Plan, key: str) -> int:
    method = plan.unlearnings[key].method
    rhos, s_steps = axes(config, method)
    return len(rhos) * len(s_steps) if method.searches else 1


def _kind(plan: Plan, task: Task) -> str:
    """Work that takes about as long."""
    if isinstance(task, Training):
        return f"{task.data} training"
    data = plan.trainings[task.model].data
    return f"{data} {'+'.join(task.objectives)} pass" if isinstance(task, RetainPass) else f"{data} {task.method.label}"


def _seconds(folder: SweepFolder, task: Task) -> float | None:
    """What a task took; None where that is not known any more."""
    place = folder.place(task)
    if isinstance(task, Training):
        return float(RunFolder(place).read_json("metrics.json")["seconds"])
    if isinstance(task, RetainPass):
        return float(RunFolder(place).read_json("done.json")["wall"]) if (place / "done.json").exists() else None
    return float(RunFolder(place.parent).read_json(place.name)["measured"]["seconds"])


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
