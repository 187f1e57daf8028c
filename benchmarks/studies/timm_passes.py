"""A pass over networks of timm whose layers have their rules by operation: batch norms with an activation, scales.

    timm_passes.py OUT.csv [--networks ...] [--group-sizes ...]   measure; one row per network and group size
    timm_passes.py --markdown OUT.csv                             the table for README.md

potion_fast and a plain forward and backward pass with the gradients of all weights take turns in one process, as in
`passes.py`: a turn is one pass over `--batches` copies of a batch, timed from the request for its second one to the
request past the last. The time is the process's own on its one thread, which other programs disturb less. `ratio` is
the median over the turns of the quotient of the two; `channels_last` the same with a plain pass over a model and images
whose channels are last in memory, as potion_fast lays them out itself. `fallback` is the number of parameters that no
rule covered. Random weights, eval mode, XLF.
"""

from __future__ import annotations

import argparse
import copy
import csv
import datetime
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from pass_methods import Batch, Case, Pass, Sums, plain
from passes import Clock

import potion_fast as pf
from potion_fast.user.run_folder import versions

NETWORKS = ["efficientnet_b0", "mobilenetv3_small_100", "regnety_004", "convnext_atto"]


class ProcessClock(Clock):
    """Counts the time that the process has computed."""

    def now(self) -> float:
        return time.process_time()


def seconds(case: Case, run: Pass, batches: int) -> float:
    """Of a batch, but for the first of the pass."""
    clock = ProcessClock(case, batches)
    run(clock)
    return (clock.times[-1] - clock.times[1]) / (batches - 1)


def importances(case: Case, group_size: int) -> Pass:
    def run(batches: Iterable[Batch]) -> Sums:
        return {"": pf.importance(case.model, batches, "xlf", group_size=group_size).sums}

    return run


def measure(options: argparse.Namespace, network: str) -> Iterator[dict[str, Any]]:
    """A row for each group size."""
    torch.manual_seed(0)
    inputs, labels = torch.randn(options.batch, 3, options.pixels, options.pixels), torch.arange(options.batch) % 10
    case = Case(timm.create_model(network, num_classes=10).eval(), inputs, labels)
    last = torch.channels_last
    in_channels_last = Case(copy.deepcopy(case.model).to(memory_format=last), inputs.to(memory_format=last), labels)
    for group_size in options.group_sizes:
        cases = {"plain": case, "plain_channels_last": in_channels_last, "potion_fast": case}
        passes = {"plain": plain(case), "plain_channels_last": plain(in_channels_last)}
        passes["potion_fast"] = importances(case, group_size)
        taken: dict[str, list[float]] = {name: [] for name in passes}
        for turn in range(options.rounds + 1):
            for name, run in passes.items():
                per_batch = seconds(cases[name], run, options.batches)
                if turn:  # the first one is a warm-up
                    taken[name].append(per_batch)
        plains, own = (taken["plain"], taken["plain_channels_last"]), taken["potion_fast"]
        ratios = [statistics.median(b / a for a, b in zip(times, own, strict=True)) for times in plains]
        yield {
            "network": network,
            "group_size": group_size,
            **{f"{name}_ms": round(1000 * statistics.median(times), 1) for name, times in taken.items()},
            "ratio": round(ratios[0], 3),
            "channels_last": round(ratios[1], 3),
            "fallback": len(pf.importance(case.model, [(inputs[:8], labels[:8])], group_size=1).fallback),
            "batch": options.batch,
            "pixels": options.pixels,
            "batches": options.batches,
            "rounds": options.rounds,
            "date": datetime.date.today().isoformat(),
            **versions("cpu"),
        }


def markdown(path: Path) -> str:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    first = rows[0]
    lines = [
        f"{first['hardware']}, one thread, float32, PyTorch {first['torch']}, {first['date']}; batch "
        f"{first['batch']}, {first['pixels']} pixels, medians of {first['rounds']} turns.",
        "",
        "| network | group size | plain, ms | potion_fast, ms | ratio | to a plain pass in channels-last memory | "
        "parameters without a rule |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        cells = ("network", "group_size", "plain_ms", "potion_fast_ms", "ratio", "channels_last", "fallback")
        lines.append("| " + " | ".join(row[cell] for cell in cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--markdown", action="store_true", help="print the table of a file")
    parser.add_argument("--networks", nargs="+", default=NETWORKS, metavar="NETWORK")
    parser.add_argument("--group-sizes", nargs="+", type=int, default=[1, 64], metavar="M")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--pixels", type=int, default=96)
    parser.add_argument("--batches", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    if options.markdown:
        print(markdown(options.out))
        return
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for network in options.networks:
        for row in measure(options, network):
            print({name: row[name] for name in list(row)[:8]}, file=sys.stderr)
            rows.append(row)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
