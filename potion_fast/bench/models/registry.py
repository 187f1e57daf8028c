"""Models by name, and their files: safetensors with the architecture in the metadata."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ...errors import ModelError, PotionError
from ...user.pretrained import check_tensors, factory_model, load_tensors, timm_model, torchvision_model, untied
from ...utils.checksummed import load_checksummed, save_checksummed
from ...utils.did_you_mean import did_you_mean
from .cifar_resnet import resnet18
from .gpt2 import gpt2_causal, gpt2_classifier
from .hugging_face import hugging_face_causal, hugging_face_classifier
from .resnet9 import ResNet9
from .small_cnn import SmallCNN
from .vit import vit
from .wide_resnet import WideResNet

MODELS: dict[str, Callable[..., nn.Module]] = {
    "resnet9": ResNet9,
    "small_cnn": SmallCNN,
    "wrn28_10": WideResNet,
    "resnet18": resnet18,
    "vit": vit,
    "gpt2_classifier": gpt2_classifier,
    "gpt2_causal": gpt2_causal,
}
FOREIGN: dict[str, Callable[..., nn.Module]] = {  # by the name before the colon
    "timm": timm_model,
    "torchvision": torchvision_model,
    "hf-classifier": hugging_face_classifier,
    "hf-causal": hugging_face_causal,
}

FILE_KEY = "potion_fast.model"  # the entry of the safetensors metadata that marks a file as ours
WEIGHTS = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")
LAYERS = ("depth", "layers", "num_layers")  # options that count layers, each of at least one tensor
REQUIRED = {"architecture": str, "num_classes": int, "in_channels": int, "options": dict}


def create_model(
    name: str, num_classes: int, in_channels: int = 3, *, pretrained: bool = False, **options: Any
) -> nn.Module:
    """A freshly initialised model, on torch's default device.

    Args:
        name: one of `MODELS`; "timm:NAME" or "torchvision:NAME", of their own lists, with the tag of the weights behind
            a dot where `pretrained` asks for them; "hf-classifier:" or "hf-causal:" and a language model's directory or
            name on the Hugging Face hub; or "module:factory", a function of yours that makes a model. That one is
            imported and run: pass no name that somebody else wrote.
        num_classes: outputs.
        in_channels: of the images; 1 for texts.
        pretrained: weights from timm, torchvision or the hub, downloaded unless they are in the cache; of a directory,
            the weights there.
        options: of the architecture, `width` for one; each must be an integer of at least 1, except for your own.

    Returns:
        The model.

    Raises:
        ModelError: an unknown name or option, a number below 1, or pretrained weights that are not to be had.
    """
    for key, value in {"num_classes": num_classes, "in_channels": in_channels}.items():
        _check_number(name, key, value)
    kind, colon, rest = name.partition(":")
    if pretrained and kind not in FOREIGN:
        raise ModelError(f"the model {name!r} has no pretrained weights; those of {', '.join(FOREIGN)} do")
    if colon and kind not in FOREIGN:
        return factory_model(name, num_classes, in_channels, options)
    for key, value in options.items():
        _check_number(name, key, value)
    if colon:
        return FOREIGN[kind](rest, num_classes, in_channels, pretrained, options)
    if name.lower().endswith(WEIGHTS):
        raise ModelError(
            f"{name!r} is a file of weights; write a function that makes its model and loads them "
            "(potion_fast.bench.models.load_weights), and name it as module:factory"
        )
    if name not in MODELS:
        raise ModelError(
            f"unknown model {name!r}; known: {', '.join(MODELS)}, {':NAME, '.join(FOREIGN)}:NAME and module:factory"
            f"{did_you_mean(name, MODELS)}"
        )
    parameters = inspect.signature(MODELS[name]).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    unknown = sorted(set(options) - set(known))
    if unknown:
        has = ", ".join(known) or "none"
        raise ModelError(
            f"the model {name!r} has no option {', '.join(unknown)}; it has {has}{did_you_mean(unknown[0], known)}"
        )
    return MODELS[name](num_classes, in_channels, **options)


def _check_number(name: str, key: str, value: object) -> None:
    if not isinstance(value, int) or value < 1:
        raise ModelError(f"the model {name!r} needs an integer {key} of at least 1, got {value!r}")


def save_model(path: str | os.PathLike[str], model: nn.Module, metadata: dict[str, Any]) -> None:
    """Write parameters and buffers as safetensors, whole or not at all; what has two names (tied weights), once.

    Args:
        path: the file.
        model: the model.
        metadata: JSON values; "architecture", "num_classes", "in_channels" and "options" are what `create_model` was
            called with, everything else ("classes", say) is kept as it is.

    Raises:
        ModelError: the metadata lack one of these keys, or describe another model than this one.
        FileError: the file cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in untied(model).items()}
    _check_metadata(metadata)
    if not _is_factory(metadata):  # a factory is run when a model is made, and not once more for its shapes
        check_tensors(_skeleton(metadata), tensors, "the model")
    save_checksummed(path, FILE_KEY, metadata, tensors)


def load_model(path: str | os.PathLike[str], factory: str | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """Read a file of `save_model`. Nothing is downloaded.

    Args:
        path: the file.
        factory: for a model of a "module:factory": the same name, typed by you. A file alone does not make code run.

    Returns:
        The model, on the CPU in evaluation mode, and its metadata.

    Raises:
        FileError: the file is missing, truncated, damaged, or was not written by `save_model`.
        ModelError: the weights do not fit the architecture that the file names, or it names a factory and you did not.
    """
    metadata, tensors = load_checksummed(path, FILE_KEY, "model of `save_model`")
    _check_metadata(metadata)
    if _is_factory(metadata):
        if metadata["architecture"] != factory:
            raise ModelError(
                f"{path} holds a model of {metadata['architecture']!r}, code that would be imported and run; "
                "name it yourself if you trust it (--model)"
            )
    else:
        check_tensors(_checked_skeleton(metadata, tensors, str(path)), tensors, str(path))
    model = _build(metadata)
    check_tensors(model, tensors, str(path))
    load_tensors(model, tensors)
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


def _checked_skeleton(metadata: dict[str, Any], tensors: dict[str, torch.Tensor], what: str) -> nn.Module:
    """The skeleton that a file's metadata describe, which may ask for a billion layers: their sizes are checked first.

    Raises ModelError.
    """
    weights = sum(tensor.numel() for tensor in tensors.values())
    sizes = {**metadata["options"], "num_classes": metadata["num_classes"], "in_channels": metadata["in_channels"]}
    for key, value in sizes.items():
        most = len(tensors) if key in LAYERS else weights
        if isinstance(value, int) and value > most:
            raise ModelError(f"{what} does not fit its architecture: a {key} of {value}, and {most} tensors or weights")
    try:
        return _skeleton(metadata)
    except PotionError:
        raise
    except Exception as error:  # whatever odd options lead to
        raise ModelError(f"{what} names an architecture that cannot be made: {error}") from error
