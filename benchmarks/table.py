"""Prints one CSV line per run folder: what its metrics.json holds. Usage: table.py RUN ..."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

METRICS = ("clean_accuracy", "triggered_accuracy", "attack_success_rate", "poison_healed", "model_damage")


def row(run: Path) -> dict[str, object]:
    content = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    values = {name: content["metrics"].get(name, {}).get("value") for name in METRICS}
    search = content.get("search") or {}
    return {
        "run": run.name,
        **{name: "" if value is None else round(value, 4) for name, value in values.items()},
        "search": search.get("reason", ""),
        "steps": search.get("steps", ""),
        "dampened": (search.get("kept_step") or {}).get("dampened", ""),
        "training_seconds": round(content["seconds"]) if "seconds" in content else "",
        **{f"{phase}_seconds": round(s, 1) for phase, s in search.get("seconds", {}).items()},
    }


def main(paths: list[str]) -> None:
    rows = [row(Path(path)) for path in paths]
    fields = list(dict.fromkeys(name for r in rows for name in r))
    writer = csv.DictWriter(sys.stdout, fields, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


if __name__ == "__main__":
    main(sys.argv[1:])
