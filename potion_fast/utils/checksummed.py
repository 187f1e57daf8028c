"""Safetensors files with a checksum over tensors and metadata, which are JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import FileError
from .atomic_files import written_whole
from .crc import crc32

WITH_CHECKSUM = ".sealed"  # behind the name of the metadata's one entry: several would come in any order


def save_checksummed(
    path: str | os.PathLike[str], key: str, content: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Write a file, whole or not at all.

    Args:
        path: Of the file.
        key: The entry of the safetensors metadata that tells what kind of file it is.
        content: Kept there as JSON.
        tensors: Of any dtype and device, no two of them of the same memory.

    Raises:
        FileError: The file cannot be written.
    """
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with written_whole(path) as temporary:
        save_file(stored, temporary, {key + WITH_CHECKSUM: with_checksum(content, stored)})


def load_checksummed(path: str | os.PathLike[str], key: str, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a file of `save_checksummed`.

    The tensors stay in the file, mapped, until they are used. A file without a checksum, of an earlier version, is read
    as it is.

    Args:
        path: Of the file.
        key: See `save_checksummed`.
        kind: Of what the file holds, for messages.

    Returns:
        The content, and the tensors on the CPU.

    Raises:
        FileError: The file is missing, truncated, damaged or foreign.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if not {key, key + WITH_CHECKSUM} & set(metadata):
                raise FileError(f"{path} holds no {kind}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        if key + WITH_CHECKSUM in metadata:
            stored = json.loads(metadata[key + WITH_CHECKSUM])
            content, code = stored["content"], stored["checksum"]
        else:
            content, code = json.loads(metadata[key]), None
    except FileError:
        raise
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, RuntimeError, MemoryError) as error:
        raise FileError(f"{path} cannot be read as {kind}; it is missing, truncated or foreign: {error}") from error
    if not isinstance(content, dict):
        raise FileError(f"{path} cannot be read as {kind}: its metadata are a {type(content).__name__}")
    if key + WITH_CHECKSUM in metadata and code != checksum(content, tensors):
        raise FileError(f"{path} is damaged: its checksum is another than that of the {kind} in it; make it again")
    return content, tensors


def with_checksum(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """The content as JSON, with the checksum of itself and of the tensors."""
    return json.dumps({"content": content, "checksum": checksum(content, tensors)})


def checksum(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 of the content and of the names, dtypes, shapes and bytes of tensors on the CPU, in the names' order."""
    code = crc32(json.dumps(content))
    for name in sorted(tensors):
        tensor = tensors[name]
        code = crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}", tensor, start=code)
    return f"{code:08x}"
