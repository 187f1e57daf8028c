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
import copy
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
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

import potion_fast as pf
from potion_fast.bench.models import ResNet9
from potion_fast.bench.runs.folder import versions
from potion_fast.importances.compiled import EAGER_BATCHES

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from helpers.networks import WideResNet, small_vit, with_statistics

Batch = tuple[Tensor, Tensor]
Sums = dict[str, Tensor]  # parameter -> Σ_k |∂ℓ_k/∂θ|, in its shape; parameters that a method cannot do are missing
Pass = Callable[[Iterable[Batch]], Sums]

CHUNK = 8  # samples of vmap_chunks
# A batch at once and one sample at a time differ by rounding alone: up to 6e-3 in a tensor of WRN-28-10 in float32 (two
# samples; 1e-15 in float64). A wrong sum, of tokens taken for samples say, differs by a third or more.
TOLERANCE = {"float32": 1e-2, "bfloat16": 1e-1}


# --- The networks ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Network:
    title: str
    make: Callable[[], nn.Module]
    pixels: int
    batch: dict[str, int]  # by device


NETWORKS = {
    "resnet9": Network("ResNet-9", lambda: ResNet9(10, width=64), 32, {"cpu": 64, "cuda": 512}),
    "wrn": Network("WRN-28-10", lambda: WideResNet(28, 10), 32, {"cpu": 16, "cuda": 512}),
    "vit": Network("ViT, width 192, 4 blocks", small_vit, 32, {"cpu": 32, "cuda": 512}),
    "vit_b16": Network("ViT-B/16", lambda: timm.create_model("vit_base_patch16_224"), 224, {"cpu": 8, "cuda": 128}),
}


@dataclass(frozen=True)
class Case:
    """A network in eval mode and a batch; `amp` computes in bfloat16 wherever autocast does."""

    model: nn.Module
    inputs: Tensor  # [B, 3, H, W]
    labels: Tensor  # [B]
    amp: bool = False

    @property
    def precision(self) -> str:
        return "bfloat16" if self.amp else "float32"

    def losses(self, outputs: Tensor) -> Tensor:
        """‖f(x)‖₂ of every sample (XLF, eq. 4 of paper A): [B, C] -> [B]."""
        return torch.linalg.vector_norm(outputs.float(), dim=1)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.inputs.device.type, torch.bfloat16) if self.amp else contextlib.nullcontext()


def make_case(network: str, batch: int, device: str = "cpu", amp: bool = False, channels_last: bool = False) -> Case:
    torch.manual_seed(0)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    pixels = NETWORKS[network].pixels
    inputs = torch.randn(batch, 3, pixels, pixels, device=device).contiguous(memory_format=memory_format)
    model = NETWORKS[network].make().to(device, memory_format=memory_format)
    return Case(with_statistics(model, inputs), inputs, torch.zeros(batch, dtype=torch.long, device=device), amp)


# --- The methods ----------------------------------------------------------------------------------------------------


def stepwise(case: Case, step: Callable[[Sums, Tensor], None]) -> Pass:
    """A pass that adds one batch after another to its sums."""

    def run(batches: Iterable[Batch]) -> Sums:
        sums: Sums = {}
        for inputs, _ in batches:
            with case.autocast():
                step(sums, inputs)
        return sums

    return run


def add(sums: Sums, terms: Sums) -> None:
    new = {name: term for name, term in terms.items() if name not in sums}
    old = [name for name in terms if name in sums]
    sums.update(new)
    if old:
        torch._foreach_add_([sums[name] for name in old], [terms[name] for name in old])


def plain(case: Case) -> Pass:
    """Forward and backward of the batch mean: no importances."""
    parameters = list(case.model.parameters())

    def step(sums: Sums, inputs: Tensor) -> None:
        torch.autograd.grad(case.losses(case.model(inputs)).mean(), parameters)

    return stepwise(case, step)


def loop(case: Case) -> Pass:
    """One backward per sample."""
    names, parameters = zip(*case.model.named_parameters(), strict=True)

    def step(sums: Sums, inputs: Tensor) -> None:
        for sample in inputs.split(1):
            gradients = torch.autograd.grad(case.losses(case.model(sample)).sum(), parameters)
            add(sums, dict(zip(names, torch._foreach_abs(gradients), strict=True)))

    return stepwise(case, step)


def gradients_per_sample(case: Case) -> Callable[[Sums, Tensor], Sums]:
    def loss(parameters: Sums, sample: Tensor) -> Tensor:  # [3, H, W] -> []
        return case.losses(functional_call(case.model, parameters, (sample[None],))).sum()

    return vmap(grad(loss), in_dims=(None, 0))


def vmap_whole(case: Case, chunk: int | None = None) -> Pass:
    """torch.func: vmap(grad) over the batch; a gradient per sample is made and reduced, parameter by parameter."""
    parameters = {name: p.detach() for name, p in case.model.named_parameters()}
    gradients_of = gradients_per_sample(case)

    def step(sums: Sums, inputs: Tensor) -> None:
        for part in inputs.split(chunk or len(inputs)):
            gradients = gradients_of(parameters, part)  # each [B, *shape]
            add(sums, {name: gradients.pop(name).abs_().sum(0) for name in parameters})

    return stepwise(case, step)


def vmap_chunks(case: Case) -> Pass:
    """The same, CHUNK samples at a time."""
    return vmap_whole(case, CHUNK)


def vmap_compiled(case: Case) -> Pass:
    """The same, gradients and reduction compiled into one graph by torch.compile; compiling takes minutes."""
    parameters = {name: p.detach() for name, p in case.model.named_parameters()}
    gradients_of = gradients_per_sample(case)

    def sums_of(parameters: Sums, inputs: Tensor) -> Sums:
        return {name: g.abs().sum(0) for name, g in gradients_of(parameters, inputs).items()}

    torch._dynamo.reset()
    compiled = torch.compile(sums_of, dynamic=False, fullgraph=True)
    return stepwise(case, lambda sums, inputs: add(sums, compiled(parameters, inputs)))


def backpack(case: Case) -> Pass:
    """BackPACK's BatchGrad, each layer's gradients reduced and freed as soon as they are there."""
    from backpack import backpack, extend
    from backpack.extensions import BatchGrad

    model = extend(copy.deepcopy(case.model))
    names = {p: name for name, p in model.named_parameters()}

    def step(sums: Sums, inputs: Tensor) -> None:
        def reduce(module: nn.Module) -> None:
            for p in module.parameters(recurse=False):
                if hasattr(p, "grad_batch"):
                    add(sums, {names[p]: p.grad_batch.abs_().sum(0)})
                    del p.grad_batch

        with backpack(BatchGrad(), extension_hook=reduce):
            case.losses(model(inputs)).sum().backward()
        model.zero_grad()

    return stepwise(case, step)


def opacus(case: Case, functorch: bool = False) -> Pass:
    """Opacus' GradSampleModule with its rules per layer.

    It records only in train mode, so the model is in train mode but for the layers with buffers (batch norm); those it
    refuses, and they are frozen. A module with parameters of its own it hands over to functorch as a whole, children
    included; parameters of a module with children (a class token, position embeddings) are frozen to keep its rules.
    """
    from opacus import GradSampleModule

    model = copy.deepcopy(case.model).train()
    for module in model.modules():
        has_buffers = next(module.buffers(recurse=False), None) is not None
        if has_buffers:
            module.eval()
        if has_buffers or (not functorch and next(module.children(), None) is not None):
            for p in module.parameters(recurse=False):
                p.requires_grad_(False)
    wrapped = GradSampleModule(model, loss_reduction="sum", strict=False, force_functorch=functorch)
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}

    def step(sums: Sums, inputs: Tensor) -> None:
        case.losses(wrapped(inputs)).sum().backward()
        for name, p in trainable.items():
            add(sums, {name: p.grad_sample.abs_().sum(0)})
            p.grad_sample = p.grad = None

    return stepwise(case, step)


def opacus_functorch(case: Case) -> Pass:
    """The same with force_functorch: every layer, or the whole of a model with parameters of its own, by torch.func."""
    return opacus(case, functorch=True)


def plain_compiled(case: Case) -> Pass:
    """Forward and backward of the batch mean, compiled by torch.compile."""
    return plain(replace(case, model=torch.compile(case.model, dynamic=False)))


def potion_fast(case: Case, compiled: bool = False) -> Pass:
    def run(batches: Iterable[Batch]) -> Sums:
        with case.autocast():
            result = pf.importance(case.model, batches, objective="xlf", group_size=1, compiled=compiled)
        return {name: result.sums[part].view(result.shapes[name]) for name, part in result.parts()}

    return run


def potion_fast_compiled(case: Case) -> Pass:
    """With compiled=True: from the third batch on."""
    return potion_fast(case, compiled=True)


@dataclass(frozen=True)
class Method:
    title: str
    prepare: Callable[[Case], Pass]
    package: str = ""  # of the extra `rivals`, where it needs one
    slow_start: bool = False  # the first call takes minutes, and memory of its own
    first: int = 1  # batches of every call that are not like the others


METHODS = {
    "plain": Method("plain forward and backward", plain),
    "plain_compiled": Method("the same, `torch.compile`", plain_compiled, slow_start=True),
    "loop": Method("loop over samples", loop),
    "vmap": Method("`vmap(grad)`", vmap_whole),
    "vmap_chunks": Method(f"`vmap(grad)`, {CHUNK} samples at a time", vmap_chunks),
    "vmap_compiled": Method("`torch.compile(vmap(grad))`", vmap_compiled, slow_start=True),
    "backpack": Method("BackPACK", backpack, "backpack-for-pytorch"),
    "opacus": Method("Opacus", opacus, "opacus"),
    "opacus_functorch": Method("Opacus, `force_functorch`", opacus_functorch, "opacus"),
    "potion_fast": Method("**potion_fast**", potion_fast),
    "potion_fast_compiled": Method(
        "**potion_fast**, `compiled=True`", potion_fast_compiled, slow_start=True, first=EAGER_BATCHES + 1
    ),
}


def missing(method: str) -> str:
    """Why a method cannot run here; empty if it can."""
    package = METHODS[method].package
    try:
        importlib.metadata.version(package or "torch")
    except importlib.metadata.PackageNotFoundError:
        return f"{package} is not installed; it comes with the extra `bench`: pip install 'potion-fast[bench]'"
    return ""


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
