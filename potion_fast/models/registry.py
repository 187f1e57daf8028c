"""Models by name, and their files: safetensors with the architecture in the metadata."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from ..errors import FileError, ModelError
from ..files import written_whole
from .cifar_resnet import resnet18
from .foreign import check_tensors, factory_model, timm_model, torchvision_model
from .resnet9 import ResNet9
from .small_cnn import SmallCNN
from .wide_resnet import WideResNet

MODELS: dict[str, Callable[..., nn.Module]] = {
    "resnet9": ResNet9,
    "small_cnn": SmallCNN,
    "wrn28_10": WideResNet,
    "resnet18": resnet18,
}
FOREIGN = {"timm": timm_model, "torchvision": torchvision_model}  # by the name before the colon

FILE_KEY = "potion_fast.model"  # the entry of the safetensors metadata that marks a file as ours
REQUIRED = {"architecture": str, "num_classes": int, "in_channels": int, "options": dict}


def create_model(
    name: str, num_classes: int, in_channels: int = 3, *, pretrained: bool = False, **options: Any
) -> nn.Module:
    """A freshly initialised model, on torch's default device.

    Args:
        name: one of `MODELS`; "timm:NAME" or "torchvision:NAME", of their own lists, with the tag of the weights behind
            a dot where `pretrained` asks for them; or "module:factory", a function of yours that makes a model. That
            one is imported and run: pass no name that somebody else wrote.
        pretrained: weights from timm or torchvision, downloaded unless they are in the cache.
        options: of the architecture, `width` for one; each must be an integer of at least 1, except for your own.

    Raises:
        ModelError: an unknown name or option, a number below 1, or pretrained weights that are not to be had.
    """
    for key, value in {"num_classes": num_classes, "in_channels": in_channels}.items():
        _check_number(name, key, value)
    kind, colon, rest = name.partition(":")
    if pretrained and kind not in FOREIGN:
        raise ModelError(f"the model {name!r} has no pretrained weights; those of timm and torchvision do")
    if colon and kind not in FOREIGN:
        return factory_model(name, num_classes, in_channels, options)
    for key, value in options.items():
        _check_number(name, key, value)
    if colon:
        return FOREIGN[kind](rest, num_classes, in_channels, pretrained, options)
    if name not in MODELS:
        raise ModelError(
            f"unknown model {name!r}; known: {', '.join(MODELS)}, timm:NAME, torchvision:NAME and module:factory"
        )
    parameters = inspect.signature(MODELS[name]).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    unknown = sorted(set(options) - set(known))
    if unknown:
        has = ", ".join(known) or "none"
        raise ModelError(f"the model {name!r} has no option {', '.join(unknown)}; it has {has}")
    return MODELS[name](num_classes, in_channels, **options)


def _check_number(name: str, key: str, value: object) -> None:
    if not isinstance(value, int) or value < 1:
        raise ModelError(f"the model {name!r} needs an integer {key} of at least 1, got {value!r}")


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
    _check_metadata(metadata)
    if not _is_factory(metadata):  # a factory is run when a model is made, and not once more for its shapes
        check_tensors(_skeleton(metadata), tensors, "the model")
    with written_whole(path) as temporary:
        safetensors.torch.save_file(tensors, temporary, {FILE_KEY: json.dumps(metadata)})


def load_model(path: str | os.PathLike[str], factory: str | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """Read a file of `save_model`: (model on the CPU in evaluation mode, metadata). Nothing is downloaded.

    Args:
        factory: for a model of a "module:factory": the same name, typed by you. A file alone does not make code run.

    Raises:
        FileError: the file is missing, truncated, or was not written by `save_model`.
        ModelError: the weights do not fit the architecture that the file names, or it names a factory and you did not.
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
    _check_metadata(metadata)
    if _is_factory(metadata):
        if metadata["architecture"] != factory:
            raise ModelError(
                f"{path} holds a model of {metadata['architecture']!r}, code that would be imported and run; "
                "name it yourself if you trust it"
            )
    else:
        check_tensors(_skeleton(metadata), tensors, str(path))
    model = _build(metadata)
    check_tensors(model, tensors, str(path))
    model.load_state_dict(tensors)
    return model.eval(), metadata


def _check_metadata(metadata: dict[str, Any]) -> None:
    for key, kind in REQUIRED.items():
        if not isinstance(metadata.get(key), kind):
            raise ModelError(f"a model's metadata need {key!r} of type {kind.__name__}, got {metadata.get(key)!r}")


def _is_factory(metadata: dict[str, Any]) -> bool:
    kind, colon, _ = metadata["architecture"].partition(":")
    return bool(colon) and kind not in FOREIGN


def _build(metadata: dict[str, Any]) -> nn.Module:
    options = {key: value for key, value in metadata["options"].items() if key != "pretrained"}  # the file has them
    return create_model(metadata["architecture"], metadata["num_classes"], metadata["in_channels"], **options)


def _skeleton(metadata: dict[str, Any]) -> nn.Module:
    with torch.device("meta"):  # shapes without memory
        return _build(metadata)
