"""A pass that was interrupted: what it had summed up, and how far in the data it had come."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..batches import Piece
from ..errors import FileError, ImportanceError
from ..files import written_whole

FILE_KEY = "potion_fast.pass"  # the entry of the safetensors metadata that marks a file as ours
VALUES = 16  # of each sample's input that its order is told by


@dataclass(frozen=True)
class Position:
    """How far a pass has come: samples and groups done, and a CRC-32 that tells the samples' order."""

    samples: int = 0
    terms: int = 0
    order: int = 0

    def after(self, piece: Piece, told: bool) -> Position:
        """The position after one more piece of the data; its order is looked at only where it is asked for."""
        order = self.order
        if told:
            order = zlib.crc32(_bytes(piece.inputs.reshape(len(piece.inputs), -1)[:, :VALUES]), order)
            order = order if piece.labels is None else zlib.crc32(_bytes(piece.labels), order)
        return Position(self.samples + len(piece.inputs), self.terms + (piece.groups if piece.closes else 0), order)


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


@dataclass
class Keeper:
    """Keeps the sums of a pass in a file, as of the last group that was complete.

    what      what the pass computes, and on what
    position  that the sums are of
    torn      an error came while something was added: the sums are of no position, and what is on disk stays
    """

    path: str | os.PathLike[str]
    seconds: float
    sums: list[Tensor]
    what: dict[str, Any]
    position: Position = Position()
    torn: bool = False
    saved: float = field(default_factory=time.monotonic)

    def load(self) -> Position:
        """Fill the sums from the file, and return the position; the start where there is no file.

        Raises FileError for a file that is truncated or foreign, ImportanceError for one of another pass.
        """
        if not Path(self.path).exists():
            return self.position
        try:
            with safe_open(self.path, framework="pt") as file:
                text = (file.metadata() or {}).get(FILE_KEY)
                if text is None:
                    raise FileError(f"{self.path} holds no interrupted pass")
                content = json.loads(text)
                for key, value in self.what.items():
                    if (saved := content["what"].get(key)) != value:
                        raise ImportanceError(
                            f"{self.path} is of another pass, its {key} was {saved} and is {value} now; remove the file"
                        )
                stored = [file.get_tensor(f"sums.{i}") for i in range(len(self.sums))]
                self.position = Position(**content["position"])
        except (SafetensorError, KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise FileError(
                f"{self.path} cannot be read as an interrupted pass, it may be truncated: {error}"
            ) from error
        for mine, theirs in zip(self.sums, stored, strict=True):
            mine.copy_(theirs)
        return self.position

    def reached(self, position: Position) -> None:
        """The sums are of this position now; written down if it is time."""
        self.position = position
        if time.monotonic() - self.saved >= self.seconds:
            self.save()

    def save(self) -> None:
        """Write the file, whole or not at all. Raises FileError."""
        metadata = {FILE_KEY: json.dumps({"position": asdict(self.position), "what": self.what})}
        with written_whole(self.path) as temporary:
            save_file({f"sums.{i}": tensor.contiguous() for i, tensor in enumerate(self.sums)}, temporary, metadata)
        self.saved = time.monotonic()

    def remove(self) -> None:
        Path(self.path).unlink(missing_ok=True)


@contextmanager
def keeping(keeper: Keeper | None) -> Iterator[None]:
    """Whatever ends the block before its end, Ctrl-C or an error, leaves what was done in the keeper's file."""
    try:
        yield
    except BaseException:
        if keeper is not None and not keeper.torn and keeper.position.samples:
            keeper.save()
        raise


@contextmanager
def whole_batches(keeper: Keeper | None) -> Iterator[None]:
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
