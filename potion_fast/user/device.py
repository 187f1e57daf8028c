"""The device that a configuration names."""

from __future__ import annotations

import torch

from ..errors import ModelError


def resolved_device(name: str) -> str:
    """The device of a name; "auto" is a CUDA GPU where there is one.

    Args:
        name: "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        ModelError: another name, or a device that is not there.
    """
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
