"""Importances of every layer and of random networks against the loop over groups in float64: exact, refused, or wrong.

    exactness.py OUT [--networks 2000] [--processes 2]    write what follows into OUT; exit with 1 if any is wrong
    exactness.py --markdown LAYERS.CSV NETWORKS.CSV       both as a table for a README

layers.csv: each layer over a grid of its options in which every pair of values of two options occurs, first in its
model and within it; groups of 1, 4 and the batch; |g| and g²; batches of 3 and all samples at once. A row for each kind
of layer and dtype. A group that comes alone, as the batch does, takes a plain backward pass. Float64 is exact to 1e-9
of a parameter's importances; one case of each kind is also tried in bfloat16 and float16, where twice the error of the
loop in that dtype is allowed. Columns count passes, `cases` the models.

networks.csv: random networks (`tests/helpers/random_networks.py`), by whether samples of a batch see each other, and by
the steps between layers that they hold. Network k is the same everywhere: `network(Random(k))`.

reasons.csv: what is said of the refused ones, and what of the wrong ones, with the first network.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

import torch

from potion_fast.user.run_folder import versions

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from helpers.layer_grid import CASES
from helpers.network_parts import ACTIVATIONS, MIXERS, PARAMETERS, WRAPPERS
from helpers.outcomes import BAD, GOOD, REFUSED, Outcome, outcome_of_network, outcomes_in_half, outcomes_of_case
from helpers.random_networks import network

KINDS = (*GOOD, *BAD)
STEPS = (*PARAMETERS, *ACTIVATIONS, *WRAPPERS, *MIXERS)
DTYPES = {"float64": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def kind_of(case: str) -> str:
    return case.split("(")[0]


def outcomes_of_layer(job: tuple[str, str]) -> list[Outcome]:
    """Of a case, by name, in a dtype."""
    name, dtype = job
    chosen = DTYPES[dtype]
    return outcomes_of_case(CASES[name]) if chosen is None else outcomes_in_half(CASES[name], chosen)


def outcome_of_seed(seed: int) -> Outcome:
    return outcome_of_network(network(Random(seed)))


def layer_rows(layers: list[str], processes: int) -> list[dict[str, object]]:
    chosen = [name for name in CASES if kind_of(name) in layers]
    one_of_each = {kind_of(name): name for name in chosen}.values()
    jobs = [(name, "float64") for name in chosen]
    jobs += [(name, dtype) for dtype in ("bfloat16", "float16") for name in one_of_each]
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for (name, dtype), found in zip(jobs, in_processes(outcomes_of_layer, jobs, processes), strict=True):
        count = counts[kind_of(name), dtype]
        count["cases"] += 1
        count.update(outcome.kind for outcome in found)
        report((f"{name} in {dtype}", outcome) for outcome in found if outcome.kind in BAD)
    return [{"layer": layer, "dtype": dtype, **numbers(count)} for (layer, dtype), count in counts.items()]


def network_rows(number: int, processes: int) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """By what the networks hold, and by what was said of them."""
    counts: dict[tuple[str, bool], Counter[str]] = defaultdict(Counter)
    reasons: dict[tuple[str, bool, str], list[int]] = defaultdict(list)
    for seed, outcome in enumerate(in_processes(outcome_of_seed, range(number), processes)):
        tried = network(Random(seed))
        for part in ["all", *sorted(set(tried.kinds).intersection(STEPS), key=STEPS.index)]:
            counts[part, tried.mixes].update(["cases", outcome.kind])
        if outcome.kind in (REFUSED, *BAD):
            reasons[outcome.kind, tried.mixes, re.sub(r"'[^']*'|\d+(\.\d+)?", "…", outcome.detail)].append(seed)
        report([(f"network {seed}", outcome)] if outcome.kind in BAD else [])
    parts = [("all", False), ("all", True)] + [(part, mixes) for part in STEPS for mixes in (False, True)]
    rows = [
        {"step": part, "mixes": mixes, **numbers(counts[part, mixes])} for part, mixes in parts if counts[part, mixes]
    ]
    said = [
        {"outcome": kind, "mixes": mixes, "networks": len(seeds), "first": seeds[0], "reason": reason}
        for (kind, mixes, reason), seeds in sorted(reasons.items(), key=lambda item: -len(item[1]))
    ]
    return rows, said


def in_processes(
    function: Callable[[Any], Outcome | list[Outcome]], jobs: Iterable[Any], processes: int
) -> Iterator[Any]:
    if processes == 1:
        yield from map(function, jobs)
        return
    with ProcessPoolExecutor(processes, get_context("spawn"), partial(torch.set_num_threads, 1)) as pool:
        yield from pool.map(function, jobs, chunksize=4)


def numbers(count: Counter[str]) -> dict[str, int]:
    return {"cases": count["cases"], **{kind: count[kind] for kind in KINDS}}


def report(found: Iterable[tuple[str, Outcome]]) -> None:
    for name, outcome in found:
        print(f"{name}: {outcome.kind}: {outcome.detail}", file=sys.stderr)


def write(path: Path, columns: list[str], rows: list[dict[str, object]]) -> None:
    made = {"date": str(datetime.date.today()), **versions("cpu")}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*columns, *made], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, **made} for row in rows)


def print_markdown(layers: Path, networks: Path) -> None:
    total: dict[str, Counter[str]] = defaultdict(Counter)
    for row in read(layers):
        total[f"passes over every layer, {row['dtype']}"].update({kind: int(row[kind]) for kind in KINDS})
    for row in read(networks):
        if row["step"] == "all":
            mixes = "a layer or loss mixes samples" if row["mixes"] == "True" else "no samples mix"
            total[f"random networks, {mixes}"].update({kind: int(row[kind]) for kind in KINDS})
    print("| | all | " + " | ".join(KINDS) + " |")
    print("|---|" + "---:|" * (1 + len(KINDS)))
    for name, count in total.items():
        print(f"| {name} | {count.total():,} | " + " | ".join(f"{count[kind]:,}" for kind in KINDS) + " |")


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path, metavar="OUT", help="folder")
    kinds = list(dict.fromkeys(map(kind_of, CASES)))
    parser.add_argument("--layers", nargs="+", choices=kinds, default=kinds, metavar="LAYER", help="all by default")
    parser.add_argument("--networks", type=int, default=2000, help="how many random networks")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--markdown", nargs=2, type=Path, metavar=("LAYERS.CSV", "NETWORKS.CSV"))
    options = parser.parse_args()
    if (options.out is None) == (options.markdown is None):
        parser.error("give either a folder or --markdown")
    if options.markdown:
        print_markdown(*options.markdown)
        return
    layers = layer_rows(options.layers, options.processes)
    networks, reasons = network_rows(options.networks, options.processes)
    write(options.out / "layers.csv", ["layer", "dtype", "cases", *KINDS], layers)
    write(options.out / "networks.csv", ["step", "mixes", "cases", *KINDS], networks)
    write(options.out / "reasons.csv", ["outcome", "mixes", "networks", "first", "reason"], reasons)
    found = Counter[str]()
    for row in [*layers, *(row for row in networks if row["step"] == "all")]:
        found.update({kind: int(str(row[kind])) for kind in KINDS})
    print(", ".join(f"{found[kind]} {kind}" for kind in KINDS))
    if any(found[kind] for kind in BAD):
        sys.exit("not all are exact or refused; see above and reasons.csv")


if __name__ == "__main__":
    main()
