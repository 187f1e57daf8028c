"""List of suspects: samples of the training set that are taken for poison, as found, printed, saved and read back."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError, FileError
from ..utils.atomic_files import written_whole
from ..utils.training_data import check_indices

COLUMNS = ("index", "file", "score", "p_value", "given", "proposed", "found", "fits")
TRIGGER, SWAP, GIVEN = "trigger", "swap", "given"  # kinds
TABLE = {"label": 6, "samples": 8, "found": 6, "fit": 5, "suspects": 9, "share": 7, "apart": 6, "p": 7}  # widths
SHOWN = 12  # rows of each part when printed


@dataclass(frozen=True)
class LabelSummary:
    """What was found among the samples of one label.

    Attributes:
        label: Given label.
        samples: With it, in the training set.
        found: Of S_f.
        fitting: Of those, how many belong to the poison.
        suspects: Samples beyond S_f that are called poison.
        share: Estimated share of poison in the label's samples, S_f included.
        separation: Between poison and the others, in standard deviations of the others' scores.
        note: What deserves a second look; empty where nothing does.
        p_value: Probability of what was seen, were there no poison with this label; NaN where S_f shows that there is.
    """

    label: int
    samples: int
    found: int
    fitting: int
    suspects: int
    share: float
    separation: float
    note: str = ""
    p_value: float = math.nan


@dataclass(frozen=True, eq=False, repr=False)
class Suspects:
    """Samples of the training set that are taken for poison, most suspect first.

    Attributes:
        indices: int64 [K], of the training set: members of S_f that fit, and the rest.
        scores: float64 [K], how far the sample is from the others of its label, towards the poison, in their standard
            deviations; NaN for a sample that a user added.
        p_values: float64 [K], probability of such a score for a sample that is no poison, or where the input is the
            reason, of having so much of what the other suspects have in common; NaN likewise.
        labels: int64 [K], given labels; -1 where a user's list does not say.
        rate: Stated false discovery rate: expected share of false ones among the suspects that are not of S_f. NaN
            where none is stated.
        found: int64 [F], S_f, ascending.
        fits: bool [F], whether the member of S_f belongs to the poison.
        kind: "trigger", "swap", or "given" for a user's list.
        why: Why the arm of that kind ran.
        by_label: What was found, for each label of S_f.
        below: int64 [L], the samples that came nearest to being suspects, nearest first.
        below_scores: float64 [L], their scores.
        proposed: int64 [K], labels to train with instead, -1 where there is none; None where there are none at all.
        warnings: What deserves a second look, as sentences.
    """

    indices: Tensor
    scores: Tensor
    p_values: Tensor
    labels: Tensor
    rate: float
    found: Tensor
    fits: Tensor
    kind: str
    why: str = ""
    by_label: tuple[LabelSummary, ...] = ()
    below: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    below_scores: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))
    proposed: Tensor | None = None
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.indices)

    @classmethod
    def of_indices(
        cls, indices: Iterable[int] | Tensor, *, labels: Tensor | None = None, found: Iterable[int] | Tensor = ()
    ) -> Suspects:
        """Suspects of a user's own list, in its order.

        Args:
            indices: Of the training set.
            labels: Labels of the whole training set, int64 [N], where they are known.
            found: Those of them that are S_f.

        Raises:
            DataError: An index is none of the training set, or given twice.
        """
        listed = _whole_numbers(indices)
        members = _whole_numbers(found).unique()
        unknown = torch.full((len(listed),), math.nan, dtype=torch.float64)
        made = cls(
            indices=listed,
            scores=unknown,
            p_values=unknown.clone(),
            labels=torch.full_like(listed, -1),
            rate=math.nan,
            found=members,
            fits=torch.isin(members, listed),
            kind=GIVEN,
            why="the suspects were given",
        )
        made._check_once()
        return made if labels is None else made.checked(labels)

    def checked(self, labels: Tensor) -> Suspects:
        """The same list for a training set: its labels filled in, and those that the list knows compared.

        Args:
            labels: Of the whole training set, int64 [N].

        Raises:
            DataError: An index is none of the training set, or the sample has another label there.
        """
        for name, part in (("suspects", self.indices), ("found", self.found)):
            if (outside := part[(part < 0) | (part >= len(labels))]).numel():
                raise DataError(
                    f"{name} have the index {int(outside[0])}, and the training set has {len(labels)} samples, from 0"
                )
        there = labels.cpu().long()[self.indices]
        if (other := (self.labels >= 0) & (self.labels != there)).any():
            row = int(other.nonzero()[0])
            raise DataError(
                f"the suspects are of other data: the sample {int(self.indices[row])} has the label "
                f"{int(self.labels[row])} in their list and {int(there[row])} in the training set"
            )
        return replace(self, labels=there)

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        files: Sequence[str] | None = None,
        proposed: Tensor | None = None,
    ) -> None:
        """Write the list as CSV, to be looked at and edited: one row a suspect, most suspect first.

        Members of S_f that do not fit stand at the end, with 0 in the column `fits`.

        Args:
            path: Of the file.
            files: File name of each sample of the training set.
            proposed: int64 [K], as the attribute, which is written where this is None.

        Raises:
            DataError: Another number of proposed labels than of suspects.
            FileError: It cannot be written.
        """
        proposed = self.proposed if proposed is None else proposed
        if proposed is not None and len(proposed) != len(self):
            raise DataError(f"{len(proposed)} labels were proposed for {len(self)} suspects; give one each, or -1")
        members = set(self.found.tolist())
        labels = [-1] * len(self) if proposed is None else proposed.tolist()
        rows: list[dict[str, Any]] = [
            {
                "index": index,
                "score": _text(score),
                "p_value": _text(p_value),
                "given": _text(given),
                "proposed": _text(label),
                "found": int(index in members),
                "fits": 1,
            }
            for index, score, p_value, given, label in zip(
                self.indices.tolist(),
                self.scores.tolist(),
                self.p_values.tolist(),
                self.labels.tolist(),
                labels,
                strict=True,
            )
        ]
        rows += [{"index": index, "found": 1, "fits": 0} for index in self.found[~self.fits].tolist()]
        if files is not None:
            rows = [row | {"file": files[row["index"]]} for row in rows]
        with written_whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="")
            writer.writeheader()
            writer.writerows(rows)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Suspects:
        """Read a list that was saved, and perhaps edited: rows taken out, or added with nothing but an index.

        No rate is stated for it, and its kind is "given".

        Args:
            path: Of the file: CSV with a header that has the column `index`; the others may be missing.

        Raises:
            FileError: The file is missing or unreadable.
            DataError: A row is wrong; it is named.
        """
        rows = _rows(path)
        suspects = [row for row in rows if _whole(row, "fits", 1)]
        found = [row for row in rows if _whole(row, "found", 0)]
        order = sorted((_whole(row, "index"), _whole(row, "fits", 1)) for row in found)
        proposed = torch.tensor([_whole(row, "proposed", -1) for row in suspects], dtype=torch.int64)
        made = cls(
            indices=torch.tensor([_whole(row, "index") for row in suspects], dtype=torch.int64),
            scores=torch.tensor([_number(row, "score") for row in suspects], dtype=torch.float64),
            p_values=torch.tensor([_number(row, "p_value") for row in suspects], dtype=torch.float64),
            labels=torch.tensor([_whole(row, "given", -1) for row in suspects], dtype=torch.int64),
            rate=math.nan,
            found=torch.tensor([index for index, _ in order], dtype=torch.int64),
            fits=torch.tensor([bool(fits) for _, fits in order], dtype=torch.bool),
            kind=GIVEN,
            why=f"the suspects were read from {os.fspath(path)}",
            proposed=proposed if (proposed >= 0).any() else None,
        )
        made._check_once()
        return made

    def _check_once(self) -> None:
        """Raises DataError for an index below 0 or one that is there twice."""
        values, counts = self.indices.unique(return_counts=True)
        if (counts > 1).any():
            raise DataError(f"the suspects have the sample {int(values[counts > 1][0])} twice; keep it once")
        if len(values) and values[0] < 0:
            raise DataError(f"suspects have the index {int(values[0])}; samples are counted from 0")

    def __repr__(self) -> str:
        stated = (
            "no rate of false ones is stated" if math.isnan(self.rate) else f"false ones: at most {100 * self.rate:g} %"
        )
        beyond = ~torch.isin(self.indices, self.found)
        lines = [
            f"{len(self)} suspects ({self.kind}), {int(beyond.sum())} not among the {len(self.found)} found; {stated}"
        ]
        lines += [self.why] if self.why else []
        if self.by_label:
            lines.append(" ".join(f"{head:>{width}}" for head, width in TABLE.items()))
        lines += [
            f"{row.label:>6} {row.samples:>8} {row.found:>6} {row.fitting:>5} {row.suspects:>9} {row.share:>7.1%} "
            f"{row.separation:>6.1f} {_p_value(row.p_value):>7}" + (f"  {row.note}" if row.note else "")
            for row in self.by_label[:SHOWN]
        ]
        if len(self.by_label) > SHOWN:
            lines.append(f"and {len(self.by_label) - SHOWN} more labels")
        parts = {
            "most suspect (index: score)": _listed(self.indices[:SHOWN], self.scores[:SHOWN]),
            "last above the line": _listed(self.indices[beyond][-SHOWN:].flip(0), self.scores[beyond][-SHOWN:].flip(0)),
            "first below it": _listed(self.below[:SHOWN], self.below_scores[:SHOWN]),
            "found, but not like the others": ", ".join(map(str, self.found[~self.fits][:SHOWN].tolist())),
        }
        lines += [f"{name}: {text}" for name, text in parts.items() if text]
        lines += [f"warning: {text}" for text in self.warnings[:SHOWN]]
        return "\n".join(lines)


def _p_value(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.1g}" if value < 0.01 else f"{value:.2f}"


def _listed(indices: Tensor, scores: Tensor) -> str:
    return ", ".join(f"{index}: {score:.1f}" for index, score in zip(indices.tolist(), scores.tolist(), strict=True))


def _whole_numbers(indices: Iterable[int] | Tensor) -> Tensor:
    """int64 [K], in their order. Raises DataError where they are none."""
    try:
        given = torch.as_tensor(indices if isinstance(indices, Tensor) else list(indices))
    except (TypeError, ValueError, RuntimeError):
        raise DataError("suspects must be indices of samples, whole numbers from 0") from None
    if given.numel() and (
        given.ndim != 1 or given.is_floating_point() or given.is_complex() or given.dtype == torch.bool
    ):
        raise DataError(
            f"suspects must be indices, whole numbers in one dimension, not {given.dtype} {list(given.shape)}"
        )
    return given.detach().cpu().flatten().long()


def _text(value: float) -> str:
    """Of a cell; empty for what is unknown. A float's has every digit that it needs."""
    return "" if math.isnan(value) or (isinstance(value, int) and value < 0) else repr(value)


def _rows(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.DictReader(file, delimiter=";" if ";" in first else ",")  # some spreadsheets write semicolons
            columns = reader.fieldnames or ()
            rows = [row | {"line": f"{os.fspath(path)}, line {reader.line_num}"} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FileError(f"cannot read the suspects in {os.fspath(path)}: {error}") from error
    if "index" not in columns:
        raise DataError(f"{os.fspath(path)} has no column 'index'; its first line must name the columns")
    return rows


def _whole(row: Mapping[str, Any], column: str, missing: int | None = None) -> int:
    text = (row.get(column) or "").strip()
    if not text and missing is not None:
        return missing
    try:
        return int(text)
    except ValueError:
        raise DataError(f"{row['line']}: {column} is {text!r}, not a whole number") from None


def _number(row: Mapping[str, Any], column: str) -> float:
    text = (row.get(column) or "").strip()
    try:
        return float(text) if text else math.nan
    except ValueError:
        raise DataError(f"{row['line']}: {column} is {text!r}, not a number") from None


def suspect_indices(suspects: Any, samples: int) -> Tensor:
    """Of suspects in their order, int64 [K]; ascending where there are doubles.

    Args:
        suspects: A `Suspects`, or indices of the training set.
        samples: Of the training set.

    Raises:
        DataError: They are no indices.
    """
    given = suspects if isinstance(suspects, Tensor) else getattr(suspects, "indices", suspects)
    ascending = check_indices(given, samples, "suspects")
    order = torch.as_tensor(list(given) if not isinstance(given, Tensor) else given).long()
    return order if len(order) == len(ascending) else ascending
