"""The arithmetic of a search: K thresholds, their groups of weights and all K edits, by several methods.

    candidates.py OUT.csv [--networks ...] [--methods ...]     measure; one row per network and method
    candidates.py --markdown OUT.csv ...                       the table for README.md

No data and no forward pass: parameters of the network, and importances that are lognormal with 1 % 0/0 and 0.1 % x/0,
or (`--importances FORGET RETAIN`, files that `Importance.save` wrote) those of a trained network, repeated to its size.
The K percentiles lie evenly between 99.96 and 95.

All methods take turns in one process; `ms` is the median over the rounds. `sort` is slow and takes one turn. The public
code's algorithm is slower: only `--literal` candidates are timed, each a K-th of the work; `ms` is K times the median,
and `measured` is their number. `share` is the least number of bytes that a method has to move over its time, relative
to the bandwidth of copying an array in the same run. Results are compared first: the same thresholds and the same
weights to the bit, or no time.

`plan_mb` is the peak of resident memory while a plan is made, above that before it, which includes the means.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import datetime
import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
from torch import Tensor, nn

import potion_fast as pf
from potion_fast import ops
from potion_fast.bench.models import ResNet9
from potion_fast.user.run_folder import versions
from potion_fast.utils.model import fingerprint, trainable

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from helpers.networks import WideResNet
from helpers.ratios import public_edit

NETWORKS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "resnet9": ("ResNet-9", lambda: ResNet9(10, width=64)),
    "wrn": ("WRN-28-10", lambda: WideResNet(28, 10)),
    "vit_b16": ("ViT-B/16", lambda: timm.create_model("vit_base_patch16_224")),
    "vit_h14": ("ViT-H/14", lambda: timm.create_model("vit_huge_patch14_224.orig_in21k", num_classes=1000)),
}
FIRST, LAST = 99.96, 95.0  # percentiles of the first and the last candidate


@dataclass
class Case:
    """A network, its importances and the percentiles of its K candidates."""

    model: nn.Module
    forget: pf.Importance
    retain: pf.Importance
    percentiles: list[float]  # [K]

    @property
    def f(self) -> Tensor:  # [n]
        return self.forget.mean32

    @property
    def o(self) -> Tensor:  # [n]
        return self.retain.mean32

    @property
    def n(self) -> int:
        return len(self.forget.sums)


def lognormal(n: int, device: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator(device).manual_seed(0)
    f, o = (torch.empty(n, device=device).log_normal_(-8, 2, generator=generator) for _ in range(2))
    for start in range(0, n, 1 << 24):  # in parts, to spare memory
        part = slice(start, min(start + (1 << 24), n))
        chance = torch.rand(len(f[part]), generator=generator, device=device)
        o[part][chance < 0.011] = 0
        f[part][chance < 0.01] = 0
    return f, o


def repeated(path: Path, n: int, device: str) -> Tensor:
    sums = pf.Importance.load(path).mean32.to(device)
    return sums.repeat(-(-n // len(sums)))[:n].clone()


def make_case(options: argparse.Namespace, network: str) -> Case:
    torch.manual_seed(0)
    with torch.device(options.device):
        model = NETWORKS[network][1]()
    shapes = {name: tuple(p.shape) for name, p in trainable(model).items()}
    n, mark = sum(torch.Size(shape).numel() for shape in shapes.values()), fingerprint(model)
    if options.importances:
        f, o = (repeated(path, n, options.device) for path in options.importances)
    else:
        f, o = lognormal(n, options.device)
    forget, retain = (pf.Importance(sums, shapes, 1, 1, "xlf", 1, mark) for sums in (f, o))
    return Case(model, forget, retain, np.linspace(FIRST, LAST, options.candidates).tolist())


# --- The methods ----------------------------------------------------------------------------------------------------


Call = Callable[[], object]


@dataclass(frozen=True)
class Method:
    """A method, whose `prepare` gives the call that is timed.

    Attributes:
        bytes: (K, share of the parameters that the last candidate selects) -> the least number of bytes moved per
            parameter; 0 where that is of no use.
    """

    title: str
    prepare: Callable[[Case], Call]
    bytes: Callable[[int, float], float]
    by_candidate: bool = False  # slow: a call is one candidate, and only the first few are made
    once: bool = False  # slow: one turn


def copying(case: Case) -> Call:
    target = torch.empty_like(case.f)
    return lambda: target.copy_(case.f)


def adding(case: Case) -> Call:
    if case.f.is_cuda:
        target = torch.empty_like(case.f)
        return lambda: torch.add(case.f, case.o, out=target)
    f, o = case.f.numpy(), case.o.numpy()
    out = np.empty_like(f)
    return lambda: np.add(f, o, out=out)


def percentiles(case: Case) -> Call:
    return lambda: ops.select(case.f, case.o, case.percentiles)


def percentiles_and_groups(case: Case) -> Call:
    return lambda: ops.select_and_partition(case.f, case.o, case.percentiles, 1.0)


def plan(case: Case) -> Call:
    return lambda: pf.EditPlan.at_percentiles(case.model, case.forget, case.retain, case.percentiles)


def edits(case: Case) -> Call:
    edit_plan = pf.EditPlan.at_percentiles(case.model, case.forget, case.retain, case.percentiles)

    def run() -> None:
        for k in range(len(edit_plan)):
            edit_plan.apply(k)
        edit_plan.reset()

    return run


def search(case: Case) -> Call:
    def run() -> None:
        edit_plan = pf.EditPlan.at_percentiles(case.model, case.forget, case.retain, case.percentiles)
        for k in range(len(edit_plan)):
            edit_plan.apply(k)
        edit_plan.reset()

    return run


def numpy_percentiles(case: Case) -> Call:
    with np.errstate(all="ignore"):
        ratio = case.f.cpu().numpy() / case.o.cpu().numpy()
    ratio[~np.isfinite(ratio)] = np.nan
    return lambda: np.nanpercentile(ratio, case.percentiles)


def dense_edits(case: Case) -> Call:
    """One fused edit of all weights per candidate, from a copy of the originals."""
    original = torch.cat([p.detach().reshape(-1) for p in trainable(case.model).values()])
    weights = torch.empty_like(original)
    alphas = pf.thresholds(case.forget, case.retain, case.percentiles).tolist()

    def run() -> None:
        for alpha in alphas:
            weights.copy_(original)
            ops.dampen(weights, case.f, case.o, alpha)

    return run


def torch_sort(case: Case) -> Call:
    ratio = case.f / case.o
    ratio = ratio[torch.isfinite(ratio)]
    return lambda: torch.sort(ratio)


def torch_topk(case: Case) -> Call:
    ratio = case.f / case.o
    ratio = ratio[torch.isfinite(ratio)]
    wanted = int(len(ratio) * (1 - LAST / 100)) + 1
    return lambda: torch.topk(ratio, wanted, sorted=True)


def public_code(case: Case) -> Call:
    """The public code's algorithm: ratios to the host, one percentile, a copy of the model, an edit by tensor."""
    parameters = trainable(case.model)
    count = 0

    def run() -> None:
        nonlocal count
        p = np.float64(case.percentiles[count % len(case.percentiles)])
        count += 1
        with np.errstate(all="ignore"):
            parts = [(case.forget[name] / case.retain[name]).cpu().numpy().reshape(-1) for name in parameters]
            ratios = np.concatenate(parts)
            ratios = ratios[~np.isnan(ratios) & ~np.isinf(ratios)]
            alpha = float(np.nanpercentile(ratios, p))
        weights = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        for name, weight in weights.items():
            public_edit(weight, case.forget[name], case.retain[name], alpha)

    return run


METHODS = {
    "copy": Method("copy of one array", copying, lambda k, q: 8),
    "add": Method("`np.add(f, o, out=t)`", adding, lambda k, q: 12),
    "percentiles": Method("**K percentiles**", percentiles, lambda k, q: 8),
    "groups": Method("**K percentiles and groups**", percentiles_and_groups, lambda k, q: 8 + 24 * q),
    "plan": Method("**plan: percentiles, groups, values**", plan, lambda k, q: 8 + 60 * q),
    "edits": Method("**all K edits and the undo**", edits, lambda k, q: 24 * q),
    "search": Method("**all of it**", search, lambda k, q: 8 + 84 * q),
    "numpy": Method("`np.nanpercentile`, all K in one call, ratios given", numpy_percentiles, lambda k, q: 4),
    "topk": Method("`torch.topk` of the ratios, given", torch_topk, lambda k, q: 4),
    "sort": Method("`torch.sort` of the ratios, given", torch_sort, lambda k, q: 8, once=True),
    "dense": Method("one fused edit of everything per candidate", dense_edits, lambda k, q: 20 * k),
    "public_code": Method("public code's form", public_code, lambda k, q: 0, by_candidate=True),
}


# --- Results first --------------------------------------------------------------------------------------------------


def check(case: Case) -> None:
    """Thresholds equal to NumPy's and weights equal to the dense edit's, to the bit. Raises ArithmeticError."""
    alphas = pf.thresholds(case.forget, case.retain, case.percentiles)
    want = torch.from_numpy(np.asarray(numpy_percentiles(case)()).astype(np.float32))
    if not torch.equal(alphas.cpu(), want):
        raise ArithmeticError("the thresholds differ from NumPy's")
    edit_plan = pf.EditPlan.at_percentiles(case.model, case.forget, case.retain, case.percentiles)
    original = torch.cat([p.detach().reshape(-1) for p in trainable(case.model).values()])
    for k in (0, len(edit_plan) // 2, len(edit_plan) - 1):
        dense = original.clone()
        ops.dampen(dense, case.f, case.o, float(alphas[k]))
        edit_plan.apply(k)
        if not torch.equal(torch.cat([p.detach().reshape(-1) for p in trainable(case.model).values()]), dense):
            raise ArithmeticError(f"the weights of candidate {k} differ from those of a dense edit")
    edit_plan.reset()
    if not torch.equal(torch.cat([p.detach().reshape(-1) for p in trainable(case.model).values()]), original):
        raise ArithmeticError("the weights are not restored")


# --- Measuring ------------------------------------------------------------------------------------------------------


def seconds(call: Call, cuda: bool) -> float:
    if cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def plan_bytes(case: Case) -> int | None:
    """Peak of memory while a plan is made, above that before it; None where the system does not say."""
    make = plan(case)
    make()  # the means belong to the importances, and are computed once
    gc.collect()
    if case.f.is_cuda:
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        make()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    if sys.platform != "linux":
        return None
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = _resident("VmRSS")
    make()
    return _resident("VmHWM") - before


def _resident(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{key}:"))
    return 1024 * int(line.split()[1])


def measure(options: argparse.Namespace, network: str) -> Iterator[dict[str, object]]:
    cuda = options.device == "cuda"
    print(f"{network}: making it", file=sys.stderr)
    case = make_case(options, network)
    if not options.unchecked:
        print(f"{network}: results", file=sys.stderr)
        check(case)
    extra = plan_bytes(case)
    calls = {}
    often = [name for name in options.methods if not (METHODS[name].by_candidate or METHODS[name].once)]
    for name in options.methods:
        print(f"{network}: first call of {name}", file=sys.stderr)
        calls[name] = METHODS[name].prepare(case)
        if name in often:
            seconds(calls[name], cuda)
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(options.rounds):
        print(f"{network}: round {turn + 1} of {options.rounds}", file=sys.stderr)
        for name in often[turn % len(often) :] + often[: turn % len(often)]:
            taken[name].append(seconds(calls[name], cuda))
    for name in calls:
        if METHODS[name].once:
            taken[name] = [seconds(calls[name], cuda)]
        elif METHODS[name].by_candidate:
            taken[name] = [options.candidates * seconds(calls[name], cuda) for _ in range(options.literal)]
    median = {name: statistics.median(times) for name, times in taken.items()}
    bandwidth = 8 * case.n / median["copy"]
    for name, times in taken.items():
        low, high = np.quantile(times, [0.2, 0.8])
        least = METHODS[name].bytes(options.candidates, 1 - LAST / 100) * case.n
        yield {
            "network": network,
            "parameters": case.n,
            "method": name,
            "candidates": options.candidates,
            "ms": round(1000 * median[name], 3),
            "ms_20": round(1000 * float(low), 3),
            "ms_80": round(1000 * float(high), 3),
            "ratio": round(median[name] / median["add"], 3),
            "mb": round(least / 1e6) or "",
            "share": round(least / median[name] / bandwidth, 3) if least else "",
            "measured": options.literal if METHODS[name].by_candidate else options.candidates,
            "plan_mb": round(extra / 1e6) if extra is not None and name == "plan" else "",
            "rounds": options.rounds,
            "importances": "trained" if options.importances else "lognormal",
            "device": options.device,
            "threads": options.threads,
            "date": datetime.date.today().isoformat(),
            **versions(options.device),
        }


COLUMNS = [
    "network",
    "parameters",
    "method",
    "candidates",
    "ms",
    "ms_20",
    "ms_80",
    "ratio",
    "mb",
    "share",
    "measured",
    "plan_mb",
    "rounds",
    "importances",
    "device",
    "threads",
    "date",
    "hardware",
    "torch",
    "potion_fast",
    "python",
    "numpy",
    "platform",
]


def write(options: argparse.Namespace) -> None:
    """A network's rows are written as soon as all its methods are measured."""
    options.out[0].parent.mkdir(parents=True, exist_ok=True)
    with options.out[0].open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        for network in options.networks:
            writer.writerows(measure(options, network))
            file.flush()


# --- The table ------------------------------------------------------------------------------------------------------


def print_markdown(paths: list[Path]) -> None:
    """Methods down, networks across: milliseconds, and how many times `np.add` that is."""
    for path in paths:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        networks = list(dict.fromkeys(row["network"] for row in rows))
        cells = {(row["method"], row["network"]): row for row in rows}
        first = rows[0]
        threads = f"{first['threads']} thread" + "s" * (first["threads"] != "1")
        print(
            f"{first['hardware']}, {threads}, PyTorch {first['torch']}, {first['date']}; K = {first['candidates']}, "
            f"{first['importances']} importances, medians of {first['rounds']} rounds; in brackets, times `np.add`.\n"
        )
        heads = [f"{NETWORKS[n][0]}, {int(cells['copy', n]['parameters']) / 1e6:.1f} M" for n in networks]
        print("| ms | " + " | ".join(heads) + " |")
        print("|---|" + "---:|" * len(networks))
        for method in dict.fromkeys(row["method"] for row in rows):
            print(f"| {METHODS[method].title} | " + " | ".join(cell(cells.get((method, n))) for n in networks) + " |")
        memory = [cells["plan", n] for n in networks if ("plan", n) in cells and cells["plan", n]["plan_mb"]]
        if memory:
            parts = [
                f"{float(row['plan_mb']) / (4 * int(row['parameters']) / 1e6):.2f} ({NETWORKS[row['network']][0]})"
                for row in memory
            ]
            print(f"\nPeak memory of making a plan, as part of the weights' own: {', '.join(parts)}.")
        print()


def cell(row: dict[str, str] | None) -> str:
    if row is None:
        return ""
    text = f"{float(row['ms']):,.1f} ({float(row['ratio']):,.2f})"
    return text if row["measured"] == row["candidates"] else f"{text}, from {row['measured']} of {row['candidates']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="+", metavar="CSV", help="written, or read with --markdown")
    parser.add_argument("--markdown", action="store_true", help="print the tables of CSVs instead of measuring")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["resnet9", "wrn", "vit_b16"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--candidates", type=int, default=32, help="K")
    parser.add_argument("--literal", type=int, default=2, help="candidates of the public code's form that are timed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--importances", nargs=2, type=Path, metavar=("FORGET", "RETAIN"))
    parser.add_argument("--unchecked", action="store_true", help="do not compare the results first")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options = parser.parse_args()
    if options.markdown:
        print_markdown(options.out)
        return
    if len(options.out) != 1 or options.candidates < 1 or options.literal < 1 or options.rounds < 1:
        parser.error("it takes one CSV, and at least one candidate and one round")
    options.methods = [name for name in METHODS if name in options.methods or name in ("copy", "add")]
    torch.set_num_threads(options.threads)
    write(options)


if __name__ == "__main__":
    main()
