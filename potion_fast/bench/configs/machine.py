"""What a configuration says of the machine: absolute paths, and a device that is there."""

from __future__ import annotations

import os
from typing import Any

import torch

from ...errors import ModelError
from .defaults import PATHS
from .fields import Checked


def resolved_device(name: str) -> str:
    """The device a name stands for; "auto" is a CUDA GPU where there is one. Raises ModelError where there is none."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ModelError(f"unknown device {name!r}; give cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise ModelError(f"device {name!r} is not supported; give cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(f"device {name!r} was asked for, and {torch.cuda.device_count()} CUDA GPUs are there")
    return name


def absolute_paths(config: Checked) -> dict[str, Any]:
    """The paths among the fields, made absolute: a later run may read this configuration from another folder."""
    paths = {name: getattr(config, name, None) for name in PATHS}
    return {name: os.path.abspath(os.path.expanduser(path)) for name, path in paths.items() if path is not None}
