"""Models of timm and torchvision by name, a user's own by "module:factory", and state dicts from elsewhere."""

from __future__ import annotations

import inspect
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from ..errors import FileError, ModelError
from .user_code import find_user_code


def timm_model(name: str, num_classes: int, in_channels: int, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    """A model of timm. Pretrained weights are downloaded, and only by a name with its tag: the default tag of a name
    changes between versions. Raises ModelError."""
    import timm  # takes seconds: only when needed

    base, _, tag = name.partition(".")
    if not timm.is_model(base):  # a name such as "hf-hub:..." would be looked up on the network
        raise ModelError(f"timm has no model {base!r}; timm.list_models() names them")
    if pretrained and not tag:
        known = ", ".join(timm.list_models(f"{base}.*", pretrained=True)) or "none"
        raise ModelError(f"pretrained weights of {base!r} need their tag in the name; there are: {known}")
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=num_classes, in_chans=in_channels, **options)
    except (RuntimeError, TypeError, ValueError, AssertionError, OSError) as error:
        raise ModelError(f"timm cannot make {name!r} with {options}: {error}") from error


def torchvision_model(
    name: str, num_classes: int, in_channels: int, pretrained: bool, options: dict[str, Any]
) -> nn.Module:
    """A classification model of torchvision. Pretrained weights are downloaded, by a name such as
    "resnet18.IMAGENET1K_V1"; a head for another number of classes keeps its random weights. Raises ModelError."""
    from torchvision import models  # takes seconds: only when needed

    base, _, tag = name.partition(".")
    if base not in models.list_models(module=models):  # those of other modules download a backbone unasked
        raise ModelError(f"torchvision has no model {base!r} for classification; its list_models() names them")
    if in_channels != 3:
        raise ModelError(f"torchvision's models take three channels, not {in_channels}; timm's take any number")
    known = models.get_model_weights(base).__members__
    if (pretrained or tag) and tag not in known:
        raise ModelError(
            f"pretrained weights of {base!r} need their tag in the name, behind a dot; there are: {', '.join(known)}"
        )
    try:
        model: nn.Module = models.get_model(base, weights=None, num_classes=num_classes, **options)
        if pretrained:
            weights: Any = known[tag]
            own, loaded = model.state_dict(), weights.get_state_dict(progress=False, check_hash=True)
            head = [key for key, value in loaded.items() if len(value) == 1000 and len(own[key]) == num_classes != 1000]
            model.load_state_dict({**loaded, **{key: own[key] for key in head}})
        return model
    except (RuntimeError, TypeError, ValueError, OSError) as error:
        raise ModelError(f"torchvision cannot make {name!r} with {options}: {error}") from error


def factory_model(name: str, num_classes: int, in_channels: int, options: dict[str, Any]) -> nn.Module:
    """What the factory of a "module:factory" makes: code of the user's that is imported and run, so only names that the
    user typed may come here. Modules are also looked for in the current directory.

    The factory gets num_classes and in_channels if it takes parameters of these names, and the options. Raises
    ModelError where there is no such module or factory, or it makes something else than a model; its own errors pass.
    """
    factory = find_user_code(name, ModelError)
    offered = {"num_classes": num_classes, "in_channels": in_channels}
    taken = inspect.signature(factory).parameters
    model = factory(**{key: value for key, value in offered.items() if key in taken}, **options)
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name!r} made a {type(model).__name__}, not an nn.Module")
    return model


def load_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load a state dict into a model, in place: safetensors, or what torch.save wrote of nothing but tensors.

    path  *.safetensors, or any other file of torch.save: a state dict, or a dict that holds one under "state_dict"

    Raises FileError for a file that is missing, truncated or more than tensors (such files can run code and are not
    read), ModelError where the weights do not fit the model; the model is then as it was.
    """
    path = Path(path)
    tensors: Any
    try:
        if path.suffix == ".safetensors":
            tensors = safetensors.torch.load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
            if isinstance(tensors, Mapping) and "state_dict" in tensors:
                tensors = tensors["state_dict"]
    except pickle.UnpicklingError as error:
        raise FileError(f"{path} holds more than tensors; save model.state_dict() instead of the model") from error
    except Exception as error:  # whatever a broken file leads torch to
        raise FileError(f"{path} cannot be read as weights ({error}); it is missing, truncated or foreign") from error
    if not isinstance(tensors, Mapping) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise FileError(f"{path} holds no state dict: a dictionary from names to tensors")
    check_tensors(model, tensors, str(path))
    load_tensors(model, tensors)


def check_tensors(model: nn.Module, tensors: Mapping[str, torch.Tensor], what: str) -> None:
    """Raise ModelError unless these are the names, shapes and dtypes of the model's parameters and buffers.

    Of a tensor with several names (tied weights) the first one is enough; under the others it must be the same.
    """
    expected, first = model.state_dict(), _first_names(model)
    odd = sorted((set(first.values()) - set(tensors)) | (set(tensors) - set(expected)))
    if odd:
        shown = ", ".join(odd[:10]) + (f" and {len(odd) - 10} more" if len(odd) > 10 else "")
        raise ModelError(f"{what} does not fit its architecture: {shown} in only one of them")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape or tensor.dtype != expected[name].dtype:
            raise ModelError(
                f"{what} does not fit its architecture: {name} is {tensor.dtype} {list(tensor.shape)}, "
                f"it should be {expected[name].dtype} {list(expected[name].shape)}"
            )
        if name != first[name] and not torch.equal(tensor, tensors[first[name]]):
            raise ModelError(f"{what} does not fit its architecture: {name} and {first[name]} are one tensor there")


def load_tensors(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Load what `check_tensors` has passed."""
    model.load_state_dict(dict(tensors), strict=False)  # without what a file may have hung on its mapping


def untied(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers, each by the first of its names."""
    tensors = model.state_dict()
    return {name: tensors[name] for name in dict.fromkeys(_first_names(model).values())}


def _first_names(model: nn.Module) -> dict[str, str]:
    """For every name in the state dict, the first name of the same tensor."""
    tensors = model.state_dict(keep_vars=True)
    first: dict[torch.Tensor, str] = {}
    for name, tensor in tensors.items():
        first.setdefault(tensor, name)
    return {name: first[tensor] for name, tensor in tensors.items()}
