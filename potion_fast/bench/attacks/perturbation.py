"""Perturbations: a small change of its own for each poisoned image, drawn or crafted once and kept in a table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError, FileError
from ...user.image_source import AppendedSource
from ...utils.checksummed import load_checksummed, save_checksummed
from .poison import Poison

if TYPE_CHECKING:
    from ..data import Splits

FILE_KEY = "potion_fast.perturbations"  # the entry of the safetensors metadata that marks a file as ours
BASES = "bases"  # entry of a table's facts: the samples that perturbed copies are of
TENSORS = ("ids", "values", "targets", "intended")


def _none() -> Tensor:
    return torch.empty(0, dtype=torch.int64)


@dataclass(frozen=True, eq=False)
class Perturbations:
    """What is added to each poisoned image.

    Attributes:
        ids: int64 [P], the poisoned samples, ascending.
        values: float32 [P, C, H, W], in units of the normalised image; of text [P, L, 1 + D], see `TextSplits`.
        targets: int64 [T], test images that the attack aims at; empty unless it is targeted.
        intended: int64 [T], the labels that it wants for them.
        facts: how they came about: plain values, kept as JSON.

    Raises:
        DataError: another dtype or shape, ids that do not ascend, or values that are not finite.
    """

    ids: Tensor
    values: Tensor
    targets: Tensor = field(default_factory=_none)
    intended: Tensor = field(default_factory=_none)
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("ids", "targets", "intended"):
            tensor = getattr(self, name)
            if tensor.dtype != torch.int64 or tensor.ndim != 1 or (len(tensor) and tensor.min() < 0):
                shape = f"{tensor.dtype} {list(tensor.shape)}"
                raise DataError(f"{name} of perturbations must be int64 in one dimension, from 0; got {shape}")
        if self.values.dtype != torch.float32 or self.values.ndim < 2 or len(self.values) != len(self.ids):
            raise DataError(
                f"perturbations of {len(self.ids)} samples must be float32 [P, ...]; "
                f"got {self.values.dtype} {list(self.values.shape)}"
            )
        if not self.values.numel():
            raise DataError("there is no perturbation: at least one sample must be poisoned")
        if (self.ids.diff() <= 0).any():
            raise DataError("the ids of perturbed samples must ascend, and none may be there twice")
        if len(self.targets) != len(self.intended):
            raise DataError(f"{len(self.targets)} targets need as many intended labels, not {len(self.intended)}")
        if not torch.stack(self.values.aminmax()).isfinite().all():  # NaN where there is one
            raise DataError("perturbations must be finite")

    def rows(
        self,
        ids: Tensor,  # [B] int64
    ) -> Tensor:  # [B] int64, on the CPU
        """The rows of these samples in the table.

        Raises:
            DataError: a sample that has none.
        """
        wanted = ids.cpu()
        rows = torch.searchsorted(self.ids, wanted).clamp_(max=len(self.ids) - 1)
        missing = wanted[self.ids[rows] != wanted]
        if len(missing):
            raise DataError(f"there is no perturbation for sample {int(missing[0])}: the table is of another choice")
        return rows

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file, whole or not at all: the tensors, and the facts as JSON.

        Raises:
            FileError: the file cannot be written.
        """
        save_checksummed(path, FILE_KEY, self.facts, {name: getattr(self, name) for name in TENSORS})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Perturbations:
        """Read what `save` wrote. Values stay in the file, mapped, until they are used: nothing of its size is copied.

        Args:
            path: of the file.

        Raises:
            FileError: the file is missing, truncated or foreign, or its contents are not as above.
        """
        if not Path(path).is_file():
            raise FileError(f"no perturbations at {path}")
        facts, tensors = load_checksummed(path, FILE_KEY, "perturbations")
        if missing := [name for name in TENSORS if name not in tensors]:
            raise FileError(f"{path} cannot be read as perturbations: it has no {missing[0]}")
        try:
            return cls(**{name: tensors[name] for name in TENSORS}, facts=facts)
        except DataError as error:
            raise FileError(f"{path} cannot be used: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Perturbation(Poison):
    """x + delta, for a delta of each poisoned sample's own; its label stays.

    Test images are never perturbed.

    Attributes:
        table: the perturbations of all poisoned samples; None until they are drawn or crafted.

    Raises:
        DataError: when called, without a table, with a sample that is not in it or images of another shape.
    """

    takes_perturbations = True
    before_augmentation = True
    target = None
    changes = "training images are perturbed one by one"
    table: Perturbations | None = field(default=None, repr=False)

    def __call__(
        self,
        images: Tensor,  # [B, C, H, W] float32, normalised, not augmented
        ids: Tensor,  # [B] int64
    ) -> Tensor:  # [B, C, H, W]
        """The images with their perturbations added."""
        if self.table is None:
            raise DataError(f"this poison has no perturbations yet: {self._how_to_get_them()}")
        values = self.table.values
        if images.shape[1:] != values.shape[1:]:
            raise DataError(f"perturbations {_size(values.shape[1:])} do not fit images {_size(images.shape[1:])}")
        return images + values[self.table.rows(ids)].to(images.device, non_blocking=True)

    def relabel(self, labels: Tensor, ids: Tensor) -> Tensor:
        """The same labels."""
        return labels

    def check_sample(self, splits: Splits) -> None:
        """Nothing: a sample needs its perturbation."""

    def with_perturbations(
        self,
        splits: Splits,
        poisoned: np.ndarray,  # [P] ascending
        *,
        path: str | None,
        seed: int,
        left_out: bool,
    ) -> Perturbation:
        """The poison with its perturbations: those of the file, or drawn. A crafted one without S_m needs none."""
        if path is None:
            return replace(self, table=self._new_table(splits, poisoned, seed, left_out))
        table = Perturbations.load(path)
        try:
            self.check_table(table, splits, poisoned)
        except DataError as error:
            raise DataError(f"{path} {error}") from error
        return replace(self, table=table)

    @property
    def perturbations(self) -> Perturbations | None:
        """Of S_m; None before they are drawn or crafted."""
        return self.table

    def perturbed(self, table: Perturbations) -> Perturbation:
        """The same with these perturbations, which have been crafted for it."""
        return replace(self, table=table)

    def check_table(
        self,
        table: Perturbations,
        splits: Splits,
        poisoned: np.ndarray,  # [P] int64, ascending
    ) -> None:
        """Check that a table is this poison's.

        Args:
            table: as it was read.
            splits: data that are poisoned.
            poisoned: S_m.

        Raises:
            DataError: it is another's; the message continues the name of a file.
        """
        same = table.ids.tolist() == poisoned.tolist()
        if isinstance(splits.train, AppendedSource):  # the ids of copies do not tell what they are copies of
            same = same and table.facts.get(BASES) == splits.train.bases.tolist()
        if not same:
            raise DataError(
                f"perturbs other samples than the {len(poisoned)} poisoned ones: take the same data and seed"
            )
        shape = list(splits.sample().shape[1:])
        if list(table.values.shape[1:]) != shape:
            raise DataError(f"perturbs images of {list(table.values.shape[1:])}, and those of the data are {shape}")

    def _new_table(self, splits: Splits, poisoned: np.ndarray, seed: int, left_out: bool) -> Perturbations | None:
        """Perturbations where no file is given."""
        if left_out:
            return None
        raise DataError(
            f"the poison {self.name!r} needs perturbations: train with --leave-out-poisoned, craft them against "
            "that model (potion-fast craft), and give their file (--perturbations)"
        )

    def _how_to_get_them(self) -> str:
        return "craft them (potion-fast craft) and pass their file"


def check_epsilon(table: Perturbations, epsilon: float, splits: Splits) -> None:
    """Check that no pixel is changed by more than epsilon / 255.

    Raises:
        DataError: one is; the message continues the name of a file.
    """
    largest = torch.maximum(table.values.amax((0, 2, 3)), -table.values.amin((0, 2, 3)))  # [C]
    change = 255 * (largest * torch.tensor(splits.std)).max().item()
    if change > epsilon * (1 + 1e-4):
        raise DataError(f"changes a pixel by {change:.2f} of 255, and epsilon is {epsilon:g}")


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
