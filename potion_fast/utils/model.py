"""What the method needs of an nn.Module: its trainable parameters, proof of which weights it holds, eval mode."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..distributed import unwrap_compile, unwrap_ddp
from ..distributed.fsdp import local, reshard
from ..errors import ImportanceError, ModelError


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that importances are taken of: all that require a gradient, tied ones once.

    Those of a module within DistributedDataParallel or torch.compile's wrapper have the names that they have in that
    module.
    """
    inner = unwrap_compile(unwrap_ddp(model))
    return {name: parameter for name, parameter in inner.named_parameters() if parameter.requires_grad}


def held(model: nn.Module) -> dict[str, Tensor]:
    """What this process holds of them, detached: all of each, or its shard where FSDP2 has sharded them."""
    reshard(model)
    return {name: local(parameter) for name, parameter in trainable(model).items()}


def checked_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable parameters, checked: at least one, all finite, all on one device.

    Raises ImportanceError where there is none, ModelError for the others.
    """
    values = held(model)
    parameters = trainable(model)
    if not parameters:
        raise ImportanceError("the model has no trainable parameter; set requires_grad on those that may be dampened")
    for name, tensor in values.items():
        if not all_finite(tensor):
            raise ModelError(f"parameter {name!r} holds values that are not finite")
    devices = {str(parameter.device) for parameter in parameters.values()}
    if len(devices) > 1:
        raise ModelError(
            f"the model's parameters lie on several devices ({', '.join(sorted(devices))}); move it to one"
        )
    return parameters


def dampenable(model: nn.Module) -> dict[str, Tensor]:
    """What this process holds of them, checked and all float32: what an edit may change. Raises ModelError for another
    dtype too."""
    checked_parameters(model)
    values = held(model)
    for name, tensor in values.items():
        if tensor.dtype != torch.float32:
            raise ModelError(f"parameter {name!r} is {tensor.dtype}; only float32 weights can be dampened")
    return values


def fingerprint(model: nn.Module) -> str:
    """CRC-32 of the trainable parameters' names and bytes, this process's shards': tells one set of weights from
    another."""
    code = 0
    for name, values in held(model).items():
        data = values.cpu().contiguous().reshape(-1).view(torch.uint8)
        code = zlib.crc32(data.numpy().data, zlib.crc32(name.encode(), code))
    return f"{code:08x}"


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode for the block; afterwards every module is back in the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def all_finite(tensor: Tensor) -> bool:
    """Whether no element is NaN or infinite; without a second tensor of that size."""
    return not tensor.numel() or bool(torch.stack(tensor.aminmax()).isfinite().all())  # NaN if there is one
