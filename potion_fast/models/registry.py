"""Models by name, and their files: safetensors with the architecture in the metadata."""

from __future__ import annotations

import inspect
import json
import os
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from ..errors import FileError, ModelError
from ..files import written_whole
from .resnet9 import ResNet9
from .small_cnn import SmallCNN

MODELS: dict[str, type[nn.Module]] = {"resnet9": ResNet9, "small_cnn": SmallCNN}

FILE_KEY = "potion_fast.model"  # the entry of the safetensors metadata that marks a file as ours
REQUIRED = {"architecture": str, "num_classes": int, "in_channels": int, "options": dict}


def create_model(name: str, num_classes: int, in_channels: int = 3, **options: Any) -> nn.Module:
    """A freshly initialised model, on torch's default device.

    Args:
        options: of the architecture, `width` for one; each must be an integer of at least 1.

    Raises:
        ModelError: an unknown name or option, or a number below 1.
    """
    if name not in MODELS:
        raise ModelError(f"unknown model {name!r}; known: {', '.join(MODELS)}")
    parameters = inspect.signature(MODELS[name]).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ModelError(f"the model {name!r} has no option {', '.join(unknown)}; it has {', '.join(known)}")
    for key, value in {"num_classes": num_classes, "in_channels": in_channels, **options}.items():
        if not isinstance(value, int) or value < 1:
            raise ModelError(f"the model {name!r} needs an integer {key} of at least 1, got {value!r}")
    return MODELS[name](num_classes, in_channels, **options)


def save_model(path: str | os.PathLike[str], model: nn.Module, metadata: dict[str, Any]) -> None:
    """Write parameters and buffers as safetensors, whole or not at all.

    Args:
        metadata: JSON values; "architecture", "num_classes", "in_channels" and "options" are what `create_model` was
            called with, everything else ("classes", say) is kept as it is.

    Raises:
        ModelError: the metadata lack one of these keys, or describe another model than this one.
        FileError: the file cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    _check_tensors(_skeleton(metadata), tensors, "the model")
    with written_whole(path) as temporary:
        safetensors.torch.save_file(tensors, temporary, {FILE_KEY: json.dumps(metadata)})


def load_model(path: str | os.PathLike[str]) -> tuple[nn.Module, dict[str, Any]]:
    """Read a file of `save_model`: (model on the CPU in evaluation mode, metadata).

    Raises:
        FileError: the file is missing, truncated, or was not written by `save_model`.
        ModelError: the weights do not fit the architecture that the file names.
    """
    path = Path(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(FILE_KEY)
            if text is None:
                raise FileError(f"{path} was not written by potion_fast.models.save_model: it names no architecture")
            metadata = json.loads(text)
            if not isinstance(metadata, dict):
                raise FileError(f"{path} holds metadata of type {type(metadata).__name__}; it is damaged or foreign")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except FileError:
        raise
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise FileError(f"{path} cannot be read as a model ({error}); it is missing, truncated or foreign") from error
    _check_tensors(_skeleton(metadata), tensors, str(path))
    model = _build(metadata)
    model.load_state_dict(tensors)
    return model.eval(), metadata


def _build(metadata: dict[str, Any]) -> nn.Module:
    for key, kind in REQUIRED.items():
        if not isinstance(metadata.get(key), kind):
            raise ModelError(f"a model's metadata need {key!r} of type {kind.__name__}, got {metadata.get(key)!r}")
    return create_model(
        metadata["architecture"], metadata["num_classes"], metadata["in_channels"], **metadata["options"]
    )


def _skeleton(metadata: dict[str, Any]) -> nn.Module:
    with torch.device("meta"):  # shapes without memory
        return _build(metadata)


def _check_tensors(skeleton: nn.Module, tensors: dict[str, torch.Tensor], what: str) -> None:
    expected = skeleton.state_dict()
    odd = sorted(set(expected) ^ set(tensors))
    if odd:
        raise ModelError(f"{what} does not fit its architecture: {', '.join(odd)} in only one of them")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape or tensor.dtype != expected[name].dtype:
            raise ModelError(
                f"{what} does not fit its architecture: {name} is {tensor.dtype} {list(tensor.shape)}, "
                f"it should be {expected[name].dtype} {list(expected[name].shape)}"
            )
