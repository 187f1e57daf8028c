"""Healing of poisoned models, on all test images: PTN, `heal` and retraining, over numbers found and draws of S_f.

    healing.py OUT.csv RUN[=CLEAN] ...   heal in every combination that OUT.csv does not have yet
    healing.py --markdown OUT.csv        the table for README.md
    healing.py --seeds OUT.csv           every row of it, seed by seed
    healing.py --attack-success OUT.csv  what `heal` estimates the attack success to be, beside the true one

RUN is a run folder of `potion-fast train`; CLEAN one of the same data trained with --leave-out-poisoned, whose model is
evaluated on RUN's attacked samples, as "never poisoned". "none" is the poisoned model as it is; "ptn" and "heal" are
`unlearn` and `heal` with their defaults; "retrain" is a training from the beginning without S_f. Draw 0 of S_f is that
of `potion-fast`, others are uniform in S_m. Poison healed is a percentage of the model never poisoned.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from poisoned_runs import Row, Subject, append, left, percent, read_rows, run_and_clean, spread
from torch import nn

import potion_fast as pf
from potion_fast.bench.metrics import model_damage, poison_healed
from potion_fast.bench.runs.architecture import fresh_model, loss_of
from potion_fast.bench.training.train import seed_everything
from potion_fast.bench.unlearners import Loaders, make_unlearner
from potion_fast.utils.cost import Cost

UNTOUCHED, NEVER = "none", "never poisoned"  # what is measured once, with nothing found
ESTIMATES = tuple(f"{model}{end}" for model in ("before", "after") for end in ("", "_low", "_high"))
REPEATED = ("iterations", "optimizer", "lr", "momentum", "nesterov", "weight_decay", "schedule")  # by retraining


@dataclass(frozen=True)
class Healing(Row):
    """One healing; OUT.csv has a line for each.

    run, model, attack      name of the run folder, network, attack
    seed, samples, poisoned of the training: its seed, |S_tr|, |S_m|
    found, draw, natural    |S_f|, the number of its draw, and how many of it bear their true label
    clean, target           accuracy on clean test images, of all and of the poison's class, or both of a swap; shares
    attacked, attack_rate   accuracy on triggered test images with their labels, and attack success rate; of a swap
                            accuracy on S_m with its true labels, and share of wrong labels memorised
    damage                  model damage, points
    suspects, right         suspects without S_f, and how many of them are in S_m
    recall, recall_all      share of S_m without S_f that is suspect: of those with a wrong label, of all
    rate                    false discovery rate that is stated for the suspects
    source, labels_right    where their labels are from, and the share of them that is true
    way                     how the suspects' trigger is put onto clean samples to estimate the attack success
    before, before_low, before_high   that of the given model, estimated, and the ends of its 90 % interval
    after, after_low, after_high      that of the healed one
    forward, backward       samples that went through the model
    epochs                  the same in epochs of training
    seconds, reason, warnings   wall-clock time of all of it; why it ended; what deserves a second look
    """

    KEY = ("run", "found", "draw", "method")

    run: str
    model: str
    attack: str
    seed: int
    samples: int
    poisoned: int
    found: int
    draw: int
    natural: int
    method: str
    clean: float
    target: float
    attacked: float
    attack_rate: float
    damage: float
    suspects: int | None
    right: int | None
    recall: float | None
    recall_all: float | None
    rate: float | None
    source: str
    labels_right: float | None
    way: str
    before: float | None
    before_low: float | None
    before_high: float | None
    after: float | None
    after_low: float | None
    after_high: float | None
    forward: int
    backward: int
    epochs: float
    seconds: float
    reason: str
    warnings: str


@dataclass
class Outcome:
    """What a method gives back: the model, its cost, and columns of a row."""

    model: nn.Module
    cost: Cost = field(default_factory=Cost)
    columns: dict[str, Any] = field(default_factory=dict)


def untouched(subject: Subject, found: np.ndarray) -> Outcome:
    """The poisoned model."""
    return Outcome(subject.model)


def never_poisoned(subject: Subject, found: np.ndarray) -> Outcome:
    """That of the clean run."""
    return Outcome(subject.never_poisoned())


def ptn(subject: Subject, found: np.ndarray) -> Outcome:
    """`unlearn` with its defaults, and the loaders of `potion-fast unlearn`."""
    scenario, samples = subject.scenario, subject.trained_on[found].tolist()
    size = scenario.config.batch_size
    result = pf.unlearn(
        subject.model,
        scenario.retain_loader(samples, holds_forget=False, batch_size=size, seed=scenario.config.seed),
        scenario.forget_loader(samples, augment=True, batch_size=size),
        evaluation_loader=scenario.forget_loader(samples, augment=False, batch_size=size),
    )
    passed = len(subject.trained_on)  # S_f and the rest
    cost = Cost(passed + result.evaluations * len(found), passed)
    return Outcome(result.model, cost, {"reason": result.reason, "warnings": "; ".join(result.warnings)})


def heal(subject: Subject, found: np.ndarray) -> Outcome:
    """`heal` with its defaults."""
    result = pf.heal(
        subject.model,
        subject.train_set(augment=True),
        found.tolist(),
        batch_size=subject.scenario.config.batch_size,
        plain_set=subject.train_set(augment=False),
        seed=subject.scenario.config.seed,
    )
    columns = {"reason": result.reason, "warnings": "; ".join(result.warnings)}
    columns |= subject.suspect_columns(found, result.suspects.indices) | {"rate": result.suspects.rate}
    right = result.labels.labels == subject.labels[0][result.labels.indices]
    columns |= {"source": result.labels.source, "labels_right": float(right.double().mean())}
    for name, estimate in (("before", result.attack.before), ("after", result.attack.after)):
        if estimate is not None:
            columns |= {name: estimate.success, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return Outcome(result.model, result.cost, columns | {"way": result.attack.way})


def retrain(subject: Subject, found: np.ndarray) -> Outcome:
    """A new model, trained as the poisoned one was, without S_f."""
    scenario, config = subject.scenario, subject.scenario.config
    repeated = {name: getattr(config, name) for name in REPEATED}
    fresh = partial(fresh_model, config, scenario.splits)
    method = make_unlearner("eu", fresh=fresh, loss=loss_of(config), seed=config.training_seed, keep="last", **repeated)
    samples = subject.trained_on[found].tolist()
    loader = scenario.retain_loader(samples, holds_forget=False, batch_size=None, seed=config.training_seed)
    trained = method(subject.model, Loaders(forget=(), retain=loader))
    passed = trained.gradient_steps * config.batch_size
    return Outcome(trained.model, Cost(passed, passed))


METHODS: dict[str, Callable[[Subject, np.ndarray], Outcome]] = {
    UNTOUCHED: untouched,
    NEVER: never_poisoned,
    "ptn": ptn,
    "heal": heal,
    "retrain": retrain,
}


@dataclass
class Measured:
    """A subject with its scores before."""

    subject: Subject
    before: dict[str, float]

    @classmethod
    def load(cls, run: Path, clean: Path | None) -> Measured:
        """Evaluates it."""
        subject = Subject.load(run, clean)
        return cls(subject, subject.scores(subject.model))

    def row(self, method: str, count: int, draw: int) -> Healing:
        """Heal, and evaluate."""
        subject, config = self.subject, self.subject.scenario.config
        found = subject.draw(count, draw) if count else np.empty(0, dtype=np.int64)
        seed_everything(config.seed)
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pf.PotionWarning)  # they stand in the row
            outcome = METHODS[method](subject, found)
        seconds = time.perf_counter() - start
        scores = self.before if outcome.model is subject.model else subject.scores(outcome.model)
        true, given = subject.labels
        columns = {"suspects": None, "right": None, "recall": None, "recall_all": None, "rate": None}
        columns |= {"source": "", "labels_right": None, "reason": "", "warnings": "", "way": ""}
        columns |= dict.fromkeys(ESTIMATES) | outcome.columns
        return Healing(
            run=subject.name,
            model=str(config.model),
            attack=config.poison,
            seed=config.seed,
            samples=len(subject.trained_on),
            poisoned=len(subject.scenario.poisoned),
            found=count,
            draw=draw,
            natural=int((true[found] == given[found]).sum()),
            method=method,
            clean=scores["clean"],
            target=scores["target"],
            attacked=scores["attacked"],
            attack_rate=scores["attack"],
            damage=model_damage(scores["clean"], self.before["clean"]),
            forward=outcome.cost.forward,
            backward=outcome.cost.backward,
            epochs=outcome.cost.epochs(len(subject.trained_on)),
            seconds=seconds,
            **columns,
        )


def study(options: argparse.Namespace) -> None:
    """Write each row as soon as it is measured."""
    for run, clean in options.runs:
        measured: Measured | None = None
        keys = [(run.name, *key) for key in combinations(options) if clean is not None or key[2] != NEVER]
        for _, found, draw, method in left(keys, options.out, Healing):
            measured = measured or Measured.load(run, clean)
            row = measured.row(method, found, draw)
            append(options.out, row)
            print(line_of(row), flush=True)


def combinations(options: argparse.Namespace) -> Iterator[tuple[int, int, str]]:
    """|S_f|, draw and method; what needs no S_f once, with nothing found."""
    for method in options.methods:
        if method in (UNTOUCHED, NEVER):
            yield 0, 0, method
        else:
            yield from ((found, draw, method) for found, draw in itertools.product(options.found, options.draws))


def line_of(row: Healing) -> str:
    """What a reader wants of a row."""
    return (
        f"{row.run}, {row.found} found ({row.draw}), {row.method}: attacked {row.attacked:.1%} right, damage "
        f"{row.damage:+.1f}, attack {row.attack_rate:.1%}, {row.epochs:.2f} epochs, {row.seconds:.0f} s"
    )


def healed(row: Healing, rows: Sequence[Healing]) -> float | None:
    """Poison healed, percent; None for a run whose model never poisoned was not measured."""
    never = [other.attacked for other in rows if (other.run, other.method) == (row.run, NEVER)]
    return poison_healed(row.attacked, never[0]) if never else None


def print_markdown(rows: Sequence[Healing]) -> None:
    """A line for each attack, network, number found and method: mean and standard deviation over seeds and draws."""
    heads = ["attack", "network", "found", "method", "healed, %", "attacked right, %", "damage, points", "attack, %"]
    heads += ["its class, %", "recall, %", "precision, %", "labels right, %", "epochs", "healings"]
    print("| " + " | ".join(heads) + " |")
    print("|---|---|---:|---|" + "---:|" * (len(heads) - 4))
    groups: dict[tuple[Any, ...], list[Healing]] = {}
    for row in sorted(rows, key=_order):
        groups.setdefault((row.attack, row.model, f"{row.found} of {row.poisoned}", row.method), []).append(row)
    for key, group in groups.items():
        cells = [
            spread((healed(row, rows) for row in group), ".1f"),
            spread((100 * row.attacked for row in group), ".1f"),
            spread((row.damage for row in group), "+.1f"),
            spread((100 * row.attack_rate for row in group), ".1f"),
            spread((100 * row.target for row in group), ".1f"),
            spread((percent(row.recall) for row in group), ".1f"),
            spread((100 * row.right / row.suspects for row in group if row.right is not None and row.suspects), ".1f"),
            spread((percent(row.labels_right) for row in group), ".1f"),
            spread((row.epochs for row in group), ".2f"),
            str(len(group)),
        ]
        print("| " + " | ".join([*map(str, key), *cells]) + " |")


def _order(row: Healing) -> tuple[Any, ...]:
    """By attack, network and number poisoned; what needs no S_f first, then from many found to few."""
    return row.attack, row.model, row.poisoned, row.found > 0, -row.found, list(METHODS).index(row.method)


def print_rows(rows: Sequence[Healing]) -> None:
    """Every healing."""
    heads = ["run", "found", "draw", "method", "healed, %", "attacked right, %", "damage", "attack, %", "suspects"]
    print("| " + " | ".join([*heads, "right", "labels"]) + " |")
    print("|---|---:|---:|---|" + "---:|" * 6 + "---|")
    for row in rows:
        cells = [row.run, row.found, row.draw, row.method, spread([healed(row, rows)], ".1f")]
        cells += [f"{100 * row.attacked:.1f}", f"{row.damage:+.1f}".replace("-", "−"), f"{100 * row.attack_rate:.1f}"]
        cells += [row.suspects, row.right, row.source]
        print("| " + " | ".join("" if cell is None else str(cell) for cell in cells) + " |")


def print_estimates(rows: Sequence[Healing]) -> None:
    """Every healing with an estimate, and how many of the intervals hold the true attack success."""
    print("| run | found | trigger put on by | before, % | true | after, % | true |")
    print("|---|---:|---|" + "---:|" * 4)
    given = {row.run: row.attack_rate for row in rows if row.method == UNTOUCHED}
    held: dict[str, list[bool]] = {"before": [], "after": []}
    widths: dict[str, list[float]] = {"before": [], "after": []}
    for row in rows:
        if row.method != "heal" or not row.way or row.run not in given:
            continue
        cells = [row.run, str(row.found), row.way]
        for name, true in (("before", given[row.run]), ("after", row.attack_rate)):
            share, low, high = (getattr(row, f"{name}{end}") for end in ("", "_low", "_high"))
            cells += [f"{100 * share:.1f} ({100 * low:.1f} to {100 * high:.1f})", f"{100 * true:.1f}"]
            held[name].append(low <= true <= high)
            widths[name].append(100 * (high - low))
        print("| " + " | ".join(cells) + " |")
    for name, inside in held.items():
        if inside:
            print(
                f"\n{name.capitalize()}: {sum(inside)} of {len(inside)} intervals hold the true attack success; ",
                end="",
            )
            print(f"their median width is {median(widths[name]):.1f} points.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path, metavar="OUT.csv", help="gets a row per healing")
    parser.add_argument("runs", nargs="*", type=run_and_clean, metavar="RUN[=CLEAN]", help="folders of trainings")
    parser.add_argument("--found", nargs="+", type=int, default=[20], metavar="N", help="|S_f| (default: 20)")
    parser.add_argument("--draws", nargs="+", type=int, default=[0], metavar="D", help="of S_f (default: 0)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=[UNTOUCHED, NEVER, "ptn", "heal"])
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of the CPU (default: 1)")
    parser.add_argument("--markdown", type=Path, metavar="OUT.csv", help="print means as a Markdown table")
    parser.add_argument("--seeds", type=Path, metavar="OUT.csv", help="print every row as a Markdown table")
    parser.add_argument("--attack-success", type=Path, metavar="OUT.csv", help="print estimates beside true values")
    options = parser.parse_args()
    if bool(options.runs) == bool(options.markdown or options.seeds or options.attack_success):
        parser.error("give either OUT.csv and RUN, or --markdown, --seeds or --attack-success")
    torch.set_num_threads(options.threads)
    try:
        if options.runs:
            study(options)
        if options.markdown:
            print_markdown(read_rows(options.markdown, Healing))
        if options.seeds:
            print_rows(read_rows(options.seeds, Healing))
        if options.attack_success:
            print_estimates(read_rows(options.attack_success, Healing))
    except pf.PotionError as error:
        sys.exit(f"healing.py: {error}")


if __name__ == "__main__":
    main()
