"""Poison of which no sample was found: which labels are named, by chance or rightly, and what is found of it.

    unknown_poison.py OUT.csv RUN ...       every search that OUT.csv does not have yet
    unknown_poison.py OUT.csv --classes 1000 --poisoned 0 50 --seeds 0 1    the same of `simulated_classes`
    unknown_poison.py --markdown OUT.csv    the table for README.md

RUN is a run folder of `potion-fast train`, with poison or without (--leave-out-poisoned). Draw 0 is all of the training
data; each other draw is a half of it, uniform in the samples that were trained on.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from poisoned_runs import Row, Subject, append, left, percent, run_study, share, spread
from simulated_classes import TARGET, SimulatedClasses
from torch import nn
from torch.utils.data import DataLoader, Subset

from potion_fast.detection.features import Features, features_of
from potion_fast.detection.unknown_poison import unknown_poison
from potion_fast.utils.training_data import TrainingData

RATE = 0.05


@dataclass(frozen=True)
class Search(Row):
    """One search; OUT.csv has a line for each.

    run, model, attack, seed   of the training; the attack is "none" where it never saw poison
    draw, samples, poisoned what was searched, and how much of it is poison
    labels, poison_labels   of the data; those that the poison bears
    named, false_named      labels that are named, and how many of them bear no poison
    p_poison, p_others      least p-value of the poison's labels, and of the others
    suspects, right         how many, and how many of them are poison
    recall, recall_all      share of the poison that is suspect: of that with a wrong label, of all
    seconds                 of the search, without the features
    """

    KEY = ("run", "draw")

    run: str
    model: str
    attack: str
    seed: int
    draw: int
    samples: int
    poisoned: int
    labels: int
    poison_labels: int
    named: int
    false_named: int
    p_poison: float | None
    p_others: float | None
    suspects: int
    right: int
    recall: float | None
    recall_all: float | None
    seconds: float


@dataclass(frozen=True)
class Searched:
    """A network, its training data, and what of it is poison.

    Attributes:
        name: Of the training.
        kind: Of network.
        attack: "none" where it never saw poison.
        seed: Of the training.
        model: The network.
        data: Training data.
        features: Of all of it.
        poison: Positions, int64, of the poison, and of that with a wrong label.
    """

    name: str
    kind: str
    attack: str
    seed: int
    model: nn.Module
    data: Any
    features: Features
    poison: tuple[np.ndarray, np.ndarray]

    @classmethod
    def of_run(cls, run: Path) -> Searched:
        """From a run folder."""
        subject = Subject.load(run)
        config, data = subject.scenario.config, subject.train_set(augment=False)
        features = features_of(subject.model, TrainingData.of(data))
        none = np.empty(0, dtype=np.int64)
        if config.leave_out_poisoned:
            return cls(run.name, str(config.model), "none", config.seed, subject.model, data, features, (none, none))
        attack, poison = config.poison, subject.poison
        return cls(run.name, str(config.model), attack, config.seed, subject.model, data, features, poison)

    @classmethod
    def of_simulated(cls, name: str, classes: int, poisoned: int, seed: int, steps: int) -> Searched:
        """Trained here."""
        made = SimulatedClasses(seed, classes, poisoned=poisoned, steps=steps)
        clean, learnt = made.learnt()
        print(f"{name}: {clean:.1%} of the clean and {learnt:.1%} of the poisoned samples are learnt", flush=True)
        features = features_of(made.model, TrainingData.of(DataLoader(made.train_set, batch_size=512)))
        poison = made.poisoned.numpy()
        wrong = poison[made.true_labels[made.poisoned].numpy() != TARGET]
        kind, attack = f"simulated, {classes:,} classes", "shift" if poisoned else "none"
        return cls(name, kind, attack, seed, made.model, made.train_set, features, (poison, wrong))


def search(subject: Searched, draw: int) -> Search:
    """Search all of the training data, or a half of it."""
    samples = len(subject.features)
    rows = np.arange(samples)
    if draw:
        rows = np.sort(np.random.default_rng([subject.seed, draw]).choice(samples, samples // 2, replace=False))
    part = subject.features.chosen(torch.from_numpy(rows))
    data = TrainingData.of(DataLoader(Subset(subject.data, rows.tolist()), batch_size=512))
    start = time.perf_counter()
    listed = unknown_poison(subject.model, data, part, rate=RATE)
    seconds = time.perf_counter() - start
    poison, wrong = (np.flatnonzero(np.isin(rows, own)) for own in subject.poison)
    called, given = listed.indices.numpy(), part.labels.numpy()
    bearing = set(given[wrong].tolist())
    named = set(given[called].tolist())
    p_values = {row.label: row.p_value for row in listed.by_label}
    return Search(
        run=subject.name,
        model=subject.kind,
        attack=subject.attack,
        seed=subject.seed,
        draw=draw,
        samples=len(rows),
        poisoned=len(poison),
        labels=len(p_values),
        poison_labels=len(bearing),
        named=len(named),
        false_named=len(named - bearing),
        p_poison=min((p for label, p in p_values.items() if label in bearing), default=None),
        p_others=min((p for label, p in p_values.items() if label not in bearing), default=None),
        suspects=len(called),
        right=len(np.intersect1d(called, poison)),
        recall=share(np.intersect1d(called, wrong), wrong),
        recall_all=share(np.intersect1d(called, poison), poison),
        seconds=seconds,
    )


def study(options: argparse.Namespace) -> None:
    """Write each row as soon as it is there."""
    made: dict[str, Callable[[], Searched]] = {run.name: partial(Searched.of_run, run) for run in options.runs}
    for poisoned, seed in itertools.product(options.poisoned if options.classes else (), options.seeds):
        name = f"simulated-{options.classes}-{poisoned}-{seed}"
        made[name] = partial(Searched.of_simulated, name, options.classes, poisoned, seed, options.steps)
    for name, make in made.items():
        subject: Searched | None = None
        for _, draw in left([(name, draw) for draw in options.draws], options.out, Search):
            subject = subject or make()
            row = search(subject, draw)
            append(options.out, row)
            text = f"{row.named} of {row.labels} labels named, {row.false_named} wrongly"
            print(f"{row.run}, draw {draw}: {text}; {row.right} of {row.suspects} suspects right", flush=True)


def print_markdown(rows: Sequence[Search]) -> None:
    """A line for each network, attack and number of poisoned samples: all of the data, and halves of it."""
    heads = ["network", "attack", "searched", "searches", "with a label named", "labels named wrongly"]
    heads += ["least p, poison", "least p, others", "suspects right", "recall, %", "of all of S_m, %"]
    print("| " + " | ".join(heads) + " |")
    print("|---|---|---|" + "---:|" * (len(heads) - 3))
    groups: dict[tuple[Any, ...], list[Search]] = {}
    for row in sorted(rows, key=lambda row: (row.attack == "none", row.attack, row.model, -row.samples, row.draw > 0)):
        of = f"{row.poisoned} poisoned" if row.draw == 0 and row.poisoned else "all" if row.draw == 0 else "a half"
        groups.setdefault((row.model, row.attack, of), []).append(row)
    for key, group in groups.items():
        cells = [str(len(group)), str(sum(row.named > 0 for row in group)), str(sum(row.false_named for row in group))]
        for name in ("p_poison", "p_others"):
            known = [getattr(row, name) for row in group if getattr(row, name) is not None]
            cells.append(f"{max(known) if name == 'p_poison' else min(known):.2g}" if known else "")
        cells.append(f"{sum(row.right for row in group):,} of {sum(row.suspects for row in group):,}")
        cells += [spread((percent(getattr(row, name)) for row in group), ".1f") for name in ("recall", "recall_all")]
        print("| " + " | ".join([*key, *cells]) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path, metavar="OUT.csv", help="gets a row per search")
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="folders of trainings")
    parser.add_argument("--draws", nargs="+", type=int, default=[0], metavar="D", help="of samples (default: 0, all)")
    parser.add_argument("--classes", type=int, default=0, metavar="C", help="of simulated data, in place of runs")
    parser.add_argument("--poisoned", nargs="+", type=int, default=[0, 50], metavar="N", help="samples of such data")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="S", help="of such data (default: 0)")
    parser.add_argument("--steps", type=int, default=3000, metavar="N", help="of its training (default: 3000)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of the CPU (default: 1)")
    parser.add_argument("--markdown", type=Path, metavar="OUT.csv", help="print sums as a Markdown table")
    options = parser.parse_args()
    if bool(options.runs or options.classes) == bool(options.markdown):
        parser.error("give either OUT.csv and RUN or --classes, or --markdown")
    run_study(options, study, print_markdown, Search)


if __name__ == "__main__":
    main()
