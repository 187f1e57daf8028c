"""What becomes of a healed model that is trained further: does the trigger come back?

    after_attacks.py OUT.csv RUN=CLEAN ...   every combination that OUT.csv does not have yet
    after_attacks.py --markdown OUT.csv      the table for README.md

RUN is a run folder of `potion-fast train` on a trigger, CLEAN one of the same data trained with --leave-out-poisoned.
Four models are trained further: the poisoned one ("none"), those that `unlearn` and `heal` give from S_f, and the one
that never saw poison ("never poisoned"). "retuning": five poisoned samples that were not found, among 2 % of the
training data, clean; "fine-tuning": a fifth of the training data, clean, and no poison. Both: 5 epochs, SGD, learning
rate 0.01, momentum 0.9, batches of 128. The samples are drawn by the number of the draw.
"""

from __future__ import annotations

import argparse
import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from healing import METHODS, NEVER
from poisoned_runs import Row, Subject, append, left, run_and_clean, run_study, spread
from torch import nn

import potion_fast as pf
from potion_fast.bench.data import make_loader
from potion_fast.bench.training.train import seed_everything, train
from potion_fast.utils.copies import copy_model

MODELS = ("none", "ptn", "heal", NEVER)
EPOCHS, RATE, BATCH = 5, 0.01, 128
ATTACKS = {"retuning": (5, 0.02), "fine-tuning": (0, 0.2)}  # poisoned samples; share of the training data, clean


@dataclass(frozen=True)
class AfterAttack(Row):
    """One training after a healing; OUT.csv has a line for each.

    run, attack, seed, found   of the healed model
    method                  how it was healed, see above
    after, draw             the training that follows, and its draw; "nothing" for the model as it was given back
    clean, attacked, attack_rate   on all test images: accuracy, accuracy on triggered ones, attack success rate
    """

    KEY = ("run", "found", "method", "after", "draw")

    run: str
    attack: str
    seed: int
    found: int
    method: str
    after: str
    draw: int
    clean: float
    attacked: float
    attack_rate: float


def attacked_further(subject: Subject, model: nn.Module, found: np.ndarray, after: str, draw: int) -> nn.Module:
    """A copy of the model, trained on."""
    count, part = ATTACKS[after]
    samples, poisoned = len(subject.trained_on), subject.positions(subject.scenario.poisoned)
    generator = np.random.default_rng([subject.scenario.config.seed, draw, count])
    clean = generator.choice(np.setdiff1d(np.arange(samples), poisoned), int(part * samples), replace=False)
    seen = np.concatenate([clean, generator.choice(np.setdiff1d(poisoned, found), count, replace=False)])
    data, rows = subject.scenario.train_set(augment=True), subject.trained_on[np.sort(seen)]
    loader = make_loader(data, rows, batch_size=BATCH, shuffle=True, seed=draw)
    seed_everything(draw)
    model = copy_model(model)
    train(model, loader, iterations=EPOCHS * len(loader), optimizer="sgd", lr=RATE, momentum=0.9, schedule="constant")
    return model.eval()


class Models:
    """The models of a run, each made when it is asked for.

    Args:
        subject: the poisoned one.
        found: S_f.
    """

    def __init__(self, subject: Subject, found: np.ndarray) -> None:
        self.subject, self.found = subject, found
        self.made: dict[str, nn.Module] = {}

    def __getitem__(self, method: str) -> nn.Module:
        if method not in self.made:
            seed_everything(self.subject.scenario.config.seed)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", pf.PotionWarning)  # they stand in the rows of healing.py
                self.made[method] = METHODS[method](self.subject, self.found).model.eval()
        return self.made[method]


def study(options: argparse.Namespace) -> None:
    """Write each row as soon as it is there."""
    for run, clean in options.runs:
        subject: Subject | None = None
        models: Models | None = None
        trainings = [("nothing", 0), *itertools.product(ATTACKS, range(1, options.draws + 1))]
        keys = [(run.name, options.found, method, *training) for method in options.models for training in trainings]
        for _, count, method, after, draw in left(keys, options.out, AfterAttack):
            subject = subject or Subject.load(run, clean)
            models = models or Models(subject, subject.draw(count, 0))
            model = models[method]
            if after in ATTACKS:
                model = attacked_further(subject, model, models.found, after, draw)
            scores, config = subject.scores(model), subject.scenario.config
            row = AfterAttack(
                run=subject.name,
                attack=config.poison,
                seed=config.seed,
                found=count,
                method=method,
                after=after,
                draw=draw,
                clean=scores["clean"],
                attacked=scores["attacked"],
                attack_rate=scores["attack"],
            )
            append(options.out, row)
            text = f"attack {row.attack_rate:.1%}, clean {row.clean:.1%}"
            print(f"{run.name}, {method}, after {after} ({draw}): {text}", flush=True)


def print_markdown(rows: Sequence[AfterAttack]) -> None:
    """A line for each run and model: what it is before and after, means over draws."""
    after = ("nothing", *ATTACKS)
    scores = ("attack", "triggered", "clean")
    heads = [f"{name}: {score}, %" for name in ("as given back", *ATTACKS) for score in scores]
    print("| run | found | model | " + " | ".join(heads) + " |")
    print("|---|---:|---|" + "---:|" * len(heads))
    groups: dict[tuple[Any, ...], list[AfterAttack]] = {}
    for row in rows:
        groups.setdefault((row.run, row.found, row.method), []).append(row)
    for key, group in groups.items():
        cells = [
            spread((100 * getattr(row, score) for row in group if row.after == name), ".1f")
            for name in after
            for score in ("attack_rate", "attacked", "clean")
        ]
        print("| " + " | ".join([*map(str, key), *cells]) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path, metavar="OUT.csv", help="gets a row per training")
    parser.add_argument("runs", nargs="*", type=run_and_clean, metavar="RUN=CLEAN", help="folders of trainings")
    parser.add_argument("--found", type=int, default=20, metavar="N", help="|S_f| (default: 20)")
    parser.add_argument("--draws", type=int, default=3, metavar="N", help="of what is trained on (default: 3)")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, help="(default: all four)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of the CPU (default: 1)")
    parser.add_argument("--markdown", type=Path, metavar="OUT.csv", help="print means as a Markdown table")
    options = parser.parse_args()
    if bool(options.runs) == bool(options.markdown) or not all(clean for _, clean in options.runs):
        parser.error("give either OUT.csv and RUN=CLEAN, or --markdown")
    run_study(options, study, print_markdown, AfterAttack)


if __name__ == "__main__":
    main()
