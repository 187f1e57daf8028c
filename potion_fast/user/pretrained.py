"""Models of timm and torchvision by name, a user's own by "module:factory", and state dicts of other sources."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..errors import ModelError
from ..utils.adapter import DEFAULT
from ..utils.did_you_mean import did_you_mean
from .checkpoint import Checkpoint
from .user_code import called, find_user_code


def timm_model(name: str, num_classes: int, in_channels: int, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    """Make a model of timm.

    Args:
        name: of the model, with a tag behind a dot where it is pretrained: the default tag changes between versions.
        num_classes: outputs.
        in_channels: channels of the images.
        pretrained: whether to download the weights, unless they are in the cache.
        options: further arguments of timm.create_model.

    Raises:
        ModelError: there is no such model, or it cannot be made like this.
    """
    import timm  # takes seconds: only when needed

    base, _, tag = name.partition(".")
    if not timm.is_model(base):  # a name such as "hf-hub:..." would be looked up on the network
        raise ModelError(
            f"timm has no model {base!r}; timm.list_models() names them{did_you_mean(base, timm.list_models())}"
        )
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
    """Make a classification model of torchvision.

    Args:
        name: of the model, with a tag where it is pretrained, as in "resnet18.IMAGENET1K_V1".
        num_classes: outputs; a head for another number of classes than the weights' keeps its random weights.
        in_channels: channels of the images, three.
        pretrained: whether to download the weights, unless they are in the cache.
        options: further arguments of the model.

    Raises:
        ModelError: there is no such model, or it cannot be made like this.
    """
    from torchvision import models  # takes seconds: only when needed

    base, _, tag = name.partition(".")
    if base not in models.list_models(module=models):  # those of other modules download a backbone unasked
        meant = did_you_mean(base, models.list_models(module=models))
        raise ModelError(f"torchvision has no model {base!r} for classification; its list_models() names them{meant}")
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
        if getattr(model, "aux_logits", False):
            model.register_forward_hook(_logits)  # in training there are more outputs
        return model
    except (RuntimeError, TypeError, ValueError, OSError) as error:
        raise ModelError(f"torchvision cannot make {name!r} with {options}: {error}") from error


def factory_model(name: str, num_classes: int, in_channels: int, options: dict[str, Any]) -> nn.Module:
    """Make a model by code of the user's, which is imported and run: only names that the user typed may come here.

    Of an output that has its logits as `logits`, as Hugging Face's, the model gives these.

    Args:
        name: "module:factory", see `find_user_code`.
        num_classes: given to the factory if it takes a parameter of this name.
        in_channels: given to the factory if it takes a parameter of this name.
        options: given to the factory.

    Raises:
        ModelError: there is no such module or factory, it fails, or it makes something else than a model.
    """
    factory = find_user_code(name, ModelError)
    offered = {"num_classes": num_classes, "in_channels": in_channels}
    taken = inspect.signature(factory).parameters
    arguments = {key: value for key, value in offered.items() if key in taken}
    model = called(name, factory, ModelError, **arguments, **options)
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name!r} made a {type(model).__name__}, not an nn.Module")
    model.register_forward_hook(_logits)
    return model


def _logits(model: nn.Module, inputs: object, outputs: Any) -> Any:
    """The logits of an output that has them, as those of Hugging Face; any other as it is."""
    if isinstance(outputs, torch.Tensor):
        return outputs
    has_logits = "logits" in outputs if isinstance(outputs, Mapping) else hasattr(outputs, "logits")
    return DEFAULT.logits(outputs) if has_logits else outputs


def load_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load a state dict into a model, in place: safetensors, or what torch.save wrote of nothing but tensors.

    Args:
        model: whose weights are replaced; it stays as it was where that fails.
        path: see `Checkpoint`. What DataParallel, Lightning or torch.compile put before all names is left out.

    Raises:
        FileError: the file is missing, truncated, or holds more than tensors: such files can run code and are not read.
        ModelError: the weights do not fit the model.
    """
    load_checkpoint(model, Checkpoint(path))


def load_checkpoint(model: nn.Module, checkpoint: Checkpoint) -> None:
    """The same of a file that has been read. Raises ModelError where its weights do not fit."""
    names, dtypes = list(untied(model)), {name: tensor.dtype for name, tensor in model.state_dict().items()}
    tensors = checkpoint.tensors(names, dtypes)
    check_tensors(model, tensors, str(checkpoint.path))
    load_tensors(model, tensors)


def check_tensors(model: nn.Module, tensors: Mapping[str, torch.Tensor], source: str) -> None:
    """Check that tensors have the names, shapes and dtypes of a model's parameters and buffers.

    Args:
        model: the model.
        tensors: by name. Of a tensor with several names (tied weights) the first one is enough; under the others it
            must be the same.
        source: names them in errors.

    Raises:
        ModelError: they do not fit.
    """
    expected, first = model.state_dict(), _first_names(model)
    odd = sorted((set(first.values()) - set(tensors)) | (set(tensors) - set(expected)))
    if odd:
        shown = ", ".join(odd[:10]) + (f" and {len(odd) - 10} more" if len(odd) > 10 else "")
        raise ModelError(f"{source} does not fit its architecture: {shown} in only one of them")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape or tensor.dtype != expected[name].dtype:
            raise ModelError(
                f"{source} does not fit its architecture: {name} is {tensor.dtype} {list(tensor.shape)}, "
                f"it should be {expected[name].dtype} {list(expected[name].shape)}"
            )
        if name != first[name] and not torch.equal(tensor, tensors[first[name]]):
            raise ModelError(f"{source} does not fit its architecture: {name} and {first[name]} are one tensor there")


def load_tensors(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Load what `check_tensors` has passed into a model, in place."""
    model.load_state_dict(dict(tensors), strict=False)  # without what a file may have hung on its mapping


def untied(model: nn.Module) -> dict[str, torch.Tensor]:
    """The parameters and buffers of a model, each by the first of its names."""
    tensors = model.state_dict()
    return {name: tensors[name] for name in dict.fromkeys(_first_names(model).values())}


def _first_names(model: nn.Module) -> dict[str, str]:
    """For every name in the state dict, the first name of the same tensor."""
    tensors = model.state_dict(keep_vars=True)
    first: dict[torch.Tensor, str] = {}
    for name, tensor in tensors.items():
        first.setdefault(tensor, name)
    return {name: first[tensor] for name, tensor in tensors.items()}
