"""How good suspects are: false ones against the stated rate, and recall, over numbers found and draws of S_f.

    suspects.py OUT.csv RUN ...          every combination that OUT.csv does not have yet
    suspects.py --markdown OUT.csv       the table for README.md

RUN is a run folder of `potion-fast train`. Its features are taken once. Each draw of S_f is uniform in S_m; with
--wrong so large a share of it is clean samples that bear the same labels instead.
"""

from __future__ import annotations

import argparse
import itertools
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from poisoned_runs import Row, Subject, append, left, percent, run_study, spread

import potion_fast as pf
from potion_fast.detection.detect import suspects_from
from potion_fast.detection.features import Features, features_of
from potion_fast.utils.training_data import TrainingData


@dataclass(frozen=True)
class Detection(Row):
    """One search for the rest of the poison; OUT.csv has a line for each.

    run, attack, seed, samples, poisoned   of the training
    found, wrong, draw      |S_f|, the share of it that is clean, and the number of its draw
    rate                    the false discovery rate that is asked for
    kind                    what the poison was taken for
    suspects, right         without S_f: how many, and how many of them are poison
    false_share             share of the suspects, without S_f, that are no poison; 0 without suspects
    recall, recall_all      share of the rest of S_m that is suspect: of those with a wrong label, of all
    poison_fits, wrong_fits share of S_f's members said to belong: of the poisoned and of the clean ones
    seconds, warnings       of the search, without the features; what deserves a second look
    """

    KEY = ("run", "found", "wrong", "draw", "rate")

    run: str
    attack: str
    seed: int
    samples: int
    poisoned: int
    found: int
    wrong: float
    draw: int
    rate: float
    kind: str
    suspects: int
    right: int
    false_share: float
    recall: float | None
    recall_all: float | None
    poison_fits: float | None
    wrong_fits: float | None
    seconds: float
    warnings: str


def data_of(subject: Subject) -> TrainingData:
    """All training data as trained on, without augmentation."""
    return TrainingData.of(subject.train_set(augment=False))


def detection(subject: Subject, features: Features, found: int, wrong: float, draw: int, rate: float) -> Detection:
    """Search from one S_f."""
    clean = round(wrong * found)
    poison = subject.draw(found - clean, draw)
    members = np.concatenate([poison, clean_members(subject, poison, clean, draw)])
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pf.PotionWarning)  # they stand in the row
        result = suspects_from(features, torch.from_numpy(np.sort(members)), rate=rate, data=data_of(subject))
    seconds = time.perf_counter() - start
    columns = subject.suspect_columns(members, result.indices)
    fits = dict(zip(result.found.tolist(), result.fits.tolist(), strict=True))
    of_poison, of_clean = ([fits[i] for i in part.tolist()] for part in (poison, members[len(poison) :]))
    return Detection(
        run=subject.name,
        attack=subject.scenario.config.poison,
        seed=subject.scenario.config.seed,
        samples=len(subject.trained_on),
        poisoned=len(subject.scenario.poisoned),
        found=found,
        wrong=wrong,
        draw=draw,
        rate=rate,
        kind=result.kind,
        false_share=1 - columns["right"] / columns["suspects"] if columns["suspects"] else 0.0,
        poison_fits=fmean(of_poison) if of_poison else None,
        wrong_fits=fmean(of_clean) if of_clean else None,
        seconds=seconds,
        warnings="; ".join(result.warnings),
        **columns,
    )


def clean_members(subject: Subject, poison: np.ndarray, count: int, draw: int) -> np.ndarray:
    """Clean samples that bear the labels of S_f's poison, in its proportions."""
    given = subject.labels[1].numpy()
    generator = np.random.default_rng([subject.scenario.config.seed, draw, count])
    clean = np.setdiff1d(np.arange(len(given)), subject.positions(subject.scenario.poisoned))
    labels = generator.choice(given[poison], count)  # of each clean member
    chosen = [
        generator.choice(clean[given[clean] == label], int((labels == label).sum()), replace=False)
        for label in np.unique(labels)
    ]
    return np.concatenate(chosen) if chosen else np.empty(0, dtype=np.int64)


def study(options: argparse.Namespace) -> None:
    """Write each row as soon as it is there."""
    for run in options.runs:
        subject: Subject | None = None
        features: Features | None = None
        sizes = [size for size in itertools.product(options.found, options.wrong) if size[0] > 1 or not size[1]]
        keys = [(run.name, *size, draw, options.rate) for size in sizes for draw in range(1, options.draws + 1)]
        for _, found, wrong, draw, rate in left(keys, options.out, Detection):
            subject = subject or Subject.load(run)
            features = features or features_of(subject.model, data_of(subject))
            row = detection(subject, features, found, wrong, draw, rate)
            append(options.out, row)
            recall = "" if row.recall is None else f", recall {row.recall:.1%}"
            right = f"{row.right} of {row.suspects} right{recall}"
            print(f"{row.run}, {found} found, {wrong:.0%} wrong, draw {draw}: {right}", flush=True)


def print_markdown(rows: Sequence[Detection]) -> None:
    """A line for each run, |S_f| and share of wrong members: means over the draws."""
    heads = ["run", "found", "wrong among them", "false, %", "stated, %", "holds", "recall, %", "of all of S_m, %"]
    heads += ["suspects", "poison that fits, %", "wrong ones that fit, %", "draws"]
    print("| " + " | ".join(heads) + " |")
    print("|---|---:|---:|---:|---:|---|" + "---:|" * (len(heads) - 6))
    groups: dict[tuple[Any, ...], list[Detection]] = {}
    for row in rows:
        groups.setdefault((row.run, f"{row.found} of {row.poisoned}", f"{row.wrong:.0%}", row.rate), []).append(row)
    for (run, found, wrong, rate), group in groups.items():
        shares = [row.false_share for row in group]
        error = stdev(shares) / len(shares) ** 0.5 if len(shares) > 1 else 0.0
        cells = [f"{100 * fmean(shares):.1f} ± {100 * error:.1f}", f"{100 * rate:.0f}"]
        cells.append("yes" if fmean(shares) <= rate + error else "**no**")
        for name in ("recall", "recall_all"):
            cells.append(spread((percent(getattr(row, name)) for row in group), ".1f"))
        cells.append(spread((row.suspects for row in group), ".0f"))
        for name in ("poison_fits", "wrong_fits"):
            cells.append(spread((percent(getattr(row, name)) for row in group), ".0f"))
        print("| " + " | ".join([run, found, wrong, *cells, str(len(group))]) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path, metavar="OUT.csv", help="gets a row per search")
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="folders of trainings")
    parser.add_argument("--found", nargs="+", type=int, default=[20, 5, 1], metavar="N", help="|S_f| (default: 20 5 1)")
    parser.add_argument(
        "--wrong", nargs="+", type=float, default=[0.0, 0.5], metavar="SHARE", help="of S_f, clean (default: 0 0.5)"
    )
    parser.add_argument("--draws", type=int, default=10, metavar="N", help="of S_f (default: 10)")
    parser.add_argument("--rate", type=float, default=0.05, metavar="SHARE", help="of false ones (default: 0.05)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of the CPU (default: 1)")
    parser.add_argument("--markdown", type=Path, metavar="OUT.csv", help="print means as a Markdown table")
    options = parser.parse_args()
    if bool(options.runs) == bool(options.markdown):
        parser.error("give either OUT.csv and RUN, or --markdown")
    run_study(options, study, print_markdown, Detection)


if __name__ == "__main__":
    main()
