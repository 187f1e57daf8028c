"""The effect of the group size m: poison healed and model damage of PTN over m, |S_f| and seeds.

    group_size.py RUNS OUT.csv             heal in every combination that OUT.csv does not have yet
    group_size.py --plot OUT.csv OUT.png   draw them
    group_size.py --markdown OUT.csv       print them as Markdown tables

RUNS holds poisoned-SEED/ and clean-SEED/ for every seed: runs of `potion-fast train`, the second one with
--leave-out-poisoned, the reference of poison healed. Two processes with different --seeds may share one OUT.csv.

All combinations of a seed are compared on the same images: the training data are augmented once, and S_tr without S_f
is cut into groups in one shuffled order. The gaps that S_f leaves in that order are filled from its end, so that
most groups are the same for every S_f; those are computed once, and the importances merged. That is exact, as groups
stay whole, and the poisoned samples that were not found stay spread over the groups, as in a shuffled loader.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field, fields
from functools import reduce
from pathlib import Path
from statistics import median
from typing import Any, get_type_hints

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import potion_fast as pf
from potion_fast.bench.attacks import LEARNT, choose_poisoned
from potion_fast.bench.configs import EvaluateConfig
from potion_fast.bench.metrics import evaluate_poison, model_damage, poison_healed
from potion_fast.bench.runs.inputs import load_trained, load_weights, reference_accuracy
from potion_fast.bench.runs.scenario import Scenario
from potion_fast.bench.training.train import seed_everything
from potion_fast.errors import FileError
from potion_fast.user.drawing import CLEAN, DPI, MUTED, TRIGGERED
from potion_fast.user.run_folder import RunFolder
from potion_fast.utils.atomic_files import written_whole
from potion_fast.utils.model import fingerprint

RHO = 0.2
ONE_PASS = (("xlf", "lf"), ("ssd",))  # LF and XLF share their backward pass
MEASURES = {"poison_healed": "poison healed, %", "model_damage": "model damage, points"}

COLORS, MARKERS = (TRIGGERED, "#d9a441", CLEAN, MUTED), "osD^"
SIZE = (12.0, 7.0)  # inches
LARGE, SMALL = 14, 12  # points: a README shows the picture at less than half of its pixels


@dataclass(frozen=True)
class Row:
    """One healing; OUT.csv has a line for each.

    poisoned, found        |S_m| and |S_f|
    group_size             m, or "batch": groups of batch_size samples
    clean_accuracy, triggered_accuracy, attack_success_rate   of the healed model on the test set, in [0, 1]
    attack_success_before  of the poisoned model
    poison_healed          percent of the clean run's triggered accuracy
    model_damage           percentage points of clean accuracy
    dampened, steps, reason, warnings   see `Result`
    *_seconds              wall-clock time; importances: of XLF and LF together; evaluation: 0 where another
                           combination had led to the same weights
    """

    seed: int
    poisoned: int
    found: int
    objective: str
    group_size: str
    batch_size: int
    clean_accuracy: float
    triggered_accuracy: float
    attack_success_rate: float
    attack_success_before: float
    poison_healed: float
    model_damage: float
    dampened: int
    steps: int
    reason: str
    warnings: str
    forget_seconds: float
    retain_seconds: float
    search_seconds: float
    evaluation_seconds: float

    @property
    def key(self) -> tuple[int, int, str, str]:
        return self.seed, self.found, self.objective, self.group_size


@dataclass
class Subject:
    """A poisoned model and all that its healings share.

    before, reference  clean accuracy of the poisoned model; triggered accuracy of the clean run
    attack             attack success rate of the poisoned model
    train              S_tr, augmented once: images [N, C, H, W], labels [N]
    order              the samples the model was trained on, shuffled
    founds             every S_f
    test               the test set without and with the trigger, in batches
    evaluated          metrics by fingerprint of the weights
    """

    model: nn.Module
    scenario: Scenario
    before: float
    attack: float
    reference: float
    train: TensorDataset
    order: list[int]
    founds: list[list[int]]
    test: tuple[list[Any], list[Any]]
    evaluated: dict[str, dict[str, float]] = field(default_factory=dict)

    @classmethod
    def load(cls, runs: Path, seed: int, found: Sequence[float], test_every: int) -> Subject:
        """Raises PotionError where a run is missing, unfinished, or not what its name says."""
        run = RunFolder.open(runs / f"poisoned-{seed}")
        config = EvaluateConfig(run=str(run.path)).resolved()
        scenario, before = load_trained(run, config)
        reference = reference_accuracy(str(runs / f"clean-{seed}"), scenario.config)
        assert reference is not None  # it is None only without a path
        if before["attack_success_rate"] < LEARNT:
            print(f"{run.path}: the trigger was not learnt; poison healed does not count", file=sys.stderr)
        n, poisoned = len(scenario.splits.train), len(scenario.poisoned)
        sizes = dict.fromkeys(size if isinstance(size, int) else round(size * poisoned) for size in found)
        model = load_weights(run, scenario, config.device)[0]
        test = (thinned(scenario.test_loader(False), test_every), thinned(scenario.test_loader(True), test_every))
        if test_every > 1:  # what is compared must be of the same images
            clean = load_weights(RunFolder.open(runs / f"clean-{seed}"), scenario, config.device)[0]
            mine, theirs = (evaluate_poison(m, *test, scenario.poison.target).metrics for m in (model, clean))
            before = {name: metric.value for name, metric in mine.items()}
            reference = theirs["triggered_accuracy"].value
        seed_everything(seed)
        train = scenario.splits.dataset("train", augment=True, poison=scenario.poison, poisoned=scenario.poisoned)
        return cls(
            model=model,
            scenario=scenario,
            before=before["clean_accuracy"],
            attack=before["attack_success_rate"],
            reference=reference,
            train=TensorDataset(*train.batch(range(n))),
            order=np.random.default_rng(seed).permutation(scenario.trained_on).tolist(),
            founds=[choose_poisoned(n, poisoned, size, scenario.config.seed)[1].tolist() for size in sizes],  # nested
            test=test,
        )

    def loader(self, samples: Sequence[int], batch_size: int) -> DataLoader[tuple[Tensor, ...]]:
        """Training samples in this order."""
        return DataLoader(self.train, batch_size, sampler=samples)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Test metrics, measured once for the same weights."""
        weights = fingerprint(model)
        if weights not in self.evaluated:
            metrics = evaluate_poison(model, *self.test, self.scenario.poison.target).metrics
            self.evaluated[weights] = {name: metric.value for name, metric in metrics.items()}
        return self.evaluated[weights]


def thinned(loader: Iterable[tuple[Tensor, ...]], every: int) -> list[Any]:
    """Every k-th sample of a loader, in smaller batches. The loader may be sorted by class."""
    batches, first = [], 0
    for batch in loader:
        batches.append(tuple(part[first::every] for part in batch))
        first = (first - len(batch[0])) % every
    return batches


def arranged(order: Sequence[int], found: Sequence[int]) -> list[int]:
    """`order` without S_f; the gaps it leaves are filled from the end, so that all else stays in its place."""
    kept, gaps = len(order) - len(found), set(found)
    fillers = iter([sample for sample in order[kept:] if sample not in gaps])
    return [next(fillers) if sample in gaps else sample for sample in order[:kept]]


def shared_groups(orders: Sequence[Sequence[int]], m: int) -> dict[tuple[int, ...], list[int]]:
    """The samples of all groups of m that the same orders have in common, by the numbers of these orders.

    A last, smaller group stands at the end of what only its own order has.
    """
    owners: dict[tuple[int, ...], list[int]] = defaultdict(list)  # group -> the orders that have it
    for number, order in enumerate(orders):
        for start in range(0, len(order), m):
            owners[tuple(order[start : start + m])].append(number)
    shared: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for group, numbers in owners.items():
        shared[tuple(numbers)].extend(group)
    return shared


def timed_importances(
    subject: Subject, samples: Sequence[int], objectives: Sequence[str], m: int, batch_size: int
) -> tuple[list[pf.Importance], float]:
    """One importance per objective from one pass, and its seconds."""
    start = time.perf_counter()
    importances = pf.importance(
        subject.model, subject.loader(samples, batch_size), list(objectives), group_size=m, progress=True
    )
    return importances, time.perf_counter() - start


def retain_importances(
    subject: Subject, objectives: Sequence[str], m: int, batch_size: int
) -> list[tuple[list[pf.Importance], float]]:
    """For every S_f: the importances of S_tr without it, one per objective, and the seconds that they took."""
    orders = [arranged(subject.order, found) for found in subject.founds]
    parts = {
        owners: timed_importances(subject, samples, objectives, m, batch_size)
        for owners, samples in shared_groups(orders, m).items()
    }
    retain = []
    for number in range(len(orders)):
        # The part that is this order's alone comes last, as it may end with a smaller group.
        mine = [parts[owners] for owners in sorted(parts, key=len, reverse=True) if number in owners]
        with warnings.catch_warnings():
            warnings.simplefilter("error", pf.PotionWarning)  # a merge that is not exact
            merged = [reduce(pf.Importance.merge, of_one) for of_one in zip(*(i for i, _ in mine), strict=True)]
        retain.append((merged, sum(seconds for _, seconds in mine)))
    return retain


def heal(
    subject: Subject, seed: int, objectives: Sequence[str], group_size: str, batch_size: int, done: set[Any], out: Path
) -> None:
    """Heal for every S_f and each of these objectives that is not done, and write the rows."""
    keys = {(seed, len(found), objective, group_size) for found in subject.founds for objective in objectives}
    if keys <= done:
        return
    # A loader's batches of one size are groups of that size; so is a forget set that is smaller than a batch.
    m = batch_size if group_size == "batch" else int(group_size)
    retains = retain_importances(subject, objectives, m, batch_size)
    for found, (retain, retain_seconds) in zip(subject.founds, retains, strict=True):
        forget, forget_seconds = timed_importances(subject, found, objectives, m, batch_size)
        as_stored = list(subject.scenario.forget_loader(found, augment=False, batch_size=batch_size))
        for objective, of_found, of_rest in zip(objectives, forget, retain, strict=True):
            if (seed, len(found), objective, group_size) in done:
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", pf.PotionWarning)  # they stand in the row
                result = pf.ptn_search(subject.model, of_found, of_rest, as_stored, rho=RHO)
            start = time.perf_counter()
            metrics = subject.evaluate(result.model)
            evaluation_seconds = time.perf_counter() - start
            row = Row(
                seed=seed,
                poisoned=len(subject.scenario.poisoned),
                found=len(found),
                objective=objective,
                group_size=group_size,
                batch_size=batch_size,
                **metrics,
                attack_success_before=subject.attack,
                poison_healed=poison_healed(metrics["triggered_accuracy"], subject.reference),
                model_damage=model_damage(metrics["clean_accuracy"], subject.before),
                dampened=result.kept.dampened if result.kept else 0,
                steps=len(result.trace),
                reason=result.reason,
                warnings="; ".join(result.warnings),
                forget_seconds=forget_seconds,
                retain_seconds=retain_seconds,
                search_seconds=result.seconds["search"],
                evaluation_seconds=evaluation_seconds,
            )
            append(out, row)
            print(
                f"seed {seed}, m {group_size}, {objective}, {len(found)} found: {row.poison_healed:.1f} % healed, "
                f"damage {row.model_damage:+.1f}, {row.dampened} weights dampened in {row.steps} steps ({row.reason})",
                flush=True,
            )


def study(options: argparse.Namespace) -> None:
    """Heal in every combination that OUT.csv does not have."""
    rows = read(options.out) if options.out.exists() else []
    if other := next((row for row in rows if row.batch_size != options.batch_size), None):
        raise FileError(f"{options.out} was made with --batch-size {other.batch_size}; choose another file")
    done = {row.key for row in rows}
    try:
        with options.out.open("x", encoding="utf-8") as file:
            file.write(",".join(column.name for column in fields(Row)) + "\n")
    except FileExistsError:
        pass
    except OSError as error:
        raise FileError(f"cannot write {options.out}: {error}") from error
    for seed in options.seeds:
        subject = Subject.load(options.runs, seed, options.found, options.test_every)
        for group_size in options.group_sizes:
            for together in ONE_PASS:
                if objectives := [objective for objective in together if objective in options.objectives]:
                    heal(subject, seed, objectives, group_size, options.batch_size, done, options.out)


def append(out: Path, row: Row) -> None:
    with out.open("a", newline="", encoding="utf-8") as file:
        values = [round(value, 4) if isinstance(value, float) else value for value in astuple(row)]
        csv.writer(file, lineterminator="\n").writerow(values)


def read(path: Path) -> list[Row]:
    """Raises FileError for a file that is missing, broken, or not of this script."""
    kinds = get_type_hints(Row)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *lines = csv.reader(file)
        if header != list(kinds):
            raise ValueError("its columns are others")
        return [Row(**{name: kinds[name](value) for name, value in zip(kinds, line, strict=True)}) for line in lines]
    except (OSError, ValueError) as error:
        raise FileError(f"{path} cannot be read as the rows of this study: {error}") from error


def some_rows(path: Path) -> list[Row]:
    """At least one. Raises FileError as `read` does."""
    rows = read(path)
    if not rows:
        raise FileError(f"{path} holds no rows yet")
    return rows


def distinct(rows: Sequence[Row]) -> tuple[list[str], list[int], list[str]]:
    """The objectives in the order of ONE_PASS, the sizes of S_f and the group sizes, ascending."""
    objectives = [name for together in ONE_PASS for name in together if any(row.objective == name for row in rows)]
    sizes = {(row.batch_size if row.group_size == "batch" else int(row.group_size), row.group_size) for row in rows}
    return objectives, sorted({row.found for row in rows}), [group_size for _, group_size in sorted(sizes)]


def of_seeds(rows: Sequence[Row], measure: str, objective: str, found: int, group_size: str) -> list[float]:
    """The results of all seeds in one combination."""
    return [getattr(row, measure) for row in rows if row.key[1:] == (found, objective, group_size)]


def draw(rows: Sequence[Row], path: Path) -> None:
    """Poison healed above, model damage below, a column per objective: medians as lines, every seed as a point."""
    objectives, founds, sizes = distinct(rows)
    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(MEASURES), len(objectives), sharex=True, sharey="row", squeeze=False)
    lines: dict[str, Line2D] = {}
    for of_measure, (measure, label) in zip(grid, MEASURES.items(), strict=True):
        of_measure[0].set_ylabel(label, fontsize=LARGE)
        for axes, objective in zip(of_measure, objectives, strict=True):
            axes.axhline(100 if measure == "poison_healed" else 0, color=MUTED, lw=1, ls=":")
            for number, found in enumerate(founds):
                name = f"{found} of {rows[0].poisoned} poisoned samples found"
                ys = [of_seeds(rows, measure, objective, found, size) for size in sizes]
                lines[name] = _draw_line(axes, ys, number, len(founds))
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", alpha=0.25)
            axes.tick_params(labelsize=SMALL)
    names = [f"batch\n({rows[0].batch_size})" if size == "batch" else size for size in sizes]
    for top, bottom, objective in zip(grid[0], grid[-1], objectives, strict=True):
        top.set_title(objective.upper(), fontsize=LARGE)
        bottom.set_xticks(range(len(sizes)), names)
        bottom.set_xlabel("group size m", fontsize=LARGE)
    place: dict[str, Any] = {"loc": "outside lower center", "ncols": len(lines), "fontsize": SMALL, "frameon": False}
    figure.legend(list(lines.values()), list(lines), **place)
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi="figure")


def _draw_line(axes: Axes, ys: Sequence[Sequence[float]], number: int, count: int) -> Line2D:
    """Line `number` of `count`, moved aside a little: points of different lines do not hide each other.

    ys  values of the seeds at every place along x; a place without any is left out
    """
    shift = 0.16 * (number - (count - 1) / 2)
    style: dict[str, Any] = {"color": COLORS[number % len(COLORS)], "marker": MARKERS[number % len(MARKERS)]}
    points = [(x + shift, y) for x, of_place in enumerate(ys) for y in of_place]
    medians = [(x + shift, median(of_place)) for x, of_place in enumerate(ys) if of_place]
    axes.plot(*zip(*points, strict=True), ls="", ms=4, alpha=0.45, mew=0, **style)
    (line,) = axes.plot(*zip(*medians, strict=True), lw=2, ms=7, **style)
    return line


def print_markdown(rows: Sequence[Row]) -> None:
    """A table per measure: the median over the seeds and [smallest, largest]."""
    objectives, founds, sizes = distinct(rows)
    seeds = {row.seed for row in rows}
    for measure, label in MEASURES.items():
        print(f"{label[0].upper()}{label[1:]}: median over {len(seeds)} seeds [smallest, largest]\n")
        print("| objective | found | " + " | ".join(sizes) + " |")
        print("|---|---:|" + "---:|" * len(sizes))
        for objective in objectives:
            for found in founds:
                cells = (cell(measure, of_seeds(rows, measure, objective, found, size), len(seeds)) for size in sizes)
                print(f"| {objective} | {found} of {rows[0].poisoned} | " + " | ".join(cells) + " |")
        print()


def cell(measure: str, values: Sequence[float], seeds: int) -> str:
    """Says so where seeds are missing."""
    if not values:
        return ""
    sign = "+" if measure == "model_damage" else ""
    middle, low, high = (f"{value:{sign}.1f}" for value in (median(values), min(values), max(values)))
    return f"{middle} [{low}, {high}]" + ("" if len(values) == seeds else f", {len(values)} seeds")


def found_size(text: str) -> float:
    """Read a found size: "1" is one sample, "1.0" all of S_m."""
    size = float(text) if "." in text else int(text)
    if not (0 < size <= 1 if isinstance(size, float) else size >= 1):
        raise ValueError
    return size


def group_size(text: str) -> str:
    return text if text == "batch" else str(at_least_one(text))


def at_least_one(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="?", type=Path, metavar="RUNS", help="folder with the training runs")
    parser.add_argument("out", nargs="?", type=Path, metavar="OUT.csv", help="gets a row per healing")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N")
    parser.add_argument(
        "--group-sizes",
        nargs="+",
        type=group_size,
        default=["1", "4", "16", "64", "256", "batch"],
        metavar="M",
        help='samples per group, or "batch" (default: 1 4 16 64 256 batch)',
    )
    parser.add_argument(
        "--found",
        nargs="+",
        type=found_size,
        default=[1, 0.1, 1.0],
        metavar="N",
        help="sizes of S_f: samples, or with a decimal point shares of S_m (default: 1 0.1 1.0)",
    )
    known = [name for together in ONE_PASS for name in together]
    parser.add_argument("--objectives", nargs="+", choices=known, default=known)
    parser.add_argument("--batch-size", type=at_least_one, default=128, metavar="N", help="(default: 128)")
    parser.add_argument(
        "--test-every", type=at_least_one, default=1, metavar="K", help="test images: one of K (default: 1)"
    )
    parser.add_argument("--threads", type=at_least_one, default=1, metavar="N", help="of the CPU (default: 1)")
    parser.add_argument("--plot", nargs=2, type=Path, metavar=("OUT.csv", "PICTURE.png"), help="draw the rows")
    parser.add_argument("--markdown", type=Path, metavar="OUT.csv", help="print the rows as Markdown tables")
    options = parser.parse_args()
    if (options.out is None) == (options.plot is None and options.markdown is None):
        parser.error("give either RUNS and OUT.csv, or --plot or --markdown")
    torch.set_num_threads(options.threads)
    try:
        if options.out is not None:
            study(options)
        if options.plot is not None:
            draw(some_rows(options.plot[0]), options.plot[1])
        if options.markdown is not None:
            print_markdown(some_rows(options.markdown))
    except pf.PotionError as error:
        sys.exit(f"group_size.py: {error}")


if __name__ == "__main__":
    main()
