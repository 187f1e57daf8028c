"""The cost model compared with real runs: predicted over measured, on 1, 2 and 4 processes.

    costs.py OUT.csv [--processes ...]     measure; a row for each model, number of processes and quantity
    costs.py --markdown OUT.csv            the table for docs/cost-model.md

In every round rank 0 calibrates alone, and all ranks then run what the rates predict: `importance` over both sets with
a ShareSampler, and `ptn_search` over K candidates. One thread per process, gloo as the backend. With fewer cores than
processes, the predicted wall-clock times are those of a share of a core. While other programs run, use `--clock cpu`,
which calibrates and measures CPU seconds, the time of a process on a core of its own.

A value is the median over the rounds; `ratio` is the median of the ratio of each round. `cores` is the mean number of
cores that a process had while it computed, CPU time over wall time: below 1, or cores / processes, other programs ran
too. Bytes are counted on the loopback interface (Linux) for all ranks together, TCP headers included, and divided by
the number of ranks. Memory is the peak of all tensors, without the model.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import math
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing import start_processes
from torch.utils.data import DataLoader, TensorDataset

import potion_fast as pf
from potion_fast.bench.costs import (
    Network,
    Rates,
    Work,
    calibrate,
    costs,
    link_rates,
    made,
    memory,
    network_named,
    samples,
)
from potion_fast.bench.costs.format import BYTES, TIMES, amount
from potion_fast.distributed import ShareSampler
from potion_fast.user.run_folder import versions
from potion_fast.utils.memory import peak_of

T = TypeVar("T")


@dataclass(frozen=True)
class Case:
    """A model by name, the shape of its samples, its options and the work of unlearning."""

    title: str
    name: str
    shape: tuple[int, ...]
    options: dict[str, int]
    work: Work

    @cached_property
    def network(self) -> Network:
        return network_named(self.name, 10, self.shape, self.options)


CASES = {
    "resnet9": Case("ResNet-9, width 16", "resnet9", (3, 32, 32), {"width": 16}, Work(512, 64, 16, 32)),
    "vit": Case("ViT-Tiny/16", "timm:vit_tiny_patch16_224", (3, 96, 96), {"img_size": 96}, Work(64, 16, 8, 8)),
}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
COLUMNS = [
    "model",
    "processes",
    "clock",
    "quantity",
    "unit",
    "predicted",
    "measured",
    "ratio",
    "ratio_20",
    "ratio_80",
    "cores",
    "rounds",
    "machine_cores",
    "date",
    "hardware",
    "torch",
    "potion_fast",
    "python",
    "numpy",
    "platform",
]


def sent() -> int:
    """Bytes that the loopback interface has sent so far."""
    line = next(row for row in Path("/proc/net/dev").read_text().splitlines() if row.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[8])


class Stopwatch:
    """Seconds of calls that all ranks begin together: of the slowest rank, and CPU seconds of this process."""

    def __init__(self, clock: str) -> None:
        self.clock = CLOCKS[clock]
        self.seconds: dict[str, float] = {}
        self.wall = self.cpu = 0.0

    def __call__(self, phase: str, call: Callable[[], T]) -> T:
        barrier()
        start, wall, cpu = self.clock(), time.perf_counter(), time.process_time()
        result = call()
        own = self.clock() - start
        self.wall, self.cpu = self.wall + time.perf_counter() - wall, self.cpu + time.process_time() - cpu
        seconds = [own] * (dist.get_world_size() if dist.is_initialized() else 1)
        if dist.is_initialized():
            dist.all_gather_object(seconds, own)
        self.seconds[phase] = max(seconds)
        return result


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def one_round(model: nn.Module, sets: dict[str, TensorDataset], work: Work, watch: Stopwatch) -> None:
    """Both passes and a search of K candidates, shared among the ranks."""

    def share(which: str) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(sets[which], batch_size=work.batch, sampler=ShareSampler(sets[which]))

    forget = watch("forget pass", lambda: pf.importance(model, share("forget"), group_size=work.m))
    retain = watch("retain pass", lambda: pf.importance(model, share("retain"), group_size=work.m))
    found = DataLoader(sets["forget"], batch_size=work.batch)
    search = partial(pf.ptn_search, strict=True, rho=0.0, max_steps=work.steps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pf.PotionWarning)  # no accuracy is below 0: the search takes all its steps
        watch("search", lambda: search(model, forget, retain, found))


def predicted(case: Case, rates: Rates, processes: int, cores: int) -> dict[str, float]:
    """The model's prediction of the measured quantities; processes that share cores share their speed."""
    shared = min(1.0, cores / processes)
    by_device = {name: shared * getattr(rates, name) for name in ("pass_flops", "forward_flops", "plan", "edit")}
    cost = costs(case.network, case.work, replace(rates, **by_device), processes)
    seconds = {phase: cost.seconds[phase] + cost.seconds["all-reduce"] / 2 for phase in ("forget pass", "retain pass")}
    seconds["search"] = sum(cost.seconds[phase] for phase in ("plan", "edits", "evaluation"))
    return {**seconds, "total": cost.total, "sent in both passes": sum(cost.sent.values())}


def rank_of(
    rank: int, processes: int, name: str, clock: str, rounds: int, link: float, cores: int, folder: str
) -> None:
    """Run one of the processes; rank 0 writes predictions and measurements."""
    torch.set_num_threads(1)
    if processes > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=processes)
    case, measured = CASES[name], []
    torch.manual_seed(0)
    model = made(case.name, 10, case.shape, case.options)
    sets = {}
    for which, count in {"forget": case.work.found, "retain": case.work.samples}.items():
        inputs = samples(count, case.shape, "cpu")
        with torch.no_grad():  # labels that the model gives: a search of samples that it has not learnt does nothing
            sets[which] = TensorDataset(inputs, torch.cat([model(part).argmax(1) for part in inputs.split(64)]))
    batch = samples(case.work.batch, case.shape, "cpu")
    for _ in range(rounds):
        barrier()
        if rank == 0:
            rates = calibrate(model, case.network, batch, case.work, seconds=1.0, clock=CLOCKS[clock])
            rates = replace(rates, links={processes: link} if processes > 1 else {})
        watch, before = Stopwatch(clock), sent()
        one_round(model, sets, case.work, watch)
        amounts = {**watch.seconds, "total": sum(watch.seconds.values()), "cores": watch.cpu / watch.wall}
        amounts["sent in both passes"] = (sent() - before) / processes
        if rank == 0:
            measured.append([predicted(case, rates, processes, cores), amounts])
            print(name, processes, *measured[-1], file=sys.stderr)
    if rank == 0:
        if processes == 1:
            measured.append(memory_of(model, sets, case))
        Path(folder, "measured").write_text(json.dumps(measured), encoding="ascii")


def memory_of(
    model: nn.Module, sets: dict[str, TensorDataset], case: Case
) -> tuple[dict[str, float], dict[str, float]]:
    """Bytes in addition to the model and, in the search, to the sums, which the caller holds."""
    predicted_bytes, weights = memory(case.network, case.work), 4 * case.network.parameters
    loaders = {which: DataLoader(data, batch_size=case.work.batch) for which, data in sets.items()}
    forget = pf.importance(model, loaders["forget"], group_size=case.work.m)
    with peak_of(torch.device("cpu")) as of_pass:
        retain = pf.importance(model, loaders["retain"], group_size=case.work.m)
    with peak_of(torch.device("cpu")) as of_search, warnings.catch_warnings():
        warnings.simplefilter("ignore", pf.PotionWarning)
        pf.ptn_search(model, forget, retain, loaders["forget"], strict=True, rho=0.0, max_steps=1)
    return [
        {
            "memory of the pass": predicted_bytes["pass"] - 2 * weights,
            "memory of the search": predicted_bytes["search"] - 3 * weights,
        },
        {"memory of the pass": of_pass[0], "memory of the search": of_search[0]},
    ]


def measure(options: argparse.Namespace, name: str, processes: int) -> Iterator[dict[str, object]]:
    cores = len(os.sched_getaffinity(0)) if options.clock == "wall" else processes
    links = link_rates([processes], CASES[name].network.parameters)
    get_context("forkserver").set_forkserver_preload(["potion_fast.bench.costs", "timm"])
    with tempfile.TemporaryDirectory() as folder:
        arguments = (processes, name, options.clock, options.rounds, links.get(processes, 0.0), cores, folder)
        start_processes(rank_of, arguments, nprocs=processes, start_method="forkserver")
        rounds = json.loads(Path(folder, "measured").read_text(encoding="ascii"))
    machine = {
        "machine_cores": len(os.sched_getaffinity(0)),
        "date": datetime.date.today().isoformat(),
        **versions("cpu"),
    }
    busy = statistics.median(amounts["cores"] for _, amounts in rounds if "cores" in amounts)
    for quantity in dict.fromkeys(quantity for prediction, _ in rounds for quantity in prediction):
        pairs = [(prediction[quantity], amounts[quantity]) for prediction, amounts in rounds if quantity in prediction]
        ratios = [first / second if second else math.nan for first, second in pairs]
        low, high = np.quantile(ratios, [0.2, 0.8])
        first, second = (statistics.median(column) for column in zip(*pairs, strict=True))
        if not first and processes == 1:
            continue  # nothing is sent
        yield {
            "model": CASES[name].title,
            "processes": processes,
            "clock": options.clock,
            "quantity": quantity,
            "unit": "s" if quantity.endswith(("pass", "search", "total")) and "memory" not in quantity else "bytes",
            "predicted": f"{first:.6g}",
            "measured": f"{second:.6g}",
            "ratio": f"{statistics.median(ratios):.3f}",
            "ratio_20": f"{low:.3f}",
            "ratio_80": f"{high:.3f}",
            "cores": f"{busy:.2f}",
            "rounds": len(pairs),
            **machine,
        }


def print_markdown(path: Path) -> None:
    """Predicted over measured: quantities down, models and processes across."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = list(dict.fromkeys((row["model"], row["processes"], row["clock"]) for row in rows))
    cells = {(row["quantity"], row["model"], row["processes"], row["clock"]): row for row in rows}
    print("| predicted / measured | " + " | ".join(f"{model}, {n}, {clock}" for model, n, clock in columns) + " |")
    print("|---|" + "---:|" * len(columns))
    for quantity in dict.fromkeys(row["quantity"] for row in rows):
        print(f"| {quantity} | " + " | ".join(cell(cells.get((quantity, *column))) for column in columns) + " |")


def cell(row: dict[str, str] | None) -> str:
    if row is None:
        return ""
    kind = TIMES if row["unit"] == "s" else BYTES
    return f"**{float(row['ratio']):.2f}** ({amount(float(row['measured']), kind)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="CSV", help="written, or read with --markdown")
    parser.add_argument("--markdown", action="store_true", help="print the table of a CSV instead of measuring")
    parser.add_argument("--models", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: CPU seconds, of the slowest rank")
    parser.add_argument("--append", action="store_true", help="add to the CSV")
    options = parser.parse_args()
    if options.markdown:
        print_markdown(options.out)
        return
    options.out.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    with options.out.open("a" if options.append else "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if not options.append:
            writer.writeheader()
        for name, processes in product(options.models, options.processes):
            writer.writerows(measure(options, name, processes))
            file.flush()


if __name__ == "__main__":
    main()
