"""Result of a pass over the data: sums over its groups in one flat buffer, and what they are sums of."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import FileError, ImportanceError
from ..modes import GroupSize
from ..utils.checksummed import load_checksummed, save_checksummed
from ..utils.model import ModelParameters
from ..utils.warn import warn_caller

FILE_KEY = "potion_fast.importance"  # the entry of the safetensors metadata that marks a file as ours


@dataclass(frozen=True)
class Importance:
    """Importances Ω (*Potion*, eq. 3 and 4) or 𝕀 (eq. 1) of n parameters over a set of samples.

    `importance[name]` is the mean over the groups, in the parameter's shape. What is computed from the sums is kept
    until they are written to: `mean` takes as much memory as they do, `mean32` 4n bytes more where they are float64.

    Attributes:
        sums: [n] float32 or float64: the sum over all groups of |gradient| or gradient².
        shapes: Parameter name -> shape, in the order of the buffer.
        samples: Samples of the pass.
        terms: Groups summed; equal to `samples` where group_size is 1.
        objective: Name of the objective.
        group_size: Samples per group, or "batch".
        fingerprint: Of the weights that they were computed on.
        fallback: Parameters that no rule covered and that went through torch.func or a loop: exact as well, but slower.
        data_samples: Samples of the data of which the pass has read a part; None where it has read all.
    """

    sums: Tensor = field(repr=False)
    shapes: dict[str, tuple[int, ...]] = field(repr=False)
    samples: int
    terms: int
    objective: str
    group_size: GroupSize
    fingerprint: str
    fallback: tuple[str, ...] = ()
    data_samples: int | None = None

    @property
    def total(self) -> int:
        """Samples of the data, read or not."""
        return self.samples if self.data_samples is None else self.data_samples

    @property
    def mean(self) -> Tensor:
        """Mean over the groups, [n], in the dtype of the sums."""
        return self._cached("mean", lambda: self.sums / self.terms)

    @property
    def mean32(self) -> Tensor:
        """The mean, [n], rounded to float32: what thresholds and edits are made from."""
        return self.mean if self.sums.dtype == torch.float32 else self._cached("mean32", self._rounded_mean)

    @property
    def unusable(self) -> str | None:
        """The first parameter whose mean is negative or not finite in float32; None where all is well."""
        return self._cached("unusable", self._first_unusable)

    def _cached(self, name: str, compute: Callable[[], Any]) -> Any:
        """What `compute` gives, computed once for each state of the sums."""
        state = id(self.sums), 0 if self.sums.is_inference() else self.sums._version
        if self.__dict__.get("_state") != state:
            self.__dict__.update(_state=state, _cache={})
        cache = self.__dict__["_cache"]
        if name not in cache:
            cache[name] = compute()
        return cache[name]

    def _rounded_mean(self) -> Tensor:
        mean = torch.empty(self.sums.shape, dtype=torch.float32, device=self.sums.device)
        for rounded, sums in zip(mean.split(2**22), self.sums.split(2**22), strict=True):
            rounded.copy_(sums / self.terms)  # part by part: no float64 mean of everything
        return mean

    def _first_unusable(self) -> str | None:
        def usable(mean: Tensor) -> bool:
            low, high = mean.aminmax() if mean.numel() else (0, 0)  # NaN where there is one
            return bool(low >= 0) and bool(high < torch.inf)

        if usable(self.mean32):
            return None
        return next(name for name, part in self.parts() if not usable(self.mean32[part]))

    def __getitem__(self, name: str) -> Tensor:
        """Mean importance of one parameter, in its shape: a view.

        Raises:
            KeyError: There is no such parameter.
        """
        for other, part in self.parts():
            if other == name:
                return self.mean[part].view(self.shapes[name])
        raise KeyError(f"no importance for a parameter named {name!r}")

    def parts(self) -> Iterator[tuple[str, slice]]:
        """Each parameter's name and its place in the buffer."""
        start = 0
        for name, shape in self.shapes.items():
            stop = start + torch.Size(shape).numel()
            yield name, slice(start, stop)
            start = stop

    def to(self, device: torch.device | str) -> Importance:
        """The same importances on another device."""
        return replace(self, sums=self.sums.to(device))

    def merge(self, other: Importance) -> Importance:
        """What one pass over both sets of samples would give: sums, samples and terms add up.

        Exact wherever groups do not cross the boundary: always for group_size 1; for m samples where this pass's
        number of samples is a multiple of m; for "batch" where it ended with a whole batch. Otherwise this pass's
        last group stays smaller than the others, and a PotionWarning says so (for "batch" it always does, as
        the batch size is not known). Of parts, the numbers of samples of the data add up too; where one is a smaller
        share of its data than the other, a PotionWarning says that its data count for less than they should.

        Args:
            other: Importances of further samples.

        Raises:
            ImportanceError: The others are of another model, objective or group size.
        """
        self.check_same(other)
        if self.group_size == "batch":
            warn_caller('merging importances of group_size="batch" is exact only at batch boundaries')
        elif self.samples % self.group_size:
            warn_caller(
                f"merging after {self.samples} samples, not a multiple of the group size {self.group_size}: the last "
                "group of the first pass stays smaller than the others"
            )
        if self.samples * other.total != other.samples * self.total:
            parts = [f"{one.samples} of {one.total}" for one in (self, other)]
            warn_caller(
                f"merging importances of {parts[0]} and of {parts[1]} samples: each counts by the samples that were "
                "read, not by its data"
            )
        partial = self.data_samples is not None or other.data_samples is not None
        return replace(
            self,
            sums=self.sums + other.sums.to(self.sums.device),
            samples=self.samples + other.samples,
            data_samples=self.total + other.total if partial else None,
            terms=self.terms + other.terms,
            fallback=tuple(name for name in self.shapes if name in {*self.fallback, *other.fallback}),
        )

    def check_same(self, other: Importance) -> None:
        """Check that others are of the same model, weights, objective, group size and dtype.

        Raises:
            ImportanceError: They are not.
        """
        if self.shapes != other.shapes:
            raise ImportanceError(
                f"importances of two different models: {_first_difference(self.shapes, other.shapes)}"
            )
        for attribute in ("objective", "group_size", "fingerprint"):
            mine, others = getattr(self, attribute), getattr(other, attribute)
            if mine != others:
                meaning = "weights (fingerprint)" if attribute == "fingerprint" else attribute
                raise ImportanceError(f"importances of different {meaning}: {mine} and {others}; compute both alike")
        if self.sums.dtype != other.sums.dtype:
            raise ImportanceError(f"importances of different dtype: {self.sums.dtype} and {other.sums.dtype}")

    def check_model(self, model: nn.Module | ModelParameters) -> None:
        """Check that these importances were computed on a model with the weights that it has.

        Args:
            model: The model, or its parameters where they were made already.

        Raises:
            ImportanceError: They were not.
        """
        parameters = ModelParameters.of(model)
        if self.shapes != parameters.shapes:
            raise ImportanceError(f"importances of another model: {_first_difference(self.shapes, parameters.shapes)}")
        if self.fingerprint != parameters.fingerprint():
            raise ImportanceError(
                "the model's weights are not those that the importances were computed on; compute them again"
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file, whole or not at all: the sums, all else as JSON metadata.

        Raises:
            FileError: It cannot be written.
        """
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "sums"}
        save_checksummed(path, FILE_KEY, {**fields, "shapes": list(self.shapes.items())}, {"sums": self.sums})

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Importance:
        """Read what `save` wrote.

        Args:
            path: Of the file.
            device: Of the sums.

        Raises:
            FileError: The file is missing, truncated, damaged or foreign.
        """
        if not Path(path).is_file():
            raise FileError(f"no importances at {path}")
        fields, tensors = load_checksummed(path, FILE_KEY, "importances")
        try:
            fields["fallback"] = tuple(fields.get("fallback", ()))
            fields["shapes"] = {name: tuple(shape) for name, shape in fields["shapes"]}
            loaded = cls(sums=tensors["sums"].to(device), **fields)
            loaded._check_fields()
        except (KeyError, TypeError, ValueError) as error:
            raise FileError(f"{path} cannot be read as importances, it is damaged or foreign: {error}") from error
        return loaded

    def _check_fields(self) -> None:
        """Raise ValueError for what no pass can have left behind."""
        whole = [self.samples, self.terms, *(size for shape in self.shapes.values() for size in shape)]
        if not all(type(number) is int and number >= 0 for number in whole) or not 1 <= self.terms <= self.samples:
            raise ValueError(f"{self.terms} terms of {self.samples} samples, or a shape, are no such numbers")
        if self.data_samples is not None and not (type(self.data_samples) is int and self.data_samples > self.samples):
            raise ValueError(f"its {self.samples} samples are no part of {self.data_samples!r}")
        if not all(type(text) is str for text in (self.objective, self.fingerprint, *self.shapes, *self.fallback)):
            raise ValueError("its objective, fingerprint or names are no text")
        if self.group_size != "batch" and (type(self.group_size) is not int or self.group_size < 1):
            raise ValueError(f"its group size is {self.group_size!r}")
        if self.sums.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"its sums are {self.sums.dtype}")
        if self.sums.shape != (sum(math.prod(shape) for shape in self.shapes.values()),):
            raise ValueError(f"{self.sums.numel()} sums do not fit the parameters it names")


def _first_difference(mine: dict[str, tuple[int, ...]], others: dict[str, tuple[int, ...]]) -> str:
    for name in [*mine, *others]:
        if mine.get(name) != others.get(name):
            shapes = (str(list(s)) if (s := side.get(name)) is not None else "missing" for side in (mine, others))
            return f"parameter {name!r} is {' and '.join(shapes)}"
    return "their parameters come in another order"
