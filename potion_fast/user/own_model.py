"""A user's own model: its architecture by name, its weights from a file or a folder, and what its inputs are."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from ..errors import FileError, ModelError
from ..utils.did_you_mean import did_you_mean
from .checkpoint import SUFFIXES, Checkpoint
from .hugging_face_folder import CONFIG, HuggingFaceFolder, model_of_config
from .model_inputs import ImageInputs, of_timm, of_torchvision, plain_inputs
from .pretrained import check_tensors, factory_model, load_tensors, timm_model, torchvision_model, untied

Maker = Callable[[int, int], nn.Module]  # of numbers of outputs and of channels

NAMES = "timm:NAME, torchvision:NAME, hf:FOLDER (one with a config.json) or module:factory"


class Weights(Protocol):
    """Where weights came from, in whose form others are written."""

    def save_model(self, folder: Path, model: nn.Module) -> Path:
        """Write a model in this form.

        Args:
            folder: that the file, or the folder, is written into.
            model: the model.

        Returns:
            What was written.
        """


@dataclass
class OwnModel:
    """A model of the user's, loaded.

    Attributes:
        model: with float32 weights, on the CPU, in evaluation mode.
        weights: where they came from.
        inputs: what becomes of an image before the model sees it; None: it takes texts.
        folder: of Hugging Face, which has a tokenizer for texts; None: the weights are a file.
        notes: what deserves a second look.
    """

    model: nn.Module
    weights: Weights
    inputs: ImageInputs | None
    folder: HuggingFaceFolder | None = None
    notes: tuple[str, ...] = ()


def load_own_model(
    weights: str | os.PathLike[str], name: str | None, classes: int, channels: int, image_size: int | None = None
) -> OwnModel:
    """Make a model and load its weights.

    Args:
        weights: a file, see `Checkpoint`, or a folder of Hugging Face's `save_pretrained`, which names
            its architecture.
        name: of the architecture: "timm:NAME", "torchvision:NAME", "hf:FOLDER" or "module:factory", code that is
            imported and run.
        classes: of the data. Where the weights are for another number, the model is made for theirs.
        channels: of the data's images, likewise.
        image_size: pixels, for architectures that are made for one size.

    Raises:
        FileError: the weights cannot be read.
        ModelError: an unknown architecture, or one that the weights do not fit.
    """
    path = Path(weights).expanduser()
    if path.is_dir():
        if not (path / CONFIG).is_file():
            raise FileError(
                f"{path} is a folder without a {CONFIG}: no model of Hugging Face's save_pretrained; give the file of "
                "weights in it" + (", or for a run folder RUN alone" if (path / "config.yaml").is_file() else "")
            )
        if name is not None:
            raise ModelError(f"{path} names its architecture in {CONFIG}; leave --model out")
        folder = HuggingFaceFolder(path)
        return OwnModel(folder.model(), folder, folder.image_inputs(), folder, folder.notes())
    if path.is_file() and path.suffix.lower() not in SUFFIXES:
        raise FileError(f"{path} is no file of weights that is read: {', '.join(SUFFIXES)}, or a Hugging Face folder")
    checkpoint = Checkpoint(path)
    if checkpoint.is_of_this_package:
        raise FileError(f"{path} is the model of a run; give its folder, {path.parent}, as RUN and leave --weights out")
    if name is None:
        raise ModelError(f"{path} does not say which architecture it is of; name it with --model: {NAMES}")
    maker = _maker(name, image_size)
    model, made_for = _fitted(maker, name, checkpoint, classes, 3 if name.startswith("torchvision:") else channels)
    names = list(untied(model))
    others = checkpoint.other_weights(names)
    notes = [f"{path.name} also holds weights under {key!r}, which are not healed" for key in others]
    return OwnModel(model.eval(), _File(checkpoint), _inputs(name, model, made_for), notes=tuple(notes))


@dataclass
class _File:
    """A file of weights, as `Weights`."""

    checkpoint: Checkpoint

    def save_model(self, folder: Path, model: nn.Module) -> Path:
        path = folder / f"healed{self.checkpoint.path.suffix}"
        self.checkpoint.save(path, model.state_dict(), list(untied(model)))
        return path


def _maker(name: str, image_size: int | None) -> Maker:
    """What makes the architecture of a name. Raises ModelError."""
    kind, colon, rest = name.partition(":")
    if kind == "timm" and colon:
        options = {} if image_size is None or not _has_fixed_size(rest) else {"img_size": image_size}
        return lambda classes, channels: timm_model(rest, classes, channels, False, options)
    if kind == "torchvision" and colon:
        return lambda classes, channels: torchvision_model(rest, classes, channels, False, {})
    if kind == "hf" and colon:
        return lambda classes, channels: model_of_config(rest, classes)
    if colon and not os.path.exists(name):
        return lambda classes, channels: factory_model(name, classes, channels, {})
    if os.path.exists(os.path.join(name, CONFIG)):
        return _maker(f"hf:{name}", image_size)
    raise ModelError(f"unknown model {name!r}; name it as {NAMES}{_known_elsewhere(name)}")


def _known_elsewhere(name: str) -> str:
    """What a name without a library in front may mean."""
    import timm  # takes seconds: only when needed
    from torchvision import models

    base = name.partition(".")[0]
    known = [f"timm:{name}"] if timm.is_model(base) else []
    known += [f"torchvision:{name}"] if base in models.list_models(module=models) else []
    return f": {' or '.join(known)}" if known else did_you_mean(base, timm.list_models())


def _has_fixed_size(name: str) -> bool:
    import timm  # takes seconds: only when needed

    configuration = timm.models.get_pretrained_cfg(name) if timm.is_model(name.partition(".")[0]) else None
    return configuration is not None and bool(configuration.fixed_input_size)


def _fitted(maker: Maker, name: str, checkpoint: Checkpoint, classes: int, channels: int) -> tuple[nn.Module, int]:
    """The model with its weights, and its number of channels."""
    model = maker(classes, channels)
    tensors = _tensors(model, checkpoint)
    sizes = _sizes(model.state_dict(), tensors, classes, channels)
    if sizes != (classes, channels):
        model = maker(*sizes)
        tensors = _tensors(model, checkpoint)
    check_tensors(model, tensors, f"{checkpoint.path}, loaded into {name},")
    load_tensors(model, tensors)
    for parameter, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ModelError(f"{checkpoint.path} holds weights that are not finite: {parameter}")
    return model, sizes[1]


def _tensors(model: nn.Module, checkpoint: Checkpoint) -> dict[str, Tensor]:
    dtypes = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    return checkpoint.tensors(list(untied(model)), dtypes)


def _sizes(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], classes: int, channels: int) -> tuple[int, int]:
    """The numbers of outputs and of channels that weights are for, by the tensors whose shapes they alone change."""
    outputs, inputs = classes, channels
    for name, tensor in tensors.items():
        mine = own.get(name)
        if mine is None or mine.ndim != tensor.ndim or mine.ndim == 0 or mine.shape == tensor.shape:
            continue
        if mine.shape[0] == classes and mine.shape[1:] == tensor.shape[1:]:
            outputs = len(tensor)
        elif mine.ndim > 2 and mine.shape[1] == channels and mine.shape[2:] == tensor.shape[2:]:
            inputs = tensor.shape[1]
    return outputs, inputs


def _inputs(name: str, model: nn.Module, channels: int) -> ImageInputs:
    """What the model's own configuration says of images; a factory's may hold one of timm."""
    kind, _, rest = name.partition(":")
    if kind == "torchvision":
        return of_torchvision(rest)
    configuration: Any = getattr(model, "pretrained_cfg", None)
    if kind == "timm" and configuration:
        own_size = getattr(getattr(model, "patch_embed", None), "img_size", None)  # of a transformer made for one
        size = {} if own_size is None else {"input_size": (3, *own_size)}
        return of_timm({**configuration, **size}, channels)
    if kind == "hf" or os.path.isdir(name):
        return HuggingFaceFolder(Path(rest if kind == "hf" else name)).image_inputs() or plain_inputs(channels)
    return plain_inputs(channels)
