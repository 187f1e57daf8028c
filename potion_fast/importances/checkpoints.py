"""Checkpoint of a pass: its sums so far, and their position in the data."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import FileError, ImportanceError
from ..utils.batches import Chunk
from ..utils.checksummed import load_checksummed, save_checksummed
from ..utils.interrupts import update
from ..utils.warn import warn_caller

FILE_KEY = "potion_fast.pass"  # the entry of the safetensors metadata that marks a file as ours


@dataclass(frozen=True)
class Position:
    """Position of a pass in the data.

    Attributes:
        samples: Samples done.
        terms: Groups done.
        order: CRC-32 of the samples done, which tells their order.
    """

    samples: int = 0
    terms: int = 0
    order: int = 0

    def after(self, chunk: Chunk) -> Position:
        """The position after one more chunk of the data."""
        groups = chunk.groups if chunk.closes else 0
        return Position(self.samples + len(chunk.inputs), self.terms + groups, chunk.order)


@dataclass
class PassCheckpoint:
    """Keeps the sums of a pass in a file, as of the last group that was complete.

    Attributes:
        path: Of the file.
        seconds: From one checkpoint to the next.
        sums: Of the pass; they are changed in place.
        identity: What the pass computes, and on what: plain values.
        position: That the sums are of.
        mid_update: Something is being added, or an error came meanwhile: the sums are of no position, and the file on
            disk stays.
        saved: Time of the last checkpoint, or of the start.
        without_rule: Where the file that was loaded is of a finished pass: its parameters without a rule.
        kept: The file was written once: the path is right, and what fails later may pass.
        data_samples: Where the pass was finished over a part of the data: the samples of all of them.
    """

    path: str | os.PathLike[str]
    seconds: float
    sums: list[Tensor]
    identity: dict[str, Any]
    position: Position = Position()
    mid_update: bool = False
    saved: float = field(default_factory=time.monotonic)
    kept: bool = False
    without_rule: list[str] | None = None
    data_samples: int | None = None

    def load(self) -> Position:
        """Fill the sums from the file, and return the position; the start where there is no file.

        Raises:
            FileError: The file is truncated or foreign.
            ImportanceError: It is of another pass.
        """
        if not Path(self.path).exists():
            return self.position
        content, stored = self.read(self.path)
        try:
            position = Position(**content["position"])
            self.without_rule = content.get("finished")
            self.data_samples = content.get("data_samples")
            if self.data_samples is not None and type(self.data_samples) is not int:
                raise TypeError("its number of samples is none")
            if not all(isinstance(name, str) for name in self.without_rule or ()):
                raise TypeError("its parameters without a rule are no names")
            if not all(type(number) is int and number >= 0 for number in asdict(position).values()):
                raise TypeError("its position is not of whole numbers")
        except (KeyError, TypeError) as error:
            raise FileError(f"{self.path} cannot be read as an interrupted pass, it is damaged: {error}") from error
        for own, loaded in zip(self.sums, stored, strict=True):
            own.copy_(loaded)
        self.position = position
        return self.position

    def read(self, path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[Tensor]]:
        """The metadata of a file of this pass, and its sums, like `self.sums`. Raises as `load` does."""
        content, tensors = load_checksummed(path, FILE_KEY, "interrupted pass")
        try:
            for key, value in self.identity.items():
                if (saved := content["what"].get(key)) != value:
                    raise ImportanceError(
                        f"{path} is of another pass, its {key} was {saved} and is {value} now; remove the file"
                    )
            stored = [tensors[f"sums.{i}"] for i in range(len(self.sums))]
            if any(t.shape != s.shape or t.dtype != s.dtype for t, s in zip(stored, self.sums, strict=True)):
                raise TypeError("its sums are of another shape or dtype")
        except (KeyError, TypeError, AttributeError) as error:
            raise FileError(f"{path} cannot be read as an interrupted pass, it is damaged: {error}") from error
        return content, stored

    def reached(self, position: Position) -> None:
        """Note that the sums are of this position now, and write the file if it is time.

        A disk that has become full since the last time costs that checkpoint and not the pass.

        Raises:
            FileError: Nothing could ever be written.
        """
        self.position = position
        if time.monotonic() - self.saved < self.seconds:
            return
        try:
            self.save()
        except FileError as error:
            if not self.kept:
                raise
            self.saved = time.monotonic()
            warn_caller(f"the pass continues, but its checkpoint could not be written: {error}")

    def finished(self, position: Position, without_rule: Iterable[str], kept: bool) -> None:
        """The pass is over; `kept` lets the file hold that, as more may fail that it would have to be repeated for."""
        self.position = position
        if kept:
            partial = {} if self.data_samples is None else {"data_samples": self.data_samples}
            self.write(self.path, {"position": asdict(position), "finished": sorted(without_rule), **partial})

    def save(self) -> None:
        """Write the file, whole or not at all. Raises FileError."""
        self.write(self.path, {"position": asdict(self.position)})

    def write(self, path: str | os.PathLike[str], content: dict[str, Any]) -> None:
        """Write a file of the sums, with this content and the identity. Raises FileError."""
        tensors = {f"sums.{i}": tensor for i, tensor in enumerate(self.sums)}
        save_checksummed(path, FILE_KEY, {**content, "what": self.identity}, tensors)
        self.saved, self.kept = time.monotonic(), True

    def remove(self) -> None:
        """Remove the file."""
        Path(self.path).unlink(missing_ok=True)


@contextmanager
def saved_on_error(checkpoint: PassCheckpoint | None) -> Iterator[None]:
    """Whatever ends the block before its end, Ctrl-C or an error, leaves what was done in the checkpoint's file."""
    try:
        yield
    except BaseException:
        if checkpoint is not None and not checkpoint.mid_update and checkpoint.position.samples:
            try:
                checkpoint.save()
            except Exception as error:  # a full disk, a device that is gone: what ended the block is still the news
                warn_caller(f"the interrupted pass could not be kept: {error}")
        raise


@contextmanager
def whole_update(checkpoint: PassCheckpoint | None) -> Iterator[None]:
    """What the block adds to the sums is added as a whole, or the file on disk stays as it was.

    Ctrl-C takes effect at the end of the block in programs that ask for it, see `utils.interrupts`; in others at once,
    and the sums are then of no position.
    """
    if checkpoint is None:
        yield
        return
    with update():
        checkpoint.mid_update = True
        yield
        checkpoint.mid_update = False
