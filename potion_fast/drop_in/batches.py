"""Batches in the forms of the two public codes, read as (input, label)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError
from ..utils.batches import check_loader


@dataclass(frozen=True)
class Form:
    """The batches of three of one repository.

    Attributes:
        text: How such a batch is written.
        label: Position of the label; None where no repository is meant, so that such a batch says nothing.
    """

    text: str
    label: int | None


POTION = Form("(image, label, manipulation flag)", 1)
SSD = Form("(image, _, label)", 2)
NEITHER = Form("of three are (image, label, flag) in Potion and (image, _, label) in SSD", None)


class LabelledBatches:
    """The batches of a loader as (input, label), or as (input,) where no label is needed.

    Args:
        loader: Gives tuples or lists; anything else is passed on as it is.
        form: Of batches of three; in those of two the label is second.
        label_at: Position of the label in every batch, in place of what the form says.
        labelled: A label is needed.
        change: Applied to each input, once it is on its device; None for nothing.

    Raises:
        DataError: No loader, or a data set, which gives single samples.

    Attributes:
        classes: Outputs of the model, once known: what a class may be.
    """

    def __init__(
        self,
        loader: Iterable[object],
        form: Form,
        label_at: int | None,
        labelled: bool = True,
        change: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        check_loader(loader)
        self.loader, self.form, self.label_at, self.labelled, self.change = loader, form, label_at, labelled, change
        self.classes = 0
        self._only_flags = labelled and form is SSD and label_at is None  # for all that was read
        self._largest_second = 0

    def __iter__(self) -> Iterator[object]:
        for batch in self.loader:
            if not isinstance(batch, tuple | list) or not batch:
                yield batch
                continue
            inputs = batch[0] if self.change is None else self.change(batch[0])
            if self.labelled and len(batch) > 1:
                yield inputs, self._label(batch)
            else:
                yield (inputs,)

    def check_flags(self) -> None:
        """Raise if what was read as labels are Potion's flags: 0 or 1 throughout, next to labels of more classes.

        Raises:
            DataError: They are.
        """
        if self._only_flags and 1 < self._largest_second < self.classes:
            raise DataError(
                f"the third of every batch is 0 or 1 and the second a class up to {self._largest_second}: these are "
                f"Potion's batches, {POTION.text}; import from potion_fast.drop_in.potion, or say label_at=2 if the "
                "third is the label"
            )

    def _label(self, batch: tuple[Any, ...] | list[Any]) -> Any:
        place = self._place(len(batch))
        label = batch[place]
        if isinstance(label, Tensor) and label.dtype == torch.bool:
            raise DataError(
                f"position {place} of a batch is bool, a flag and no label; say where the label is: label_at="
            )
        if _empty(label) and not _empty(batch[0]):
            raise DataError(
                f"position {place} of a batch, where the label should be, is empty; SSD's batches {SSD.text} are those "
                "of potion_fast.drop_in.ssd, and label_at= says where the label is in others"
            )
        if self._only_flags:
            self._watch(batch, label)
        return label

    def _place(self, length: int) -> int:
        if self.label_at is not None:
            if self.label_at >= length:
                raise DataError(f"label_at={self.label_at} and the loader gives batches of {length}")
            return self.label_at
        if length == 2:
            return 1
        if self.form.label is None:
            raise DataError(
                f"batches {self.form.text}: import from potion_fast.drop_in.potion or potion_fast.drop_in.ssd, or say "
                "where the label is with label_at="
            )
        if length > 3:
            raise DataError(f"batches are {self.form.text} here, not of {length}; say where the label is: label_at=")
        return self.form.label

    def _watch(self, batch: tuple[Any, ...] | list[Any], label: Any) -> None:
        second = batch[1]
        both = [value for value in (second, label) if isinstance(value, Tensor) and not value.is_floating_point()]
        if len(batch) < 3 or len(both) < 2 or second.shape != label.shape or not label.numel():
            self._only_flags = False
            return
        self._only_flags = bool(((label == 0) | (label == 1)).all()) and bool((second >= 0).all())
        self._largest_second = max(self._largest_second, int(second.max()))


def _empty(value: Any) -> bool:
    return (
        value.numel() == 0
        if isinstance(value, Tensor)
        else value is None or (hasattr(value, "__len__") and len(value) == 0)
    )


def checked_label_at(label_at: int | None) -> int | None:
    """A position of the label that is not the input's; DataError otherwise."""
    if label_at is not None and (isinstance(label_at, bool) or not isinstance(label_at, int) or label_at < 1):
        raise DataError(f"label_at is the label's position in a batch (x, ...), 1 or more, not {label_at!r}")
    return label_at
