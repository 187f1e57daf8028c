"""What each part of `heal` is worth: one part at a time is changed, the others stay.

    healing_ablation.py OUT.csv RUN=CLEAN ...   every change that OUT.csv does not have yet
    healing_ablation.py --markdown OUT.csv      the table for README.md

RUN is a run folder of `potion-fast train`, CLEAN one of the same data trained with --leave-out-poisoned. What is
changed: the source of the labels ("true": the true ones, which nobody has), what is relabelled (S_f alone, all of S_m),
the model that is fine-tuned (what `unlearn` gives), the share of an epoch in which the rate falls, how many suspects
there are in a batch, and the share of the others' loss that is distillation.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from healing import ptn
from poisoned_runs import Row, Subject, append, left, run_and_clean, run_study
from torch import Tensor, nn

import potion_fast as pf
from potion_fast.bench.metrics import model_damage, poison_healed
from potion_fast.bench.training.train import seed_everything
from potion_fast.detection.detect import suspects_from
from potion_fast.detection.features import Features, features_of
from potion_fast.detection.suspect_list import Suspects
from potion_fast.finetuning import batches, finetune, steps
from potion_fast.relabel import propose_labels
from potion_fast.relabel.propose import SOURCES
from potion_fast.utils.training_data import TrainingData

TRUE = "true"
USUAL = "suspects"  # what is relabelled
CHANGES: dict[str, tuple[Any, ...]] = {
    "as it is": ("",),
    "labels": (*(source for source in SOURCES if source not in ("auto", "swap")), TRUE),
    "relabelled": ("S_f", "S_m"),
    "start": ("dampened",),
    "share of an epoch": (0.03, 0.1, 1.0),
    "suspects per batch": (4, 8, 32, 64),
    "distilled": (0.0, 1.0),
}


@dataclass(frozen=True)
class Ablation(Row):
    """One healing; OUT.csv has a line for each.

    run, seed, found        the poisoned model, and |S_f|
    change, value           what is not as in `heal`
    clean, target, attacked, attack_rate, healed, damage   see healing.py
    suspects, labels_right  how many are relabelled, and the share of their labels that is true
    steps, kept             of the fine-tuning, and the step whose model is given back
    seconds, reason         of the fine-tuning and its labels; why it ended
    """

    KEY = ("run", "found", "change", "value")

    run: str
    seed: int
    found: int
    change: str
    value: str
    clean: float
    target: float
    attacked: float
    attack_rate: float
    healed: float
    damage: float
    suspects: int
    labels_right: float
    steps: int
    kept: int
    seconds: float
    reason: str


class Parts:
    """The parts of `heal` on one poisoned model, each made once.

    Args:
        run: of the poisoned model.
        clean: of the one never poisoned.
        found: |S_f|.
    """

    def __init__(self, run: Path, clean: Path, found: int) -> None:
        self.subject = Subject.load(run, clean)
        self.found = self.subject.draw(found, 0)
        self.seed = self.subject.scenario.config.seed
        self.train_set, self.plain = (self.subject.train_set(augment=augment) for augment in (True, False))
        self.before = self.subject.scores(self.subject.model)
        self.reference = self.subject.scores(self.subject.never_poisoned())

    @cached_property
    def features(self) -> Features:
        """Of the training data."""
        return features_of(self.subject.model, TrainingData.of(self.plain))

    @cached_property
    def suspects(self) -> Suspects:
        """As `heal` finds them."""
        return suspects_from(self.features, torch.from_numpy(self.found), data=TrainingData.of(self.plain))

    @cached_property
    def dampened(self) -> nn.Module:
        """What `unlearn` gives."""
        return ptn(self.subject, self.found).model

    def relabelled(self, what: str) -> Tensor:
        """Positions int64 [K] of what gets other labels."""
        if what == "S_f":
            return torch.from_numpy(self.found)
        return torch.from_numpy(self.subject.poison[0]) if what == "S_m" else self.suspects.indices

    def labels(self, source: str, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Positions and labels of a source, int64 [K] both."""
        if source == TRUE:
            return indices, self.subject.labels[0][indices]
        proposed = propose_labels(
            self.subject.model,
            self.plain,
            indices,
            source=source,
            features=self.features,
            found=self.found.tolist(),
            seed=self.seed,
        )
        return proposed.indices, proposed.labels

    def row(self, change: str, value: Any) -> Ablation:
        """Heal with one part changed."""
        subject = self.subject
        seed_everything(self.seed)
        start = time.perf_counter()
        indices = self.relabelled(value if change == "relabelled" else USUAL)
        indices, labels = self.labels(value if change == "labels" else "auto", indices)
        model = self.dampened if change == "start" else subject.model
        with changed(change, value):
            tuned = finetune(model, self.train_set, indices, labels, found=self.found.tolist(), seed=self.seed)
        seconds = time.perf_counter() - start
        scores = subject.scores(tuned.model)
        return Ablation(
            run=subject.name,
            seed=self.seed,
            found=len(self.found),
            change=change,
            value=str(value),
            clean=scores["clean"],
            target=scores["target"],
            attacked=scores["attacked"],
            attack_rate=scores["attack"],
            healed=poison_healed(scores["attacked"], self.reference["attacked"]),
            damage=model_damage(scores["clean"], self.before["clean"]),
            suspects=len(indices),
            labels_right=float((labels == subject.labels[0][indices]).double().mean()),
            steps=tuned.trace[-1].step,
            kept=tuned.after.step,
            seconds=seconds,
            reason=tuned.reason,
        )


@contextlib.contextmanager
def changed(change: str, value: Any) -> Iterator[None]:
    """Another share of an epoch, however few or many steps that is, other batches, or another loss."""
    with contextlib.ExitStack() as stack:
        if change == "share of an epoch":
            stack.enter_context(patch.object(batches, "SHARE", value))
            stack.enter_context(patch.object(batches, "STEPS", (1, sys.maxsize)))
        if change == "suspects per batch":
            stack.enter_context(patch.object(batches, "SUSPECTS", value))
        if change == "distilled":
            stack.enter_context(patch.object(steps, "DISTILLED", value))
        yield


def study(options: argparse.Namespace) -> None:
    """Write each row as soon as it is there."""
    for run, clean in options.runs:
        parts: Parts | None = None
        changes = [(change, str(value)) for change in options.changes for value in CHANGES[change]]
        values = {(change, str(value)): value for change in CHANGES for value in CHANGES[change]}
        for _, found, *change in left([(run.name, options.found, *pair) for pair in changes], options.out, Ablation):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", pf.PotionWarning)  # of models that are not healed, which the row shows
                parts = parts or Parts(run, clean, found)
                row = parts.row(change[0], values[tuple(change)])
            append(options.out, row)
            text = f"{row.healed:.1f} % healed, damage {row.damage:+.1f}, attack {row.attack_rate:.1%}"
            print(f"{row.run}, {row.change} {row.value}: {text}", flush=True)


def print_markdown(rows: Sequence[Ablation]) -> None:
    """A line for each change."""
    heads = ["run", "changed", "to", "healed, %", "damage, points", "attack, %", "its class, %", "relabelled"]
    heads += ["labels right, %", "steps, kept"]
    print("| " + " | ".join(heads) + " |")
    print("|---|---|---|" + "---:|" * (len(heads) - 3))
    for row in rows:
        cells = [f"{row.healed:.1f}", f"{row.damage:+.1f}".replace("-", "−"), f"{100 * row.attack_rate:.1f}"]
        cells += [f"{100 * row.target:.1f}", str(row.suspects), f"{100 * row.labels_right:.1f}"]
        cells.append(f"{row.steps}, {row.kept}")
        print("| " + " | ".join([row.run, row.change, row.value, *cells]) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path, metavar="OUT.csv", help="gets a row per healing")
    parser.add_argument("runs", nargs="*", type=run_and_clean, metavar="RUN=CLEAN", help="folders of trainings")
    parser.add_argument("--found", type=int, default=20, metavar="N", help="|S_f| (default: 20)")
    parser.add_argument("--changes", nargs="+", choices=CHANGES, default=list(CHANGES), help="(default: all)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of the CPU (default: 1)")
    parser.add_argument("--markdown", type=Path, metavar="OUT.csv", help="print the rows as a Markdown table")
    options = parser.parse_args()
    if bool(options.runs) == bool(options.markdown) or not all(clean for _, clean in options.runs):
        parser.error("give either OUT.csv and RUN=CLEAN, or --markdown")
    run_study(options, study, print_markdown, Ablation)


if __name__ == "__main__":
    main()
