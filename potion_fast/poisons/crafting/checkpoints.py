"""A crafting that is under way, in a file: its tensors, how far it has come, and whose it is."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...errors import FileError
from ...files import written_whole

FILE_KEY = "potion_fast.crafting"  # the entry of the safetensors metadata that marks a file as ours


def save_checkpoint(
    path: str | os.PathLike[str], what: dict[str, Any], tensors: dict[str, Tensor], state: dict[str, Any]
) -> None:
    """Write the file, whole or not at all. Raises FileError.

    what     settings, and checksums of poisons and model: plain values that a crafting going on from it must have
    tensors  of any dtype, stored bit for bit
    state    plain values
    """
    metadata = {FILE_KEY: json.dumps({"what": what, "state": state})}
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with written_whole(path) as temporary:
        save_file(stored, temporary, metadata)


def load_checkpoint(
    path: str | os.PathLike[str], what: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors on the CPU and state; None where there is no file.

    Raises FileError for a file that is truncated, foreign or of another crafting.
    """
    if not Path(path).exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(FILE_KEY)
            if text is None:
                raise FileError(f"{path} holds no interrupted crafting; remove it or name another file")
            content = json.loads(text)
            for key, value in json.loads(json.dumps(what)).items():  # as JSON has it: a tuple is a list there
                if (saved := content["what"].get(key)) != value:
                    raise FileError(
                        f"{path} is of another crafting, its {key} was {saved} and is {value} now; remove the file"
                    )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no dict
            return tensors, content["state"]
    except (SafetensorError, KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise FileError(
            f"{path} cannot be read as an interrupted crafting, it may be truncated; remove it: {error}"
        ) from error


def checksum(*tensors: Tensor, start: int = 0) -> int:
    """CRC-32 of the tensors' shapes and bytes: tells one set of poisons from another."""
    code = start
    for tensor in tensors:
        code = zlib.crc32(repr(tuple(tensor.shape)).encode(), code)
        code = zlib.crc32(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data, code)
    return code
