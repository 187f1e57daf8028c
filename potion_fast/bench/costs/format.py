"""The cost model's table as text: Markdown that a terminal shows as well."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

BYTES = (("B", 1.0), ("kB", 1e3), ("MB", 1e6), ("GB", 1e9), ("TB", 1e12), ("PB", 1e15))
TIMES = (("ms", 1e-3), ("s", 1.0), ("min", 60.0), ("h", 3600.0), ("days", 86400.0), ("years", 31557600.0))
PHASES = ("retain pass", "forget pass", "all-reduce", "plan", "edits", "evaluation")


def format_costs(content: dict[str, Any]) -> list[str]:
    """Lines for what `plan_costs` gives."""
    network, work, rates, measured = (content[name] for name in ("network", "work", "rates", "measured"))
    each = {name: network[name] for name in ("flops", "forward_flops")}
    activations = f", {amount(network['activations'], BYTES)} of activations" if network["activations"] else ""
    of = f"{content['model']}: " if content["model"] else ""
    source = "measured now on" if measured["here"] else "from"
    where = [f"{measured['model']}, {measured['device']}, {measured['hardware']}"] if "model" in measured else []
    where += ["the flags"] if measured["given"] else []
    links = ", ".join(f"{amount(rate, BYTES)}/s between {n}" for n, rate in rates["links"].items())
    lines = [
        f"{of}{network['parameters']:,.0f} parameters, {each['flops'] / 1e9:,.4g} GFLOP for a sample's forward and "
        f"backward pass{activations}",
        f"{work['samples']:,} training samples and {work['found']:,} found ones, {work['steps']} candidates, "
        f"batches of {work['batch']}, groups of {work['group']}",
        f"rates {source} {' and '.join(where)}: pass {rates['pass_flops'] / each['flops']:,.4g} samples/s "
        f"({rates['pass_flops'] / 1e12:,.4g} TFLOP/s) after {rates['setup']:,.3g} more, forward "
        f"{rates['forward_flops'] / each['forward_flops']:,.4g} samples/s, plan {amount(rates['plan'], BYTES)}/s, "
        f"edits {amount(rates['edit'], BYTES)}/s, link {links or 'none'}",
        "",
    ]
    heads = ["processes", "shards", *PHASES, "**total**", "sent each", "memory each"]
    lines += ["| " + " | ".join(heads) + " |", "|" + "---:|" * len(heads)]
    lines += ["| " + " | ".join(_cells(row, content["device_memory"], len(heads))) + " |" for row in content["rows"]]
    if any(row["extrapolated"] for row in content["rows"]):
        lines += ["", "Extrapolated, not measured (*): " + "; ".join(content["assumptions"]) + "."]
    return lines


def _cells(row: dict[str, Any], memory: float | None, count: int) -> Iterable[str]:
    processes = f"{row['processes']:,}{' *' if row['extrapolated'] else ''}"
    if row["shards"] is None:
        size = amount(memory or 0.0, BYTES)
        needed = row["shards_needed"]
        why = f"{needed:,} shards of {size} needed" if needed else f"a batch's activations exceed {size}"
        return [processes, f"does not fit: {why}", *[""] * (count - 2)]
    seconds = [amount(row["seconds"][phase], TIMES) for phase in PHASES]
    sent, peak = amount(sum(row["sent"].values()), BYTES), amount(row["peak_memory"], BYTES)
    return [processes, f"{row['shards']:,}", *seconds, f"**{amount(row['total_seconds'], TIMES)}**", sent, peak]


def amount(value: float, units: Iterable[tuple[str, float]]) -> str:
    """A number in the largest unit of which it is at least one, to three digits."""
    if not value:
        return "0"
    name, unit = next((pair for pair in reversed(list(units)) if value >= pair[1]), next(iter(units)))
    number = value / unit
    return f"{number:,.0f} {name}" if number >= 100 else f"{number:.3g} {name}"
