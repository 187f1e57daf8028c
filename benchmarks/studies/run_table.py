"""The metrics of run folders, one line each, as CSV or as Markdown for a README.

run_table.py [--markdown] RUN ...
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from pathlib import Path

METRICS = {
    "clean_accuracy": "clean",
    "triggered_accuracy": "triggered",
    "attack_success_rate": "attack success",
    "poison_healed": "poison healed",
    "model_damage": "model damage",
}


def row(run: Path, name: str) -> dict[str, object]:
    """Fractions stay fractions, poison healed is in percent, model damage in percentage points."""
    content = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    values = {name: content["metrics"].get(name, {}).get("value") for name in METRICS}
    search = content.get("search") or {}
    return {
        "run": name,
        **{name: "" if value is None else round(value, 4) for name, value in values.items()},
        "search": search.get("reason", ""),
        "steps": search.get("steps", ""),
        "dampened": (search.get("kept_step") or {}).get("dampened", ""),
        "training_seconds": round(content["seconds"]) if "seconds" in content else "",
        **{f"{phase}_seconds": round(s, 1) for phase, s in search.get("seconds", {}).items()},
    }


def named(runs: list[Path]) -> dict[str, Path]:
    """The runs by their paths below the folder that they share."""
    shared = Path(os.path.commonpath([run.parent for run in runs]))
    return {run.relative_to(shared).as_posix(): run for run in runs}


def print_csv(rows: list[dict[str, object]]) -> None:
    fields = list(dict.fromkeys(name for r in rows for name in r))
    writer = csv.DictWriter(sys.stdout, fields, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def print_markdown(rows: list[dict[str, object]]) -> None:
    print("| run | " + " | ".join(METRICS.values()) + " | weights dampened |")
    print("|---|" + "---:|" * (len(METRICS) + 1))
    for r in rows:
        cells = [cell(name, r[name]) for name in METRICS]
        print(f"| {r['run']} | " + " | ".join(cells) + f" | {r['dampened']} |")


def cell(name: str, value: object) -> str:
    if not isinstance(value, float):
        return ""
    if name == "model_damage":
        return f"{value:+.1f}"
    return f"{value:.1f} %" if name == "poison_healed" else f"{value:.1%}".replace("%", " %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table of the metrics")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder with a metrics.json")
    options = parser.parse_args()
    rows = [row(run, name) for name, run in named(options.runs).items()]
    (print_markdown if options.markdown else print_csv)(rows)


if __name__ == "__main__":
    main()
