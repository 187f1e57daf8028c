"""Made-up rows in the form of a sweep's: plausible, with known values."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from potion_fast.bench.attacks import ATTACKS
from potion_fast.bench.sweep.rows import FORMAT

# as sweeps call them -> registered name
NAMES = {
    "sine": "sine-wave",
    "moving": "moving-trigger",
    "targeted": "gradient-matching",
    "indiscriminate": "gradient-canceling",
}
SCORES = ("clean_accuracy", "attacked_accuracy", "attack_score")
RHOS = (0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.5, 0.75)
METHODS = (
    "none",
    "ptn-xlf",
    "ptn-lf",
    "ptn-ssd",
    "ssd-goel",
    "assd",
    "eu",
    "euk-goel",
    "cf",
    "cf-k",
    "badt",
    "scrub-goel",
)
PTN = {"ptn-xlf": (94.0, 1.2), "ptn-lf": (91.0, 2.4), "ptn-ssd": (85.0, 3.5)}  # poison healed, damage
OTHERS = {"ssd-goel": (80, 5), "assd": (60, 3), "eu": (35, 0), "none": (18, 0), "cf": (22, 0.2), "cf-k": (20, 0.1)}
OTHERS |= {"euk-goel": (25, 0.5), "badt": (40, 1), "scrub-goel": (30, 2)}


def write(folder: Path, rows: Sequence[dict[str, Any]], name: str = "unit") -> Path:
    """A sweep's folder with a result file for each row's unlearning."""
    (folder / "results").mkdir(parents=True, exist_ok=True)
    units: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        named = ("data", "attack_key", "poisoned", "seed", "found", "method", "group_size")
        key = "_".join(str(row[part]) for part in named)
        units.setdefault(f"{name}_{key}".replace("/", "-"), []).append(row)
    for key, rows_of_unit in units.items():
        (folder / "results" / f"{key}.json").write_text(file_text(rows_of_unit), encoding="utf-8")
    return folder


def file_text(rows: Sequence[dict[str, Any]]) -> str:
    """Of a result file."""
    return json.dumps({"format": FORMAT, "rows": rows, "measured": {"seconds": 1.0}})


def with_scores(content: dict[str, Any]) -> dict[str, Any]:
    """Scores and the registered attack put where a row has them.

    Args:
        content: fields of a row; `clean_accuracy`, `attacked_accuracy` and `attack_score`, also after "before_" and
            "reference_", are put among the scores under the names that its kind of attack has for them.
    """
    fields = dict(content)
    name = NAMES.get(fields["attack"], fields["attack"])
    attack = ATTACKS.get(name, ATTACKS["badnet"])
    fields |= {"attack": name, "kind": attack.kind, "score_names": attack.score_names}
    fields.setdefault("attack_key", content["attack"])
    for when in ("", "before_", "reference_"):
        named = zip(SCORES, ("clean_accuracy", *attack.score_names), strict=True)
        flat = [(own, fields.pop(f"{when}{field}", None)) for field, own in named]
        fields.setdefault(f"{when}scores", {own: value for own, value in flat if value is not None})
    return fields


def row(**fields: Any) -> dict[str, Any]:
    """One row with these fields, by default of PTN-XLF."""
    found, poisoned = fields.get("found", 10), fields.get("poisoned", 100)
    content = {
        "preset": "mine",
        "attack": "badnet",
        "data": "cifar10",
        "model": "resnet9",
        "width": 64,
        "seed": 0,
        "poisoned": poisoned,
        "found": found,
        "method": "ptn-xlf",
        "objective": "xlf",
        "group_size": min(64, found),
        "rho": 0.2,
        "s_step": 1.1,
        "strategy": "sequential",
        "settings": {},
        "clean_accuracy": 0.9,
        "attacked_accuracy": 0.8,
        "attack_score": 0.05,
        "found_accuracy": 0.1,
        "before_clean_accuracy": 0.92,
        "before_attacked_accuracy": 0.15,
        "before_attack_score": 0.98,
        "reference_attacked_accuracy": 0.9,
        "reference_clean_accuracy": 0.92,
        "poison_healed": 88.9,
        "model_damage": -2.0,
        "dampened": 100,
        "alpha": 3.0,
        "steps": 30,
        "evaluations": 31,
        "reason": "threshold passed",
        "gradient_steps": 40,
        "retain_from": "pass",
        "warnings": [],
        "trace": None,
        "seconds": {"training": 0.0, "forget": 0.1, "retain": 4.0, "search": 1.0, "evaluate": 2.0, "total": 5.1},
        "command": f"potion-fast sweep mine --out DIR --only u{found}",
    }
    return with_scores({**content, **fields})


def many(
    data: Sequence[tuple[str, str, int]] = (("digits", "small_cnn", 16),),
    attacks: Sequence[str] = ("badnet", "sine", "moving", "interclass-swap", "random-swap"),
    poisoned: Sequence[int] = (64,),
    shares: Sequence[float] = (0, 0.1, 0.5, 1.0),
    seeds: Sequence[int] = (0,),
    methods: Sequence[str] = METHODS,
    s_steps: Sequence[float] = (1.01, 1.1, 2.0),
    preset: str = "potion/smoke",
) -> Iterator[dict[str, Any]]:
    """The rows of a whole sweep; share 0 is a single sample."""
    for (name, model, width), attack, size, share, seed in product(data, attacks, poisoned, shares, seeds):
        found = max(1, round(share * size))
        fields = {
            "preset": preset,
            "data": name,
            "model": model,
            "width": width,
            "attack": attack,
            "poisoned": size,
            "found": found,
            "seed": seed,
        }
        for method in methods:
            noise = np.random.default_rng([seed, size, found, METHODS.index(method) if method in METHODS else 99])
            if method in PTN:
                for s_step, rho in product(s_steps, RHOS):
                    yield _searched(method, rho, s_step, noise, fields)
            else:
                yield _other(method, noise, fields)


def _scores(healed: float, damage: float) -> dict[str, Any]:
    healed = min(max(healed, 5), 100)
    return {
        "poison_healed": healed,
        "attacked_accuracy": 0.9 * healed / 100,
        "model_damage": damage,
        "clean_accuracy": 0.92 + damage / 100,
        "attack_score": max(0.0, 1 - healed / 95),
    }


def _searched(method: str, rho: float, s_step: float, noise: Any, fields: dict[str, Any]) -> dict[str, Any]:
    healed, damage = PTN[method]
    few = 25 * math.exp(-fields["found"] / (0.05 * fields["poisoned"]))
    healed += noise.normal(0, 2) - few - 60 * max(0, rho - 0.3) + 3 * (s_step > 1.5)
    damage = -damage * (1 + 6 * math.exp(-rho / 0.03) + 0.4 * (s_step > 1.5)) + noise.normal(0, 0.3)
    steps = round(30 / (10 * math.log(s_step)))
    seconds = {"training": 0.0, "forget": 0.05, "retain": 4.1, "search": 0.05 * steps, "evaluate": 1.0}
    traced = rho == 0.2 and s_step == 1.1
    return row(
        **fields,
        method=method,
        objective=method[4:],
        rho=rho,
        s_step=s_step,
        **_scores(healed, damage),
        found_accuracy=rho * 0.99,
        steps=steps,
        seconds={**seconds, "total": 4.15 + 0.05 * steps},
        dampened=round(900 * (1.2 - rho)),
        retain_from="shared: whole groups of one pass over S_tr",
        group_size=min(64, fields["found"]),
        trace=_trace(healed) if traced else None,
        warnings=["the search ended saturated before its threshold"] if healed < 60 else [],
    )


def _trace(healed: float) -> list[list[Any]]:
    lines = []
    for step in range(1, 46):
        d = round(1.28**step)
        fallen = 1 / (1 + (d / 600) ** 2.5)
        known = step % 4 == 1
        clean, hit = 0.92 / (1 + (d / 20000) ** 1.5), 0.15 + (0.009 * healed - 0.15) / (1 + (d / 500) ** -2)
        hit = hit / (1 + (d / 25000) ** 1.5)
        lines.append(
            [step, 1e-5 * 1.1**step, 99.99, 50 / step, fallen, d, clean if known else None, hit if known else None]
        )
    return lines


def _other(method: str, noise: Any, fields: dict[str, Any]) -> dict[str, Any]:
    healed, damage = OTHERS.get(method, (50.0, 1.0))
    if method == "eu":
        healed = 20 + 79 * (fields["found"] / fields["poisoned"]) ** 4
    damage = -damage + (noise.normal(0, 0.2) if method != "none" else 0)
    healed += noise.normal(0, 1.5) if method != "none" else 0
    searches = method in ("ssd-goel", "assd")
    seconds = {"training": 0.0 if searches or method == "none" else 140.0 if method == "eu" else 35.0}
    seconds |= {"forget": 0.1, "retain": 4.2, "search": 9.0} if searches else {}
    return row(
        **fields,
        method=method,
        objective="ssd" if searches else None,
        rho=None,
        s_step=None,
        strategy=None,
        group_size=min(64, fields["found"]) if searches else None,
        **_scores(healed, damage),
        found_accuracy=0.99 if method == "none" else 0.1,
        steps=None,
        reason=None,
        alpha=None,
        dampened=None,
        retain_from=None,
        seconds={**seconds, "evaluate": 1.0, "total": sum(seconds.values())},
    )
