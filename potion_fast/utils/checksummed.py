"""Safetensors files that tell a flipped bit: what they say of themselves as JSON, and a checksum over all they hold."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import FileError
from .atomic_files import written_whole

SEALED = ".sealed"  # behind the name of the metadata's one entry: several would come in any order


def save_checksummed(
    path: str | os.PathLike[str], key: str, content: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Write a file, whole or not at all. Raises FileError.

    key      the entry of the safetensors metadata that tells what kind of file it is
    content  kept there as JSON
    tensors  of any dtype and device, no two of them of the same memory
    """
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with written_whole(path) as temporary:
        save_file(stored, temporary, {key + SEALED: sealed(content, stored)})


def load_checksummed(path: str | os.PathLike[str], key: str, what: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(content, tensors on the CPU) of a file of `save_checksummed`. The tensors stay in the file, mapped, until they
    are used; a file without a checksum, of an earlier version, is read as it is.

    what  the file holds, for messages. Raises FileError for a file that is missing, truncated, damaged or foreign
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if not {key, key + SEALED} & set(metadata):
                raise FileError(f"{path} holds no {what}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        if key + SEALED in metadata:
            told = json.loads(metadata[key + SEALED])
            content, code = told["content"], told["checksum"]
        else:
            content, code = json.loads(metadata[key]), None
    except FileError:
        raise
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, RuntimeError, MemoryError) as error:
        raise FileError(f"{path} cannot be read as {what}; it is missing, truncated or foreign: {error}") from error
    if not isinstance(content, dict):
        raise FileError(f"{path} cannot be read as {what}: its metadata are a {type(content).__name__}")
    if key + SEALED in metadata and code != checksum(content, tensors):
        raise FileError(f"{path} is damaged: its checksum is another than that of the {what} in it; make it again")
    return content, tensors


def sealed(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """The content as JSON, with the checksum of itself and of the tensors."""
    return json.dumps({"content": content, "checksum": checksum(content, tensors)})


def checksum(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 of the content and of the names, dtypes, shapes and bytes of tensors on the CPU, in the names' order."""
    code = zlib.crc32(json.dumps(content).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        code = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), code)
        code = zlib.crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data, code)
    return f"{code:08x}"
