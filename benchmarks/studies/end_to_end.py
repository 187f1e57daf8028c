"""The whole method, part by part, compared with the public code's algorithm in the same run.

    end_to_end.py OUT.csv [--networks ...] [--device cuda]     measure; a row for each part, written as it is known
    end_to_end.py --markdown OUT.csv                           the table for README.md
    end_to_end.py OUT.csv --dry-run                            everything at toy size, in seconds on a CPU

Forms of the pass over the training data, which take turns:
  plain, plain_amp       forward and backward of the batch mean, nothing else, in float32 and under autocast (bfloat16)
  public_code            the public code's algorithm: float32, the mean of a batch, |gradient| by tensor
  exact, exact_amp       potion_fast, per sample (group size 1)
  groups, groups_amp     potion_fast, groups of 64
A rate is measured from the second batch on, without the one-time work of a pass. Batches are uint8 on the device, and
flipped, shifted and normalised there. For the first network there is a pass over JPEGs on disk too, read by `--workers`
processes; the rate of reading without a model shows which of the two is the bottleneck.

Forms of the search, with importances of a pass over a few batches and of S_f, labelled by the model's predictions:
  public_code            for each candidate a copy of the model, ratios to NumPy, one percentile, masked edits by tensor
                         and the accuracy on S_f; `--literal` candidates are timed and multiplied
  sequential             potion_fast, every candidate evaluated: none passes. If a search saturates before, its
                         seconds are those of the candidates it evaluated, and `measured` is their number
  bisect                 potion_fast, down to the first candidate whose accuracy is below the model's own

Totals are EXTRAPOLATED from these rates to 1,281,167 images: S_f and training data once through the pass, then the
search. Random weights; a step costs the same with trained ones. `memory` is the peak in addition to model and data, of
the allocator on CUDA, of PyTorch's tensors on a CPU.
"""

from __future__ import annotations

import argparse
import copy
import csv
import datetime
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import potion_fast as pf
from potion_fast.bench.data import PoisonedDataset, make_loader
from potion_fast.bench.data.dataset import normalise
from potion_fast.bench.models import ResNet9
from potion_fast.importances.objectives import norm
from potion_fast.percentiles import schedule
from potion_fast.user.crops import border, crop, draw_crops
from potion_fast.user.run_folder import versions
from potion_fast.utils.memory import peak_of
from potion_fast.utils.model import trainable
from potion_fast.utils.predict import accuracy, predict

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from photographs import make_photographs, source

from helpers.networks import WideResNet, with_statistics
from helpers.ratios import public_edit

IMAGENET = 1_281_167  # images of ILSVRC's training set
MEAN = STD = (0.5, 0.5, 0.5)
POOL = 4  # batches of different images; they come round again

Batch = tuple[Tensor, Tensor]
Pass = Callable[[Iterable[Batch]], object]


@dataclass(frozen=True)
class Network:
    title: str
    make: Callable[[], nn.Module]
    pixels: int
    batch: int


def toy() -> nn.Module:
    return VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, num_classes=10)


NETWORKS = {
    "vit_b16": Network("ViT-B/16", lambda: timm.create_model("vit_base_patch16_224"), 224, 128),
    "resnet9": Network("ResNet-9", lambda: ResNet9(10, width=64), 32, 512),
    "wrn": Network("WRN-28-10", lambda: WideResNet(28, 10), 32, 512),
    "toy": Network("ViT of toy size", toy, 32, 8),
}


class Clock:
    """A number of batches, with the times at which they were requested and the time of the end."""

    def __init__(self, data: Iterable[Batch], batches: int, cuda: bool) -> None:
        self.data, self.batches, self.cuda = data, batches, cuda
        self.times: list[float] = []
        self.samples = 0  # of all but the first batch

    def __iter__(self) -> Iterator[Batch]:
        self.times, self.samples = [], 0
        for number, batch in enumerate(self.data):
            if number == self.batches:
                break
            self.times.append(now(self.cuda))
            self.samples += len(batch[0]) if number else 0
            yield batch
        self.times.append(now(self.cuda))

    @property
    def rate(self) -> float:
        """Samples a second from the second batch on."""
        return self.samples / (self.times[-1] - self.times[1])


def now(cuda: bool) -> float:
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


class OnDevice:
    """Batches made on the device: uint8, then augmented and normalised there, as a loader's are."""

    def __init__(self, network: Network, batch: int, device: str) -> None:
        generator = torch.Generator(device).manual_seed(0)
        shape = (POOL, batch, 3, network.pixels, network.pixels)
        self.pixels = torch.randint(256, shape, dtype=torch.uint8, device=device, generator=generator)
        self.labels = torch.zeros(batch, dtype=torch.long, device=device)

    def __iter__(self) -> Iterator[Batch]:
        while True:
            for pixels in self.pixels:
                moved = crop(border(pixels, 4), 4, draw_crops(len(pixels), 4, True))
                yield normalise(moved, MEAN, STD), self.labels


# --- The pass over the training data --------------------------------------------------------------------------------


def plain(model: nn.Module, amp: bool) -> Pass:
    parameters = list(trainable(model).values())

    def run(batches: Iterable[Batch]) -> None:
        for images, labels in batches:
            with torch.autocast(images.device.type, torch.bfloat16) if amp else nullcontext():
                outputs = model(images)
            torch.autograd.grad(norm(outputs.float(), labels).mean(), parameters)

    return run


def public_code(model: nn.Module) -> Pass:
    """Mean over batches of |∂(batch mean of ‖f(x)‖₂)/∂θ|, tensor by tensor, in float32."""

    def run(batches: Iterable[Batch]) -> dict[str, Tensor]:
        sums = {name: torch.zeros_like(p) for name, p in trainable(model).items()}
        count = 0
        for images, labels in batches:
            model.zero_grad()
            norm(model(images), labels).mean().backward()
            for name, p in trainable(model).items():
                sums[name] += p.grad.detach().clone().abs()
            count += 1
        model.zero_grad()
        return {name: total / count for name, total in sums.items()}

    return run


def exact(model: nn.Module, group_size: int, amp: bool) -> Pass:
    return partial(
        pf.importance, model, objective="xlf", group_size=group_size, amp=torch.bfloat16 if amp else None
    )  # called with the loader


PASSES: dict[str, Callable[[nn.Module], Pass]] = {
    "plain": lambda model: plain(model, False),
    "plain_amp": lambda model: plain(model, True),
    "public_code": public_code,
    "exact": lambda model: exact(model, 1, False),
    "exact_amp": lambda model: exact(model, 1, True),
    "groups": lambda model: exact(model, 64, False),
    "groups_amp": lambda model: exact(model, 64, True),
}


def check(model: nn.Module, data: Iterable[Batch], device: str) -> None:
    """The exact pass against a loop over samples, and the public code's form against group_size="batch".

    Raises ArithmeticError; no rate is taken then.
    """
    images, labels = next(iter(data))
    few = [(images[:4], labels[:4])]
    one_by_one = [(images[k : k + 1], labels[k : k + 1]) for k in range(4)]
    wanted = public_code(model)(one_by_one)
    assert isinstance(wanted, dict)
    together = pf.importance(model, few, objective="xlf", group_size=1)
    for name, want in wanted.items():
        error = (together[name] - want).abs().sum() / want.sum().clamp_min(1e-30)
        if not error <= 2e-2:  # float32, TF32 products and all; a wrong sum differs by a third or more
            raise ArithmeticError(f"the importances of {name} are wrong by {float(error):.1e} of those of a loop")


def measure_passes(options: argparse.Namespace, model: nn.Module, data: OnDevice) -> dict[str, Any]:
    """Map each name to {rate, low, high, mb}; the forms take turns."""
    cuda = options.device == "cuda"
    found: dict[str, Any] = {}
    runs = {name: PASSES[name](model) for name in options.passes}
    for name, run in runs.items():  # the first call compiles kernels
        print(f"  first call of {name}", file=sys.stderr)
        run(Clock(data, 2, cuda))
        with peak_of(torch.device(options.device)) as peak:
            run(Clock(data, 2, cuda))
        found[name] = {"mb": round(peak[0] / 1e6), "rates": []}
    for _ in range(options.rounds):
        for name, run in runs.items():
            clock = Clock(data, options.batches, cuda)
            run(clock)
            found[name]["rates"].append(clock.rate)
    return found


# --- The search -----------------------------------------------------------------------------------------------------


def literal_candidate(
    model: nn.Module, forget: pf.Importance, retain: pf.Importance, p: float, found: list[Batch]
) -> float:
    """The accuracy on S_f of one candidate, by the public code's algorithm."""
    edited = copy.deepcopy(model)
    parameters = trainable(edited)
    with np.errstate(all="ignore"):
        ratios = np.concatenate([(forget[n] / retain[n]).cpu().numpy().reshape(-1) for n in parameters])
        ratios = ratios[~np.isnan(ratios) & ~np.isinf(ratios)]
        alpha = float(np.nanpercentile(ratios, np.float64(p)))
    with torch.no_grad():
        for name, parameter in parameters.items():
            public_edit(parameter, forget[name], retain[name], alpha)
    return accuracy(*predict(edited, found))


def own_search(
    model: nn.Module, forget: pf.Importance, retain: pf.Importance, found: list[Batch], strategy: str, most: int
) -> int:
    """The number of candidates that a search has evaluated."""
    rho = 1.0 if strategy == "bisect" else 0.0
    result = pf.ptn_search(model, forget, retain, found, strategy=strategy, rho=rho, strict=True, max_steps=most)
    return len(result.trace)


def measure_searches(options: argparse.Namespace, model: nn.Module, data: OnDevice) -> dict[str, Any]:
    """Map each name to {seconds for all candidates, measured, mb}."""
    cuda = options.device == "cuda"
    images = torch.cat([images for images, _ in islice(data, -(-options.found // len(data.labels)))])[: options.found]
    labels = predict(model, [(images, data.labels[:1].expand(len(images)))])[0].argmax(1).to(images.device)
    found = [(images, labels)]
    both = partial(pf.importance, model, objective="xlf", group_size=min(64, options.found))
    forget, retain = both(found), both(Clock(data, 2, cuda))
    retain = replace(retain, samples=IMAGENET - options.found)  # the share that sets the steps
    percentiles = [p for _, p in islice(schedule(options.found / IMAGENET, 1 / 25, 1.1), options.literal)]
    shown: dict[str, Any] = {}
    start = now(cuda)
    for p in percentiles:
        literal_candidate(model, forget, retain, p, found)
    per_candidate = (now(cuda) - start) / len(percentiles)
    shown["public_code"] = {
        "seconds": per_candidate * options.candidates_literal,
        "measured": len(percentiles),
        "mb": "",
    }
    for strategy in ("sequential", "bisect"):
        seconds = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pf.PotionWarning)  # no candidate is meant to pass
            run = partial(own_search, model, forget, retain, found, strategy, options.candidates)
            with peak_of(torch.device(options.device)) as peak:
                steps = run()
            for _ in range(options.rounds):
                start = now(cuda)
                run()
                seconds.append(now(cuda) - start)
        shown[strategy] = {"seconds": statistics.median(seconds), "measured": steps, "mb": round(peak[0] / 1e6)}
    return shown


# --- JPEGs ----------------------------------------------------------------------------------------------------------


def measure_jpegs(options: argparse.Namespace, model: nn.Module, network: Network, form: str) -> dict[str, float]:
    """Images a second that the workers read, and that a pass over them does."""
    cuda = options.device == "cuda"
    with tempfile.TemporaryDirectory() as folder:
        names = make_photographs(Path(folder), options.jpegs)
        dataset = PoisonedDataset(source(Path(folder), names, network.pixels), MEAN, STD, augment=True)
        batch = min(options.batch or network.batch, options.jpegs // 3)
        loader = make_loader(
            dataset, batch_size=batch, shuffle=True, seed=0, workers=options.workers, device=options.device
        )
        sum(len(labels) for _, labels in loader)  # the workers are there from now on
        reading, passing = Clock(loader, len(loader), cuda), Clock(loader, len(loader), cuda)
        for _ in reading:
            pass
        PASSES[form](model)(passing)
        return {"read": reading.rate, "pass": passing.rate}


# --- Rows -----------------------------------------------------------------------------------------------------------


def measure(options: argparse.Namespace, name: str) -> Iterator[dict[str, object]]:
    """One row for each part, as soon as it is known."""
    network, device = NETWORKS[name], options.device
    print(f"{name}: making it", file=sys.stderr)
    torch.manual_seed(0)
    data = OnDevice(network, options.batch or network.batch, device)
    model = with_statistics(network.make().to(device), next(iter(data))[0])
    check(model, data, device)
    about = {
        "network": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "batch": len(data.labels),
        "rounds": options.rounds,
        "device": device,
        "date": datetime.date.today().isoformat(),
        "driver": driver() if device == "cuda" else "",
        **versions(device),
    }
    rates: dict[str, float] = {}
    passes = measure_passes(options, model, data)
    for form, found in passes.items():
        rates[form] = statistics.median(found["rates"])
        spread = {"low": figure(min(found["rates"])), "high": figure(max(found["rates"]))}
        yield {"part": "pass", "form": form, "value": figure(rates[form]), "unit": "images/s", **spread, **about}
        yield {"part": "memory of the pass", "form": form, "value": found["mb"], "unit": "MB", **about}
    for form, against in (("exact", "plain"), ("exact_amp", "plain_amp"), ("groups_amp", "plain_amp")):
        if form in rates and against in rates:
            ratio = figure(rates[against] / rates[form])
            yield {"part": f"time of a batch, {against} = 1", "form": form, "value": ratio, "unit": "", **about}
    searches = measure_searches(options, model, data)
    for form, found in searches.items():
        of = options.candidates_literal if form == "public_code" else options.candidates
        measured = f"{found['measured']} of {of} candidates evaluated"
        row = {"part": "search", "form": form, "value": figure(found["seconds"]), "unit": "s", "measured": measured}
        yield {**row, **about}
        if found["mb"] != "":
            yield {"part": "memory of the search", "form": form, "value": found["mb"], "unit": "MB", **about}
    yield from totals(options, rates, searches, about)
    if options.jpegs and name == options.networks[0]:  # making them takes a while
        form = "groups_amp" if "groups_amp" in rates else next(iter(rates))
        jpegs = measure_jpegs(options, model, network, form)
        for part, rate in jpegs.items():
            title = {"read": "JPEGs read", "pass": "pass over JPEGs"}[part]
            measured = f"{options.workers} workers"
            row = {"part": title, "form": form, "value": figure(rate), "unit": "images/s", "measured": measured}
            yield {**row, **about}
        bound = "decode" if jpegs["read"] < rates[form] else "compute"
        yield {"part": "pass over JPEGs is bound by", "form": form, "value": bound, "unit": "", **about}


def totals(
    options: argparse.Namespace, rates: dict[str, float], searches: dict[str, Any], about: dict[str, object]
) -> Iterator[dict[str, object]]:
    """The whole method over ImageNet, extrapolated, and the share of each part."""
    whole: dict[str, float] = {}
    pairs = {
        "public_code": ("public_code", "public_code"),
        "exact": ("exact", "sequential"),
        "exact_amp": ("exact_amp", "sequential"),
        "fastest": ("groups_amp", "bisect"),
    }
    for name, (of_pass, of_search) in pairs.items():
        if of_pass not in rates:
            continue
        parts = {
            "retain": (IMAGENET - options.found) / rates[of_pass],
            "forget": options.found / rates[of_pass],
            "search": searches[of_search]["seconds"],
        }
        whole[name] = sum(parts.values())
        note = f"extrapolated to {IMAGENET:,} images"
        yield {"part": "total", "form": name, "value": figure(whole[name]), "unit": "s", "measured": note, **about}
        for part, seconds in parts.items():
            share = figure(100 * seconds / whole[name])
            yield {"part": f"share of {part}", "form": name, "value": share, "unit": "%", "measured": note, **about}
        if name != "public_code" and "public_code" in whole:
            times = figure(whole["public_code"] / whole[name])
            row = {"part": "times faster than the public code's form", "form": name, "value": times, "unit": "×"}
            yield {**row, "measured": note, **about}


def figure(value: float) -> float:
    return float(f"{value:.4g}")


def driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return ""


COLUMNS = [
    "network",
    "part",
    "form",
    "value",
    "unit",
    "low",
    "high",
    "measured",
    "parameters",
    "batch",
    "rounds",
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


def write(options: argparse.Namespace) -> None:
    """Write each row as soon as it is known; a network that fails is reported, and the next one follows."""
    options.out.parent.mkdir(parents=True, exist_ok=True)
    failed = []
    with options.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        for name in options.networks:
            try:
                for row in measure(options, name):
                    writer.writerow(row)
                    file.flush()
            except Exception as error:
                failed.append(f"{name}: {type(error).__name__}: {error}")
    if failed:
        sys.exit("\n".join(failed))


def markdown(rows: list[dict[str, str]]) -> str:
    """Parts and forms down, networks across."""
    networks = list(dict.fromkeys(row["network"] for row in rows))
    cells = {(row["part"], row["form"], row["network"]): row for row in rows}
    first = rows[0]
    heads = [f"{NETWORKS[n].title}, batch {next(r['batch'] for r in rows if r['network'] == n)}" for n in networks]
    with_driver = f", driver {first['driver']}" if first["driver"] else ""
    lines = [
        f"{first['hardware']}{with_driver}, PyTorch {first['torch']}, {first['date']}; medians of {first['rounds']} "
        "rounds.",
        "",
        "| part | form | " + " | ".join(heads) + " |",
        "|---|---|" + "---:|" * len(networks),
    ]
    for part, form in dict.fromkeys((row["part"], row["form"]) for row in rows):
        shown = [cells.get((part, form, network)) for network in networks]
        note = next((f" ({r['measured']})" for r in shown if r and r["measured"]), "")
        values = " | ".join("not measured" if r is None else f"{r['value']} {r['unit']}".strip() for r in shown)
        lines.append(f"| {part}{note} | {form} | {values} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="CSV", help="the file that is written, or read with --markdown")
    parser.add_argument("--markdown", action="store_true", help="print the table of a CSV instead of measuring")
    parser.add_argument(
        "--dry-run", action="store_true", help="toy sizes: shows that everything runs, measures nothing"
    )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["vit_b16", "resnet9", "wrn"])
    parser.add_argument("--passes", nargs="+", choices=PASSES, default=list(PASSES))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--batch", type=int, help="instead of each network's own")
    parser.add_argument("--batches", type=int, default=9, help="of a timed pass; the first is left out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--found", type=int, default=100, help="samples of S_f")
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--candidates-literal", type=int, default=50, help="of the public code's form")
    parser.add_argument("--literal", type=int, default=3, help="of these, so many are timed")
    parser.add_argument("--jpegs", type=int, default=2048, help="files to read; 0 for none")
    parser.add_argument("--workers", type=int, default=8, help="processes that read JPEGs")
    options = parser.parse_args()
    if options.markdown:
        with options.out.open(newline="", encoding="utf-8") as file:
            print(markdown(list(csv.DictReader(file))), end="")
        return
    if options.dry_run:
        toys = {"networks": ["toy"], "batches": 3, "rounds": 2, "found": 6, "candidates": 12}
        vars(options).update(toys, candidates_literal=8, literal=2, jpegs=24, workers=1)
    if options.rounds < 1 or options.batches < 2:
        parser.error("it takes at least one round, and two batches, of which the first is left out")
    write(options)


if __name__ == "__main__":
    main()
