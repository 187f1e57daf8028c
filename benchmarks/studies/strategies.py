"""The strategies of the search on real poisoned models: their results and their cost.

    strategies.py RUNS OUT.csv         search with every strategy for each seed and |S_f|
    strategies.py --markdown OUT.csv   the table for README.md

RUNS holds poisoned-SEED/ and clean-SEED/ as for group_size.py. Importances are computed once per S_f and shared by all
strategies. "public code" is the search as the public code does it, on the same importances: one NumPy percentile, one
copy of the model and one edit of every tensor per step; its weights must equal those of "sequential", to the bit.

`forward_seconds` is the time in the model's forward pass, `other_share` the rest of the search, including the copy of
the model at its start.
"""

from __future__ import annotations

import argparse
import copy
import csv
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from group_size import RHO, Subject, found_size, retain_importances, timed_importances
from torch import nn

import potion_fast as pf
from potion_fast.bench.metrics import model_damage, poison_healed
from potion_fast.bench.training.train import seed_everything
from potion_fast.percentiles import schedule
from potion_fast.search import STRATEGIES
from potion_fast.utils.model import fingerprint, trainable
from potion_fast.utils.predict import accuracy, predict

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from helpers.ratios import public_edit

PUBLIC_CODE = "public code"
MEASURED = ("clean_accuracy", "triggered_accuracy", "attack_success_rate")


@dataclass(frozen=True)
class Row:
    """One search.

    found, group_size       |S_f| and m
    poison_healed           percent of the clean run's triggered accuracy
    model_damage            percentage points of clean accuracy
    dampened                weights that differ from the poisoned model's
    evaluations             of the accuracy on S_f, acc₀ included
    same_weights            whether the model is that of "sequential", to the bit
    seconds, forward_seconds, other_share   of the search; see above
    """

    seed: int
    found: int
    group_size: int
    strategy: str
    poison_healed: float
    model_damage: float
    clean_accuracy: float
    triggered_accuracy: float
    attack_success_rate: float
    dampened: int
    evaluations: int
    reason: str
    same_weights: bool
    seconds: float
    forward_seconds: float
    other_share: float
    warnings: str


@dataclass
class Outcome:
    model: nn.Module
    dampened: int
    evaluations: int
    reason: str
    warnings: list[str]


class ForwardClock:
    """Wall-clock seconds spent in the outermost forward pass of a model and of its copies."""

    def __init__(self, model: nn.Module) -> None:
        self.seconds = 0.0
        model.register_forward_pre_hook(self.start)
        model.register_forward_hook(self.stop)

    def start(self, *_: Any) -> None:
        self.since = time.perf_counter()

    def stop(self, *_: Any) -> None:
        self.seconds += time.perf_counter() - self.since

    def __deepcopy__(self, memo: dict[int, Any]) -> ForwardClock:
        return self  # a copy of the model has the same clock


def with_strategy(strategy: str) -> Callable[..., Outcome]:
    def run(model: nn.Module, forget: pf.Importance, retain: pf.Importance, loader: list[Any]) -> Outcome:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pf.PotionWarning)  # they stand in the row
            result = pf.ptn_search(model, forget, retain, loader, rho=RHO, strategy=strategy)
        dampened = 0 if result.kept is None else result.kept.dampened
        return Outcome(result.model, dampened, result.evaluations, result.reason, result.warnings)

    return run


def public_code(model: nn.Module, forget: pf.Importance, retain: pf.Importance, loader: list[Any]) -> Outcome:
    """Every step from the original model: ratios to the host, a percentile, a copy, an edit tensor by tensor."""
    names = list(trainable(model))
    initial = accuracy(*predict(model, loader))
    healed, count, reason = model, 0, "out of steps"
    for _, p in schedule(forget.samples / (retain.samples + forget.samples), 1 / 25, 1.1):
        count += 1
        with np.errstate(all="ignore"):
            ratios = np.concatenate([(forget[name] / retain[name]).numpy().reshape(-1) for name in names])
        ratios = ratios[~np.isnan(ratios) & ~np.isinf(ratios)]
        alpha = float(np.float32(np.nanpercentile(ratios, np.float64(p))))
        healed = copy.deepcopy(model)
        with torch.no_grad():
            for name, weight in trainable(healed).items():
                public_edit(weight, forget[name], retain[name], alpha)
        if accuracy(*predict(healed, loader)) <= RHO * initial:
            reason = "threshold passed"
            break
        if not alpha > 1:
            reason = "saturated"
            break
        if count == 500:
            break
    before = trainable(model)
    dampened = sum(int((weight != before[name]).sum()) for name, weight in trainable(healed).items())
    return Outcome(healed, dampened, 1 + count, reason, [])


METHODS = {PUBLIC_CODE: public_code, **{name: with_strategy(name) for name in STRATEGIES}}


def searches(options: argparse.Namespace, seed: int) -> Iterator[Row]:
    subject = Subject.load(options.runs, seed, options.found, options.test_every)
    for found in subject.founds:
        m = min(options.group_size, len(found))  # as by default: a group has no more samples than were found
        only_found = replace(subject, founds=[found])
        ((retain, _),) = retain_importances(only_found, [options.objective], m, options.batch_size)
        of_found, _ = timed_importances(subject, found, [options.objective], m, options.batch_size)
        stored = list(subject.scenario.forget_loader(found, augment=False, batch_size=options.batch_size))
        marks: dict[str, str] = {}
        for name, run in METHODS.items():
            model = copy.deepcopy(subject.model)
            clock = ForwardClock(model)
            seed_everything(seed)
            start = time.perf_counter()
            outcome = run(model, of_found[0], retain[0], stored)
            seconds = time.perf_counter() - start
            forward = clock.seconds
            marks[name] = fingerprint(outcome.model)
            metrics = subject.evaluate(outcome.model)
            yield Row(
                seed=seed,
                found=len(found),
                group_size=m,
                strategy=name,
                poison_healed=poison_healed(metrics["triggered_accuracy"], subject.reference),
                model_damage=model_damage(metrics["clean_accuracy"], subject.before),
                **{name: metrics[name] for name in MEASURED},
                dampened=outcome.dampened,
                evaluations=outcome.evaluations,
                reason=outcome.reason,
                same_weights=marks[name] == marks.get("sequential", marks[name]),
                seconds=seconds,
                forward_seconds=forward,
                other_share=1 - forward / seconds,
                warnings="; ".join(outcome.warnings),
            )
        if marks[PUBLIC_CODE] != marks["sequential"]:
            raise ArithmeticError('the weights of "sequential" are not those of the public code')


def study(options: argparse.Namespace) -> None:
    """Write each row as soon as it is measured."""
    with options.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([column.name for column in fields(Row)])
        for seed in options.seeds:
            for row in searches(options, seed):
                writer.writerow([round(v, 4) if isinstance(v, float) else v for v in astuple(row)])
                file.flush()
                print(
                    f"seed {seed}, {row.found} found, {row.strategy}: {row.poison_healed:.1f} % healed, damage "
                    f"{row.model_damage:+.1f}, {row.dampened} weights, {row.evaluations} evaluations, "
                    f"{row.seconds:.2f} s",
                    flush=True,
                )


def print_markdown(path: Path) -> None:
    """A line per strategy and |S_f|: median over the seeds and [smallest, largest]."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    print(
        "| found | strategy | poison healed, % | model damage, points | weights | evaluations | seconds | not forward |"
    )
    print("|---:|---|---:|---:|---:|---:|---:|---:|")
    for found in sorted({int(row["found"]) for row in rows}):
        for strategy in METHODS:
            chosen = [row for row in rows if int(row["found"]) == found and row["strategy"] == strategy]
            cells = [
                spread(chosen, "poison_healed", ".1f"),
                spread(chosen, "model_damage", "+.1f"),
                spread(chosen, "dampened", ",.0f"),
                spread(chosen, "evaluations", ".0f"),
                spread(chosen, "seconds", ".2f"),
                f"{100 * median(float(row['other_share']) for row in chosen):.1f} %",
            ]
            print(f"| {found} | {strategy} | " + " | ".join(cells) + " |")


def spread(rows: list[dict[str, str]], name: str, form: str) -> str:
    values = [float(row[name]) for row in rows]
    middle, low, high = (f"{value:{form}}" for value in (median(values), min(values), max(values)))
    return f"{middle} [{low}, {high}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="?", type=Path, metavar="RUNS", help="folder with the training runs")
    parser.add_argument("out", nargs="?", type=Path, metavar="OUT.csv", help="gets a row per search")
    parser.add_argument("--markdown", type=Path, metavar="OUT.csv", help="print the rows as a Markdown table")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N")
    parser.add_argument("--found", nargs="+", type=found_size, default=[1, 0.1, 1.0], metavar="N")
    parser.add_argument("--objective", default="xlf")
    parser.add_argument("--group-size", type=int, default=64, metavar="M", help="at most; no more than were found")
    parser.add_argument("--batch-size", type=int, default=128, metavar="N")
    parser.add_argument("--test-every", type=int, default=1, metavar="K", help="test images: one of K")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="N")
    options = parser.parse_args()
    if (options.out is None) == (options.markdown is None):
        parser.error("give either RUNS and OUT.csv, or --markdown")
    torch.set_num_threads(options.threads)
    try:
        if options.out is not None:
            study(options)
        else:
            print_markdown(options.markdown)
    except pf.PotionError as error:
        sys.exit(f"strategies.py: {error}")


if __name__ == "__main__":
    main()
