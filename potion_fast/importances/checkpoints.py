"""A pass that was interrupted: what it had summed up, and how far in the data it had come."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import FileError, ImportanceError, PotionWarning
from ..utils.batches import Chunk
from ..utils.checksummed import load_checksummed, save_checksummed

FILE_KEY = "potion_fast.pass"  # the entry of the safetensors metadata that marks a file as ours
VALUES = 16  # of each sample's input that its order is told by


@dataclass(frozen=True)
class Position:
    """How far a pass has come: samples and groups done, and a CRC-32 that tells the samples' order."""

    samples: int = 0
    terms: int = 0
    order: int = 0

    def after(self, piece: Chunk, told: bool) -> Position:
        """The position after one more piece of the data; its order is looked at only where it is asked for."""
        order = self.order
        if told:
            order = zlib.crc32(_bytes(piece.inputs.reshape(len(piece.inputs), -1)[:, :VALUES]), order)
            order = order if piece.labels is None else zlib.crc32(_bytes(piece.labels), order)
        return Position(self.samples + len(piece.inputs), self.terms + (piece.groups if piece.closes else 0), order)


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


@dataclass
class PassCheckpoint:
    """Keeps the sums of a pass in a file, as of the last group that was complete.

    what      what the pass computes, and on what
    position  that the sums are of
    torn      an error came while something was added: the sums are of no position, and what is on disk stays
    kept      the file was written once: the path is right, and what fails later may pass
    """

    path: str | os.PathLike[str]
    seconds: float
    sums: list[Tensor]
    what: dict[str, Any]
    position: Position = Position()
    torn: bool = False
    saved: float = field(default_factory=time.monotonic)
    kept: bool = False

    def load(self) -> Position:
        """Fill the sums from the file, and return the position; the start where there is no file.

        Raises FileError for a file that is truncated or foreign, ImportanceError for one of another pass.
        """
        if not Path(self.path).exists():
            return self.position
        content, stored = self.read(self.path)
        try:
            position = Position(**content["position"])
            if not all(type(number) is int and number >= 0 for number in asdict(position).values()):
                raise TypeError("its position is not of whole numbers")
        except (KeyError, TypeError) as error:
            raise FileError(f"{self.path} cannot be read as an interrupted pass, it is damaged: {error}") from error
        for mine, theirs in zip(self.sums, stored, strict=True):
            mine.copy_(theirs)
        self.position = position
        return self.position

    def read(self, path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[Tensor]]:
        """What a file of this pass says of itself, and its sums, like `self.sums`. Raises as `load` does."""
        content, tensors = load_checksummed(path, FILE_KEY, "interrupted pass")
        try:
            for key, value in self.what.items():
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
        """The sums are of this position now; written down if it is time. A disk that has become full since the last
        time costs that checkpoint and not the pass. Raises FileError where nothing could ever be written."""
        self.position = position
        if time.monotonic() - self.saved < self.seconds:
            return
        try:
            self.save()
        except FileError as error:
            if not self.kept:
                raise
            self.saved = time.monotonic()
            warnings.warn(f"the pass goes on, but could not be kept: {error}", PotionWarning, stacklevel=2)

    def save(self) -> None:
        """Write the file, whole or not at all. Raises FileError."""
        self.write(self.path, {"position": asdict(self.position)})

    def write(self, path: str | os.PathLike[str], content: dict[str, Any]) -> None:
        """The sums, and what they are of."""
        tensors = {f"sums.{i}": tensor for i, tensor in enumerate(self.sums)}
        save_checksummed(path, FILE_KEY, {**content, "what": self.what}, tensors)
        self.saved, self.kept = time.monotonic(), True

    def remove(self) -> None:
        Path(self.path).unlink(missing_ok=True)


@contextmanager
def keeping(keeper: PassCheckpoint | None) -> Iterator[None]:
    """Whatever ends the block before its end, Ctrl-C or an error, leaves what was done in the keeper's file."""
    try:
        yield
    except BaseException:
        if keeper is not None and not keeper.torn and keeper.position.samples:
            try:
                keeper.save()
            except Exception as error:  # a full disk, a device that is gone: what ended the block is still the news
                warnings.warn(f"the interrupted pass could not be kept: {error}", PotionWarning, stacklevel=2)
        raise


@contextmanager
def whole_batches(keeper: PassCheckpoint | None) -> Iterator[None]:
    """What the block adds to the sums is added as a whole: Ctrl-C takes effect at its end, a second one at once.

    Without a keeper nothing is put off; outside the main thread there is nothing to put off, as it gets no signals.
    """
    if keeper is None:
        yield
        return
    pressed = False
    before = signal.getsignal(signal.SIGINT)

    def put_off(number: int, frame: Any) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, before)

    main = threading.current_thread() is threading.main_thread()
    if main:
        signal.signal(signal.SIGINT, put_off)
    keeper.torn = True
    try:
        yield
        keeper.torn = False
    finally:
        if main:
            signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt
