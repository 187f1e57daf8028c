"""A pass over the data by several processes, compared with one: time and bytes sent, ResNet-9 on CPUs.

    ranks.py OUT.csv [--processes 2 ...]    measure
    ranks.py --markdown OUT.csv             the table for docs/cost-model.md

Inputs have CIFAR-10's shape. In every round one process makes the whole pass while the others wait, then all share it,
with one thread per process and gloo as the backend. Seconds are medians over the rounds, of the slowest rank; `ratio`
is the median of the ratio of each round. Bytes are counted on the loopback interface (Linux), TCP headers included, and
divided by the number of ranks.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from costs import sent
from torch.multiprocessing import start_processes
from torch.utils.data import DataLoader, TensorDataset

import potion_fast as pf
from potion_fast.bench.models import create_model
from potion_fast.distributed import ShareSampler
from potion_fast.user.run_folder import versions

COLUMNS = [
    "processes",
    "samples",
    "parameters",
    "seconds_one",
    "seconds",
    "ratio",
    "ratio_20",
    "ratio_80",
    "sent",
    "rounds",
    "date",
    "hardware",
    "torch",
    "potion_fast",
    "python",
    "numpy",
    "platform",
]


def seconds_of(model: torch.nn.Module, loader: DataLoader[tuple[torch.Tensor, ...]], alone: bool) -> float:
    """Seconds of the slowest rank, or of rank 0 while the others wait."""
    dist.barrier()
    start = time.perf_counter()
    if not alone or dist.get_rank() == 0:
        pf.importance(model, loader, group_size=16, process_group=False if alone else None)
    seconds = [0.0] * dist.get_world_size()
    dist.all_gather_object(seconds, time.perf_counter() - start)
    return seconds[0] if alone else max(seconds)


def rank_of(rank: int, processes: int, samples: int, rounds: int, folder: str) -> None:
    """Run one of the processes; rank 0 writes a line per round: seconds of one, seconds of all, bytes of all."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=processes)
    torch.manual_seed(0)
    model = create_model("resnet9", 10, 3, width=16)
    data = TensorDataset(torch.randn(samples, 3, 32, 32), torch.zeros(samples, dtype=torch.int64))
    whole, share = DataLoader(data, batch_size=32), DataLoader(data, batch_size=32, sampler=ShareSampler(data))
    lines = []
    for _ in range(rounds + 1):
        alone = seconds_of(model, whole, alone=True)
        before = sent()
        together = seconds_of(model, share, alone=False)
        lines.append(f"{alone} {together} {sent() - before}")
    if rank == 0:
        Path(folder, "measured").write_text("\n".join(lines[1:]), encoding="ascii")  # the first round warms up
    dist.destroy_process_group()


def measure(processes: int, samples: int, rounds: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        start_processes(rank_of, (processes, samples, rounds, folder), nprocs=processes, start_method="forkserver")
        lines = Path(folder, "measured").read_text(encoding="ascii").splitlines()
    alone, together, bytes_sent = zip(*(map(float, line.split()) for line in lines), strict=True)
    ratios = sorted(shared / single for single, shared in zip(alone, together, strict=True))
    parameters = sum(p.numel() for p in create_model("resnet9", 10, 3, width=16).parameters())
    return {
        "processes": processes,
        "samples": samples,
        "parameters": parameters,
        "rounds": rounds,
        "seconds_one": f"{statistics.median(alone):.4g}",
        "seconds": f"{statistics.median(together):.4g}",
        "ratio": f"{statistics.median(ratios):.3f}",
        "ratio_20": f"{ratios[rounds // 5]:.3f}",
        "ratio_80": f"{ratios[-1 - rounds // 5]:.3f}",
        "sent": f"{statistics.median(bytes_sent) / processes:.0f}",
        "date": datetime.date.today().isoformat(),
        **versions("cpu"),
    }


def print_markdown(path: Path) -> None:
    print("| processes | one process | together | ratio | sent by each | over 4 P bytes |")
    print("|---:|---:|---:|---:|---:|---:|")
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            sent_each = float(row["sent"])
            print(
                f"| {row['processes']} | {row['seconds_one']} s | {row['seconds']} s | **{float(row['ratio']):.2f}** "
                f"({row['ratio_20']} to {row['ratio_80']}) | {sent_each / 1e6:.3g} MB | "
                f"{sent_each / 4 / float(row['parameters']):.2f} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="CSV", help="written, or read with --markdown")
    parser.add_argument("--markdown", action="store_true", help="print the table of a CSV instead of measuring")
    parser.add_argument("--processes", nargs="+", type=int, default=[2])
    parser.add_argument("--samples", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.markdown:
        print_markdown(options.out)
        return
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for processes in options.processes:
            writer.writerow(measure(processes, options.samples, options.rounds))
            file.flush()


if __name__ == "__main__":
    main()
