"""PTN from a part of the training data: accuracies over the share of it that the importances are taken from.

    importance_share.py RUN=CLEAN NAME OUT.csv  heal the model of a run of `potion-fast train`; adds rows to OUT.csv
    importance_share.py --markdown OUT.csv      print them as a Markdown table

CLEAN is a run of the same data trained with --leave-out-poisoned: poison healed is a percentage of its model.

One pass over the training data without S_f (the default settings of `unlearn`) gives the sums of every 8 groups. Draws
are orders of these blocks, the first one the loader's, and a share is the first of them. "auto" reads as many as
`unlearn(…, samples="auto")` does in that order.
"""

from __future__ import annotations

import argparse
import csv
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from group_size import thinned
from poisoned_runs import Subject, run_and_clean
from torch import Tensor
from typing_extensions import override

import potion_fast as pf
from potion_fast.bench.metrics import evaluate_poison, model_damage, poison_healed
from potion_fast.bench.training.train import seed_everything
from potion_fast.distributed import Ranks
from potion_fast.importances import PassOptions
from potion_fast.importances.checkpoints import Position
from potion_fast.importances.part import KnownThresholds, Part
from potion_fast.importances.passes import computed
from potion_fast.modes import mode_named

BLOCK = 8  # groups
SHARES = (1, 2, 5, 10, 20, 50)  # one of so many groups is read


@dataclass(frozen=True)
class Row:
    """One healing; OUT.csv has a line for each.

    share              1/N of the groups, or "auto"
    groups, samples    that the importances of the training data are taken from
    of                 samples of the training data without S_f
    error              that "auto" estimates, in steps of the schedule; nan for others
    *_accuracy, attack_success_rate   of the healed model, in [0, 1], on one of `test_every` test images
    poison_healed      of that of the model never poisoned, in %
    model_damage       points of clean accuracy on the same images
    dampened, step     weights changed, and the step of the schedule that was kept
    """

    run: str
    found: int
    draw: int
    share: str
    groups: int
    samples: int
    of: int
    error: float
    clean_accuracy: float
    triggered_accuracy: float
    attack_success_rate: float
    poison_healed: float
    model_damage: float
    dampened: int
    step: int
    reason: str
    test_every: int


class Blocks(Part):
    """Reads all, and keeps the sums at every 8th group."""

    def __init__(self) -> None:
        super().__init__(Ranks())
        self.reached: list[tuple[int, Tensor]] = []

    @override
    def marks(self) -> Iterator[int]:
        return iter(range(BLOCK, 10**9, BLOCK))

    @override
    def ends(self, position: Position, sums: list[Tensor]) -> bool:
        if position.terms % BLOCK == 0 and position.terms > (self.reached[-1][0] if self.reached else 0):
            self.reached.append((position.terms, sums[0][0].clone()))
        return False


@dataclass(frozen=True)
class Pass:
    """Importances of S_f, and of the training data in blocks: sums [B, n] and groups [B]."""

    forget: pf.Importance
    whole: pf.Importance
    sums: Tensor
    groups: list[int]

    @classmethod
    def run(cls, model: torch.nn.Module, retain: Iterable[Any], forget: Iterable[Any], group_size: int) -> Pass:
        blocks = Blocks()
        of_found = pf.importance(model, forget, group_size=group_size)
        options = PassOptions(samples="auto", progress=True)
        (whole,), _ = computed(model, retain, None, group_size=group_size, options=options, part=lambda ranks: blocks)
        ends = [(0, torch.zeros_like(whole.sums)), *blocks.reached]
        if whole.terms > ends[-1][0]:
            ends.append((whole.terms, whole.sums))
        pairs = list(zip(ends, ends[1:], strict=False))
        sums = torch.stack([after[1] - before[1] for before, after in pairs])
        return cls(of_found, whole, sums, [after[0] - before[0] for before, after in pairs])

    def part(self, blocks: list[int]) -> pf.Importance:
        """Importances of some blocks."""
        terms, m = sum(self.groups[block] for block in blocks), int(self.whole.group_size)
        samples = min(terms * m, self.whole.samples)
        total = None if samples == self.whole.samples else self.whole.samples
        return replace(self.whole, sums=self.sums[blocks].sum(0), samples=samples, terms=terms, data_samples=total)

    def auto(self, order: list[int]) -> tuple[int, float]:
        """How many blocks of an order `samples="auto"` reads, and its estimate of the error."""

        def percentiles(samples: int) -> list[float]:
            return [p for _, p in pf.SearchOptions().grid(self.forget.samples, samples)]

        rule = KnownThresholds(self.forget, percentiles, self.whole.samples, Ranks())
        sums, terms = torch.zeros_like(self.sums[:1]), 0
        for count, block in enumerate(order, start=1):
            rule.before(Position(0, terms), [sums])
            sums, terms = sums + self.sums[block], terms + self.groups[block]
            if rule.ends(Position(0, terms), [sums]):
                return count, rule.error
        return len(order), rule.error


def study(run: Path, clean_run: Path, name: str, out: Path, draws: int, test_every: int) -> None:
    subject = Subject.load(run, clean_run)
    scenario, model = subject.scenario, subject.model
    found, target = scenario.found, scenario.poison.target
    group_size = mode_named("default").group_size_for(len(found))
    assert isinstance(group_size, int)
    test = thinned(scenario.test_loader(False), test_every), thinned(scenario.test_loader(True), test_every)
    seed_everything(0)
    retain = scenario.retain_loader(found, holds_forget=False, batch_size=None, seed=0)
    forget = scenario.forget_loader(found, augment=True, batch_size=None)
    passed = Pass.run(model, retain, forget, group_size)
    as_stored = list(scenario.forget_loader(found, augment=False, batch_size=None))
    before, twin = (evaluate_poison(part, *test, target).metrics for part in (model, subject.never_poisoned()))
    full = [block for block, groups in enumerate(passed.groups) if groups == BLOCK]
    for draw in range(draws):
        order = full if draw == 0 else np.random.default_rng(draw).permutation(full).tolist()
        shares: list[tuple[str, list[int], float]] = [
            (f"1/{n}", order[: math.ceil(len(order) / n)], math.nan) for n in SHARES[1:]
        ]
        count, error = passed.auto(order)
        shares.append(("auto", order[:count], error))
        if draw == 0:
            shares.insert(0, ("1/1", list(range(len(passed.groups))), math.nan))
        for share, blocks, error in shares:
            part = passed.part(blocks)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", pf.PotionWarning)  # the reason stands in the row
                result = pf.ptn_search(model, passed.forget, part, as_stored)
            values = {key: metric.value for key, metric in evaluate_poison(result.model, *test, target).metrics.items()}
            clean, triggered, attack = (
                values[key] for key in ("clean_accuracy", "triggered_accuracy", "attack_success_rate")
            )
            read = part.terms, part.samples, part.total, round(error, 3)
            kept = (0, 0) if result.kept is None else (result.kept.dampened, result.kept.step)
            healed = poison_healed(triggered, twin["triggered_accuracy"].value)
            damage = model_damage(clean, before["clean_accuracy"].value)
            measured = [round(value, 6) for value in (clean, triggered, attack, healed, damage)]
            append(out, Row(name, len(found), draw, share, *read, *measured, *kept, result.reason, test_every))


def append(out: Path, row: Row) -> None:
    new = not out.exists()
    with out.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(field.name for field in fields(Row))
        writer.writerow(astuple(row))


def print_markdown(path: Path) -> None:
    """A line for each run and share; where there are several draws, [smallest, largest]."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    print("| run | found | share | samples | healed | damage | clean | triggered | attack success | weights dampened |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for run in dict.fromkeys(row["run"] for row in rows):
        for share in [*(f"1/{n}" for n in SHARES), "auto"]:
            own = [row for row in rows if (row["run"], row["share"]) == (run, share)]
            if not own:
                continue
            cells = [spread(own, "samples", "{:,.0f}".format)]
            cells += [spread(own, "poison_healed", "{:.1f} %".format), spread(own, "model_damage", "{:+.1f}".format)]
            cells += [
                spread(own, key, lambda v: f"{100 * v:.1f} %")
                for key in ("clean_accuracy", "triggered_accuracy", "attack_success_rate")
            ]
            cells += [spread(own, "dampened", "{:,.0f}".format)]
            print(f"| {run} | {own[0]['found']} | {share} | " + " | ".join(cells) + " |")


def spread(rows: list[dict[str, str]], key: str, shown: Callable[[float], str]) -> str:
    values = [float(row[key]) for row in rows]
    low, high = shown(min(values)), shown(max(values))
    return low if low == high else f"{low} to {high}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "runs", nargs="?", type=run_and_clean, metavar="RUN=CLEAN", help="folders of the two training runs"
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="of the run, in the rows")
    parser.add_argument("out", nargs="?", type=Path, metavar="OUT.csv", help="gets a row per healing")
    parser.add_argument("--draws", type=int, default=3, metavar="N", help="orders of the blocks (default: 3)")
    parser.add_argument("--test-every", type=int, default=1, metavar="K", help="test images: one of K (default: 1)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of the CPU (default: 1)")
    parser.add_argument("--markdown", type=Path, metavar="OUT.csv", help="print the rows as a Markdown table")
    options = parser.parse_args()
    if (options.out is None) == (options.markdown is None):
        parser.error("give either RUN=CLEAN, NAME and OUT.csv, or --markdown")
    torch.set_num_threads(options.threads)
    if options.markdown is not None:
        print_markdown(options.markdown)
    else:
        study(*options.runs, options.name, options.out, options.draws, options.test_every)


if __name__ == "__main__":
    main()
