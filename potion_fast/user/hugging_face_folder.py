"""A classifier in a folder of Hugging Face's `save_pretrained`: read offline, and written again."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import FileError, ModelError
from ..utils.atomic_files import folder_written_whole
from .model_inputs import ImageInputs, of_processor
from .read_data import read_json

CONFIG = "config.json"
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".index.json")  # poisoned ones


class HuggingFaceFolder:
    """A classifier's folder; code in it is not run, and nothing is fetched.

    Args:
        path: of the folder.

    Attributes:
        path: of the folder.
        config: the library's configuration of the model.
        takes_images: whether it is a classifier of images, else one of texts.

    Raises:
        FileError: the configuration cannot be read.
        ModelError: it is of no classifier with one label out of several.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        library = transformers()
        self.config = _offline(library.AutoConfig, path)
        images = type(self.config) in library.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
        texts = type(self.config) in library.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
        if not images and not texts:
            raise ModelError(
                f"{path} holds a {self.config.model_type}, of which transformers has no classifier of images or texts"
            )
        self.takes_images = images
        problem = getattr(self.config, "problem_type", None)
        if problem in ("regression", "multi_label_classification") or self.config.num_labels < 2:
            task = (problem or "regression").replace("_", " ")
            raise ModelError(f"{path} holds a model of {task}; models that give one label out of several are healed")

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names of the model's outputs, in their order; None where it has none but LABEL_0, LABEL_1, ..."""
        names = tuple(str(self.config.id2label[index]) for index in range(self.config.num_labels))
        return None if all(name == f"LABEL_{index}" for index, name in enumerate(names)) else names

    def maker(self) -> Any:
        """The library's Auto class of the classifier."""
        library = transformers()
        if self.takes_images:
            return library.AutoModelForImageClassification
        return library.AutoModelForSequenceClassification

    def model(self) -> nn.Module:
        """The model in float32, in evaluation mode.

        Raises:
            FileError: the weights cannot be read.
            ModelError: the folder lacks some of them, as that of a model without its head.
        """
        model, loading = _offline(self.maker(), self.path, dtype=torch.float32, output_loading_info=True)
        if missing := sorted(loading["missing_keys"]):
            raise ModelError(
                f"{self.path} lacks weights of {type(model).__name__}: {', '.join(missing[:5])}; it is no fine-tuned "
                "classifier"
            )
        made: nn.Module = model
        if not self.takes_images and self.config.pad_token_id is None:
            model.config.pad_token_id = self.tokenizer().pad_token_id  # or batches of texts are refused
        return made.eval()

    def image_inputs(self) -> ImageInputs | None:
        """What its image processor does; None where it takes texts."""
        if not self.takes_images:
            return None
        channels = getattr(self.config, "num_channels", 3)
        if not (self.path / "preprocessor_config.json").is_file():
            raise FileError(
                f"{self.path} has no preprocessor_config.json, which says how images become inputs; save its image "
                "processor there with save_pretrained"
            )
        return of_processor(_offline(transformers().AutoImageProcessor, self.path), channels)

    def tokenizer(self) -> Any:
        """Its tokenizer, with a token to pad with."""
        tokenizer = _offline(transformers().AutoTokenizer, self.path)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    def longest(self) -> int:
        """The most tokens of a text that the model reads."""
        most = [getattr(self.config, name, None) for name in ("max_position_embeddings", "n_positions")]
        limits = [value for value in (self.tokenizer().model_max_length, *most) if value and value < 10**6]
        return int(min(limits, default=512))

    def notes(self) -> tuple[str, ...]:
        """What deserves a second look."""
        left = [name for name in self._files() if name.endswith(WEIGHTS) and not name.startswith("model")]
        named = ", ".join(left)
        return (f"not healed, and not copied, as they may hold the poisoned weights: {named}",) if left else ()

    def save_model(self, folder: Path, model: nn.Module) -> Path:
        """Write the model as `save_pretrained` does, with the folder's other files.

        Args:
            folder: that a folder "healed" is written into.
            model: the model.

        Returns:
            That folder.
        """
        target = folder / "healed"
        saved = read_json(self.path / CONFIG)
        dtype = getattr(
            torch, str(saved.get("dtype", saved.get("torch_dtype", "float32"))).removeprefix("torch."), None
        )
        with folder_written_whole(target) as place:
            kept: Any = model
            state = {
                name: tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
                for name, tensor in model.state_dict().items()
            }
            with _quiet():
                kept.save_pretrained(place, state_dict=state)
            for name in self._files():
                if not name.endswith(WEIGHTS):
                    shutil.copyfile(self.path / name, place / name)  # config.json too: it says the same as before
        return target

    def _files(self) -> list[str]:
        return sorted(entry.name for entry in os.scandir(self.path) if entry.is_file())


def transformers() -> Any:
    """The library, imported when it is needed.

    Raises:
        ModelError: it is not installed.
    """
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise ModelError("models of Hugging Face need transformers: pip install 'potion-fast[text]'") from error


def model_of_config(name: str, classes: int) -> nn.Module:
    """A classifier with random weights by a folder's configuration.

    Args:
        name: the folder.
        classes: outputs.

    Raises:
        FileError: there is no such folder.
        ModelError: see `HuggingFaceFolder`.
    """
    path = Path(name).expanduser()
    if not (path / CONFIG).is_file():
        raise FileError(f"hf:{name} needs a folder with a {CONFIG} on this disk; nothing is fetched")
    folder = HuggingFaceFolder(path)
    folder.config.num_labels = classes
    model: nn.Module = folder.maker().from_config(folder.config).float()
    return model


def _offline(maker: Any, path: Path, **settings: Any) -> Any:
    """What an Auto class reads from a folder."""
    try:
        with _quiet():
            return maker.from_pretrained(path, local_files_only=True, trust_remote_code=False, **settings)
    except Exception as error:  # OSError, ValueError, ImportError of a package, and whatever a broken file leads to
        reason = str(error).strip().partition("\n")[0]
        raise FileError(f"{path} cannot be read by transformers' {maker.__name__}: {reason}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's progress bars and reports."""
    logging = transformers().utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
