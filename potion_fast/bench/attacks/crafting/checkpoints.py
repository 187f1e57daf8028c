"""Checkpoints of a crafting: its tensors, how far it has come, and its identity."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from torch import Tensor

from ....errors import FileError
from ....utils.checksummed import load_checksummed, save_checksummed
from ....utils.crc import crc32

FILE_KEY = "potion_fast.crafting"  # the entry of the safetensors metadata that marks a file as ours


def save_checkpoint(
    path: str | os.PathLike[str], identity: dict[str, Any], tensors: dict[str, Tensor], state: dict[str, Any]
) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        path: of the file.
        identity: settings, and checksums of poisons and model: plain values that a crafting resumed from it must have.
        tensors: of any dtype, stored bit for bit.
        state: plain values.

    Raises:
        FileError: the file cannot be written.
    """
    save_checksummed(path, FILE_KEY, {"what": identity, "state": state}, tensors)


def load_checkpoint(
    path: str | os.PathLike[str], identity: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Read a checkpoint.

    Args:
        path: of the file.
        identity: see `save_checkpoint`.

    Returns:
        Tensors on the CPU and state; None where there is no file.

    Raises:
        FileError: the file is truncated, foreign or of another crafting.
    """
    if not Path(path).exists():
        return None
    content, tensors = load_checksummed(path, FILE_KEY, "interrupted crafting")
    saved, state = content.get("what"), content.get("state")
    if not isinstance(saved, dict) or not isinstance(state, dict):
        raise FileError(f"{path} cannot be read as an interrupted crafting, it is damaged; remove it")
    for key, value in json.loads(json.dumps(identity)).items():  # as JSON has it: a tuple is a list there
        if saved.get(key) != value:
            raise FileError(
                f"{path} is of another crafting, its {key} was {saved.get(key)} and is {value} now; remove the file"
            )
    return tensors, state


def checksum(*tensors: Tensor, start: int = 0) -> int:
    """CRC-32 of the tensors' shapes and bytes: tells one set of poisons from another."""
    code = start
    for tensor in tensors:
        code = crc32(repr(tuple(tensor.shape)), tensor, start=code)
    return code
