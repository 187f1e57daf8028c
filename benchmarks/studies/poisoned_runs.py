"""Poisoned models of `potion-fast train`, and what the studies of healing share: data, draws of S_f, scores, rows.

A study's rows are appended to its CSV as they come; those that are there already are not made again.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, ClassVar, TypeVar, get_type_hints

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from potion_fast.bench.configs import EvaluateConfig
from potion_fast.bench.runs.evaluations import evaluated
from potion_fast.bench.runs.inputs import load_trained, load_weights
from potion_fast.bench.runs.scenario import Scenario
from potion_fast.errors import DataError, PotionError
from potion_fast.user.run_folder import RunFolder

SAME_DATA = ("data", "train_size", "image_size", "seed", "mean", "std")  # of a run and the one never poisoned


@dataclass(frozen=True)
class Subject:
    """A poisoned model and its data.

    Attributes:
        name: of the run folder.
        model: in evaluation mode.
        scenario: its data and attack.
        clean: run folder of a model never poisoned; None without.
    """

    name: str
    model: nn.Module
    scenario: Scenario
    clean: Path | None = None

    @classmethod
    def load(cls, run: Path, clean: Path | None = None) -> Subject:
        """Raises PotionError for a run that is missing, unfinished or broken."""
        folder = RunFolder.open(run)
        config = EvaluateConfig(run=str(folder.path)).resolved()
        scenario, _ = load_trained(folder, config)
        return cls(Path(run).name, load_weights(folder, scenario, config.device)[0].eval(), scenario, clean)

    def never_poisoned(self) -> nn.Module:
        """The model of the clean run, which was trained on the same data without poison.

        Raises:
            DataError: the run saw poison, or other data.
        """
        run = self.clean
        assert run is not None
        twin = Subject.load(run)
        ours, theirs = self.scenario.config.to_dict(), twin.scenario.config.to_dict()
        if not twin.scenario.config.leave_out_poisoned:
            raise DataError(f"{run} was trained with poison; one that never saw any has --leave-out-poisoned")
        if other := [name for name in SAME_DATA if ours.get(name) != theirs.get(name)]:
            raise DataError(f"{run} was trained on other data than {self.name}: {', '.join(other)} differ")
        return twin.model

    @cached_property
    def trained_on(self) -> np.ndarray:
        """Indices of the samples that were trained on, ascending; a position in it is an index of `train_set`."""
        return np.asarray(self.scenario.trained_on)

    def train_set(self, *, augment: bool) -> Dataset[Any]:
        """The samples that were trained on, with the poison."""
        return Subset(self.scenario.train_set(augment), self.trained_on.tolist())

    def positions(self, samples: Sequence[int]) -> np.ndarray:  # int64, ascending
        """Of samples, in `train_set`."""
        return np.searchsorted(self.trained_on, np.sort(np.asarray(samples, dtype=np.int64)))

    @cached_property
    def labels(self) -> tuple[Tensor, Tensor]:
        """Of `train_set`: int64 [N] true ones, and [N] those that were trained with."""
        data = self.scenario.train_set(augment=False)
        return data.source.labels[self.trained_on], data.labels[self.trained_on]

    @cached_property
    def poison(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the poison, and of that with a wrong label. What a swap left as it was is none."""
        true, given = (labels.numpy() for labels in self.labels)
        poisoned = self.positions(self.scenario.poisoned)
        wrong = poisoned[true[poisoned] != given[poisoned]]
        return (wrong if self.scenario.poison.kind == "swap" else poisoned), wrong

    def suspect_columns(self, found: np.ndarray, suspects: Tensor) -> dict[str, Any]:
        """How good suspects are, S_f among them not counted: "suspects", "right", "recall" and "recall_all"."""
        poison, wrong = (np.setdiff1d(part, found) for part in self.poison)
        called = np.setdiff1d(suspects.numpy(), found)
        return {
            "suspects": len(called),
            "right": len(np.intersect1d(called, poison)),
            "recall": share(np.intersect1d(called, wrong), wrong),
            "recall_all": share(np.intersect1d(called, poison), poison),
        }

    def draw(self, count: int, draw: int) -> np.ndarray:  # int64 [count], ascending
        """Positions of an S_f: of draw 0 as `potion-fast` draws it, of others uniformly from S_m by their number."""
        if draw == 0:
            return self.positions(self.scenario.draw_found(count))
        generator = np.random.default_rng([self.scenario.config.seed, draw])
        return self.positions(generator.choice(self.scenario.poisoned, count, replace=False))

    def scores(self, model: nn.Module) -> dict[str, float]:
        """What a model does on all test images: "clean", "attacked", "attack" and "target", shares.

        "attacked" is the accuracy on triggered test images, or on S_m of a swap; "attack" the attack success rate, or
        the share of swapped labels that are memorised; "target" the accuracy on clean test images of the poison's
        class, or of the two that were swapped, or of all for a random swap.
        """
        evaluation, poison = evaluated(model, self.scenario), self.scenario.poison
        right = evaluation.clean_logits.argmax(1) == evaluation.labels
        metrics = {name: metric.value for name, metric in evaluation.metrics.items()}
        target = metrics.get("pair_accuracy", metrics["clean_accuracy"])
        if poison.target is not None:
            target = float(right[evaluation.labels == poison.target].float().mean())
        attacked, attack = (metrics[name] for name in poison.score_names)
        return {"clean": metrics["clean_accuracy"], "attacked": attacked, "attack": attack, "target": target}


@dataclass(frozen=True)
class Row:
    """A line of a study's CSV.

    Attributes:
        KEY: names of the fields that tell two rows apart.
    """

    KEY: ClassVar[tuple[str, ...]]

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells it from other rows."""
        return tuple(getattr(self, name) for name in self.KEY)


AnyRow = TypeVar("AnyRow", bound=Row)


def run_and_clean(text: str) -> tuple[Path, Path | None]:
    """RUN or RUN=CLEAN."""
    run, _, clean = text.partition("=")
    return Path(run), Path(clean) if clean else None


def read_rows(path: Path, kind: type[AnyRow]) -> list[AnyRow]:
    """Rows of a study; none where there is no file yet. An empty cell is None.

    Raises:
        DataError: the columns are others.
    """
    if not path.exists():
        return []
    types = {name: hint for name, hint in get_type_hints(kind).items() if name != "KEY"}
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        columns = set(reader.fieldnames or ())
        if other := sorted(columns ^ types.keys()):
            raise DataError(f"{path} is of another study, or another version of this one: {', '.join(other)} differ")
        return [kind(**{name: _value(text, types[name]) for name, text in row.items()}) for row in reader]


def _value(text: str, hint: Any) -> Any:
    kinds = getattr(hint, "__args__", (hint,))  # of X | None
    if text == "" and type(None) in kinds:
        return None
    return kinds[0](text)


def append(path: Path, row: Row) -> None:
    """Write a row at the end of a study's CSV, in one piece, so that several processes may share the file."""
    values = [getattr(row, column.name) for column in fields(row)]
    cells = ["" if value is None else round(value, 5) if isinstance(value, float) else value for value in values]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if not os.fstat(file.fileno()).st_size:
            writer.writerow([column.name for column in fields(row)])
        writer.writerow(cells)


def left(keys: Iterable[tuple[Any, ...]], path: Path, kind: type[Row]) -> Iterator[tuple[Any, ...]]:
    """The keys that the CSV has no row of; it is read again before each, as another process may share it."""
    for key in keys:
        if key not in {row.key for row in read_rows(path, kind)}:
            yield key


def spread(values: Iterable[float | None], form: str) -> str:
    """Mean ± standard deviation, of those that are there; the one value, or nothing."""
    there = [value for value in values if value is not None]
    if not there:
        return ""
    mean = f"{fmean(there):{form}}".replace("-", "−")
    return mean if len(there) == 1 else f"{mean} ± {stdev(there):{form.replace('+', '')}}"


def share(part: np.ndarray, whole: np.ndarray) -> float | None:
    """None where there is nothing to be found."""
    return len(part) / len(whole) if len(whole) else None


def percent(value: float | None) -> float | None:
    """Of a share; None where there is none."""
    return None if value is None else 100 * value


def run_study(
    options: argparse.Namespace,
    study: Callable[[argparse.Namespace], None],
    print_markdown: Callable[[list[AnyRow]], None],
    row: type[AnyRow],
) -> None:
    """Do what a study's command line asks for: print the table of `options.markdown`, or else measure."""
    torch.set_num_threads(options.threads)
    try:
        if options.markdown is None:
            study(options)
        else:
            print_markdown(read_rows(options.markdown, row))
    except PotionError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
