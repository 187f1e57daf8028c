"""The profile of a step, in milliseconds: one trace and one table of a pass over a few batches.

    step_profile.py OUT.csv [--network ...] [--form ...] [--device cuda]     OUT.json is the trace, for chrome://tracing
    step_profile.py --markdown OUT.csv                                       the table for README.md

`ms` is device time per batch: on CUDA of kernels and copies, on a CPU of operations without those that they call; the
rest of the wall-clock time is that of the Python code between them. Batches are generated on the device; the first one,
which compiles kernels and checks rules, is left out.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from potion_fast.user.run_folder import versions

sys.path.insert(0, str(Path(__file__).resolve().parent))
from end_to_end import NETWORKS, PASSES, Batch, OnDevice, driver, now

from helpers.networks import with_statistics

# The first pattern that an event's name matches decides; kernels of the importances come before matrix products.
KINDS = {
    "importances of layers": r"accumulate_(linear|conv)|potion_fast::accumulate",
    "importances of norms": r"channel_sums|row_sums",
    "attention": r"attention|flash|fmha|sdpa",
    "convolutions": r"conv|cudnn|implicit_gemm|winograd",
    "matrix products": r"gemm|cutlass|addmm|aten::mm|bmm|matmul|linear|nvjet",
    "norm layers": r"norm",
    "copies": r"memcpy|memset|copy_|aten::to|contiguous|clone",
    "reductions": r"reduce|aten::sum|aten::mean|isfinite|aminmax|softmax",
    "the rest, element by element": r"",
}


def kind(name: str) -> str:
    return next(title for title, pattern in KINDS.items() if re.search(pattern, name, re.IGNORECASE))


class Watched:
    """Batches of which the first is outside the profile; counts the others' wall-clock seconds."""

    def __init__(self, data: OnDevice, batches: int, profiler: profile, cuda: bool) -> None:
        self.data, self.batches, self.profiler, self.cuda = data, batches, profiler, cuda
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Batch]:
        for number, batch in enumerate(self.data):
            if number == 1:
                start = now(self.cuda)
                self.profiler.start()
            if number > self.batches:
                break
            yield batch
        self.seconds = now(self.cuda) - start
        self.profiler.stop()


def measure(options: argparse.Namespace) -> Iterator[dict[str, object]]:
    network, device, cuda = NETWORKS[options.network], options.device, options.device == "cuda"
    torch.manual_seed(0)
    data = OnDevice(network, options.batch or network.batch, device)
    model = with_statistics(network.make().to(device), next(iter(data))[0])
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    profiler = profile(activities=activities, acc_events=True)  # PyTorch 2.11 warns where this is left out
    watched = Watched(data, options.batches, profiler, cuda)
    PASSES[options.form](model)(watched)
    profiler.export_chrome_trace(str(options.out.with_suffix(".json")))
    spent: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for event in profiler.key_averages():
        micro = event.self_device_time_total if cuda else event.self_cpu_time_total
        if micro > 0:
            spent[kind(event.key)] += micro
            calls[kind(event.key)] += event.count
    wall = 1e6 * watched.seconds
    spent["nothing on the device" if cuda else "outside operations"] = max(0, wall - sum(spent.values()))
    about = {"network": options.network, "form": options.form, "batch": len(data.labels), "batches": options.batches}
    versioned = {"driver": driver() if cuda else "", "date": datetime.date.today().isoformat(), **versions(device)}
    for title, micro in [*spent.most_common(), ("all", wall)]:
        yield {
            "what": title,
            "ms": round(micro / 1000 / options.batches, 3),
            "share": round(micro / wall, 4),
            "calls": round(calls[title] / options.batches, 1),
            **about,
            "device": device,
            **versioned,
        }


COLUMNS = [
    "what",
    "ms",
    "share",
    "calls",
    "network",
    "form",
    "batch",
    "batches",
    "device",
    "date",
    "hardware",
    "driver",
    "torch",
    "potion_fast",
    "python",
    "numpy",
    "platform",
]


def markdown(rows: list[dict[str, str]]) -> str:
    first = rows[0]
    lines = [
        f"{first['hardware']}, PyTorch {first['torch']}, {first['date']}; {NETWORKS[first['network']].title}, batch "
        f"{first['batch']}, `{first['form']}`, mean of {first['batches']} batches.",
        "",
        "| | ms | share | calls |",
        "|---|---:|---:|---:|",
    ]
    lines += [f"| {r['what']} | {r['ms']} | {100 * float(r['share']):.1f} % | {r['calls']} |" for r in rows]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="CSV", help="the file that is written, or read with --markdown")
    parser.add_argument("--markdown", action="store_true", help="print the table of a CSV instead of measuring")
    parser.add_argument("--network", choices=NETWORKS, default="vit_b16")
    parser.add_argument("--form", choices=PASSES, default="exact_amp")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--batch", type=int, help="instead of the network's own")
    parser.add_argument("--batches", type=int, default=5)
    options = parser.parse_args()
    if options.markdown:
        with options.out.open(newline="", encoding="utf-8") as file:
            print(markdown(list(csv.DictReader(file))), end="")
        return
    options.out.parent.mkdir(parents=True, exist_ok=True)
    rows = list(measure(options))
    with options.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
