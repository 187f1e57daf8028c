"""A pass over a batch: the cost of Σ_k |∂ℓ_k/∂θ| relative to a plain forward and backward, by several methods.

    passes.py OUT.csv [--networks ...] [--methods ...]     measure; one row per network and method
    passes.py --markdown OUT.csv                           the table for README.md

Time: all methods take turns in one process, so that a change of the machine's load affects them alike. In its turn a
method makes one pass over `--batches` batches (the same one every time) and is timed from its request for the second
batch to its request past the last. One-time work of a pass (allocating, checking the rules) is in `call_ms`: everything
in the call that is not `batches` times the time per batch. `compiled=True` compiles within its third batch, so its
calls have two more. `ms` is the median over the rounds, `ratio` the quotient of medians to the plain pass.

Memory: the peak of a pass in addition to model and batch. On a CPU each method runs in a process of its own, before
the timing, and peak resident memory is read from /proc (Linux only); on CUDA it is the allocator's peak.

No speed without a right result: the sums of every method over the timed batch are compared with the loop's, tensor by
tensor, and `error` is the worst ‖got - want‖₁ / ‖want‖₁. Above the tolerance a method is not timed. Where a method
does not support some tensors, `covered` of `tensors` says so: its time is that of less work.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import ctypes
import datetime
import gc
import importlib.metadata
import math
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import torch

import potion_fast as pf
from potion_fast.user.run_folder import versions

sys.path.insert(0, str(Path(__file__).resolve().parent))
from pass_methods import METHODS, NETWORKS, Batch, Case, Pass, Sums, loop, make_case, missing, plain, plain_compiled

# A batch at once and one sample at a time differ by rounding alone: up to 6e-3 in a tensor of WRN-28-10 in float32 (two
# samples; 1e-15 in float64). A wrong sum, of tokens taken for samples say, differs by a third or more.
TOLERANCE = {"float32": 1e-2, "bfloat16": 1e-1}


# --- Measuring ------------------------------------------------------------------------------------------------------


class Clock:
    """The same batch again and again, with the times at which it was requested and the time of the end."""

    def __init__(self, case: Case, batches: int) -> None:
        self.case, self.batches = case, batches
        self.times: list[float] = []

    def __iter__(self) -> Iterator[Batch]:
        self.times = []
        for _ in range(self.batches):
            self.times.append(self.now())
            yield self.case.inputs, self.case.labels
        self.times.append(self.now())

    def now(self) -> float:
        if self.case.inputs.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()


def seconds(case: Case, run: Pass, batches: int, first: int) -> tuple[float, float]:
    """(seconds per batch, of the `batches` - 1 after the first ones; the rest of the call)."""
    clock = Clock(case, first + batches - 1)
    start = clock.now()
    run(clock)
    stop = clock.now()
    per_batch = (clock.times[-1] - clock.times[first]) / (batches - 1)
    return per_batch, stop - start - clock.batches * per_batch


def extra_bytes(case: Case, run: Pass, batches: int) -> int | None:
    """Peak of memory in a pass, above that before it; None where the system does not say."""
    data = [(case.inputs, case.labels)] * batches
    if case.inputs.is_cuda:
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run(data)
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    if sys.platform != "linux":
        return None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # freed memory that is kept would hide what the pass allocates
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = _proc("/proc/self/status", "VmRSS")
    run(data)
    return _proc("/proc/self/status", "VmHWM") - before


def extra_bytes_alone(options: argparse.Namespace, network: str, method: str) -> int | None:
    """The same, called in a process of its own.

    Plain passes come first: the libraries' own set-up is attributed to no method. A method with
    a slow start gets a first call.
    """
    _quiet()
    torch.set_num_threads(options.threads)
    if sys.platform == "linux":  # an error here, instead of the kernel choosing whom to end
        limit = _proc("/proc/self/status", "VmSize") + int(0.9 * _proc("/proc/meminfo", "MemAvailable"))
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    case, first = case_of(options, network), METHODS[method].first
    run = METHODS[method].prepare(case)
    plain(case)([(case.inputs[:2], case.labels[:2])])
    if METHODS[method].slow_start:
        run([(case.inputs, case.labels)] * first)
    return extra_bytes(case, run, first + 1)


def _quiet() -> None:
    """Other libraries' warnings are not ours to mend; our own stay."""
    warnings.simplefilter("ignore")
    warnings.simplefilter("default", pf.PotionWarning)


def _proc(path: str, key: str) -> int:
    """Bytes behind `key` in one of the kernel's tables, which count in kB."""
    line = next(line for line in Path(path).read_text().splitlines() if line.startswith(f"{key}:"))
    return 1024 * int(line.split()[1])


def worst_error(got: Sums, want: Sums) -> tuple[float, str]:
    """The largest ‖got - want‖₁ / ‖want‖₁ of a tensor, and its name; infinite where a result is not finite."""
    errors = {n: float((got[n] - want[n]).abs().sum() / want[n].sum().clamp_min(1e-30)) for n in got}
    return max((e if math.isfinite(e) else math.inf, name) for name, e in errors.items())


def case_of(options: argparse.Namespace, network: str) -> Case:
    batch = options.batch or NETWORKS[network].batch[options.device]
    return make_case(network, batch, options.device, options.amp, options.channels_last)


def measure(options: argparse.Namespace, network: str) -> Iterator[dict[str, object]]:
    """One row per method; `note` says why one has no time."""
    rows: dict[str, dict[str, object]] = {name: {"note": missing(name)} for name in options.methods}
    if options.device == "cpu":
        for name in _able(rows):
            print(f"{network}: memory of {name}", file=sys.stderr)
            with _noted(rows[name]), ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
                rows[name]["extra_mb"] = _mb(alone.submit(extra_bytes_alone, options, network, name).result())

    case = case_of(options, network)
    want = loop(case)([(case.inputs, case.labels)])
    passes: dict[str, Pass] = {}
    for name in _able(rows):
        print(f"{network}: result of {name}", file=sys.stderr)
        with _noted(rows[name]):
            start, first = time.perf_counter(), METHODS[name].first
            run = METHODS[name].prepare(case)
            got = {n: sums / first for n, sums in run([(case.inputs, case.labels)] * first).items()}
            if METHODS[name].slow_start:
                rows[name]["first_call_s"] = round(time.perf_counter() - start)
            if METHODS[name].prepare not in (plain, plain_compiled):
                error, worst = worst_error(got, want)
                rows[name] |= {"covered": len(got), "tensors": len(want), "error": f"{error:.1e}"}
                if not error <= TOLERANCE[case.precision]:
                    raise ArithmeticError(f"wrong by {error:.1e} of the loop's result in {worst}")
            del got
            if options.device == "cuda":
                rows[name]["extra_mb"] = _mb(extra_bytes(case, run, first + 1))
            passes[name] = run

    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in passes}
    order = list(passes)
    for turn in range(options.rounds):
        print(f"{network}: round {turn + 1} of {options.rounds}", file=sys.stderr)
        for name in order[turn % len(order) :] + order[: turn % len(order)]:
            taken[name].append(seconds(case, passes[name], options.batches, METHODS[name].first))
    median = {name: statistics.median(per_batch for per_batch, _ in taken[name]) for name in passes}
    for name in passes:
        per_batch = torch.tensor([s for s, _ in taken[name]], dtype=torch.float64)
        low, high = per_batch.quantile(torch.tensor([0.2, 0.8], dtype=torch.float64)).tolist()
        rows[name] |= {
            "ms": _ms(median[name]),
            "ms_20": _ms(low),
            "ms_80": _ms(high),
            "ratio": round(median[name] / median["plain"], 3),
            "call_ms": _ms(statistics.median(rest for _, rest in taken[name])),
        }
    about = {
        "network": network,
        "batch": len(case.inputs),
        "batches": options.batches,
        "rounds": options.rounds,
        "device": options.device,
        "precision": case.precision,
        "channels_last": options.channels_last,
        "threads": options.threads,
        "date": datetime.date.today().isoformat(),
        **versions(options.device),
    }
    for name, row in rows.items():
        package = METHODS[name].package
        version = f"{package} {importlib.metadata.version(package)}" if package and not missing(name) else ""
        yield {"method": name, **row, "package": version, **about}


def _able(rows: dict[str, dict[str, object]]) -> list[str]:
    return [name for name, row in rows.items() if not row["note"]]


@contextlib.contextmanager
def _noted(row: dict[str, object]) -> Iterator[None]:
    """A method that fails loses its time, not the run: its row says why."""
    try:
        yield
    except BrokenProcessPool:
        row["note"] = "its process was ended, most likely for lack of memory"
    except Exception as error:
        row["note"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    if row["note"]:
        print(f"  {row['note']}", file=sys.stderr)


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 2)


def _mb(count: int | None) -> object:
    return "" if count is None else round(count / 1e6)


COLUMNS = [
    "network",
    "method",
    "batch",
    "ms",
    "ms_20",
    "ms_80",
    "ratio",
    "extra_mb",
    "call_ms",
    "first_call_s",
    "covered",
    "tensors",
    "error",
    "note",
    "batches",
    "rounds",
    "device",
    "precision",
    "channels_last",
    "threads",
    "date",
    "hardware",
    "torch",
    "package",
    "potion_fast",
    "python",
    "numpy",
    "platform",
]


def write(options: argparse.Namespace) -> None:
    """A network's rows are written as soon as all its methods are measured."""
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        for network in options.networks:
            writer.writerows(measure(options, network))
            file.flush()


# --- The table ------------------------------------------------------------------------------------------------------


def print_markdown(path: Path) -> None:
    """Methods down, networks across: ratio to the plain pass, extra memory, and the share of the tensors covered."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    networks = list(dict.fromkeys(row["network"] for row in rows))
    cells = {(row["method"], row["network"]): row for row in rows}
    heads = [f"{NETWORKS[n].title}, batch {cells['plain', n]['batch']}" for n in networks]
    first = rows[0]
    print(
        f"{first['hardware']}, {first['precision']}, PyTorch {first['torch']}, {first['date']}; "
        f"medians of {first['rounds']} rounds, {int(first['batches']) - 1} batches each.\n"
    )
    print("| Σ\\|g\\| | " + " | ".join(heads) + " |")
    print("|---|" + "---:|" * len(networks))
    for method in dict.fromkeys(row["method"] for row in rows):
        version = next((row["package"] for row in rows if row["method"] == method and row["package"]), "")
        title = METHODS[method].title + (f" ({version})" if version else "")
        print(f"| {title} | " + " | ".join(cell(cells.get((method, network))) for network in networks) + " |")


def cell(row: dict[str, str] | None) -> str:
    if row is None:
        return ""
    if not row["ratio"]:
        return row["note"].replace("|", "\\|")
    if row["method"] == "plain":
        time = f"{float(row['ratio']):.2f} ({float(row['ms']):.0f} ms)"
    else:
        time = f"{float(row['ratio']):.2f}"
    parts = [time]
    if row["extra_mb"]:
        parts.append(f"{int(row['extra_mb']):,} MB")
    if row["covered"] != row["tensors"]:
        parts.append(f"{row['covered']} of {row['tensors']} tensors")
    if row["first_call_s"]:
        parts.append(f"first call {row['first_call_s']} s")
    return ", ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="CSV", help="the file that is written, or read with --markdown")
    parser.add_argument("--markdown", action="store_true", help="print the table of a CSV instead of measuring")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--methods", nargs="+", choices=METHODS, metavar="NAME", help=f"of {', '.join(METHODS)}")
    parser.add_argument("--compile", action="store_true", help="those that compile too: minutes per network")
    parser.add_argument("--rounds", type=int, default=7, help="turns of every method")
    parser.add_argument("--batches", type=int, default=3, help="batches of a timed pass; the first is left out")
    parser.add_argument("--batch", type=int, help="samples of a batch, instead of each network's own number")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--amp", action="store_true", help="bfloat16 by autocast")
    parser.add_argument("--channels-last", action="store_true", help="channels-last memory for images and weights")
    options = parser.parse_args()
    if options.markdown:
        print_markdown(options.out)
        return
    if options.rounds < 1 or options.batches < 2:
        parser.error("it takes at least one round, and two batches, of which the first is left out")
    chosen = options.methods or [name for name in METHODS if options.compile or not METHODS[name].slow_start]
    options.methods = [name for name in METHODS if name in chosen or name == "plain"]
    _quiet()
    torch.set_num_threads(options.threads)
    write(options)


if __name__ == "__main__":
    main()
