"""A user's training data as the model takes them: decoded, resized, augmented, normalised; or texts as tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from ..errors import DataError
from . import image_source
from .crops import border, crop, draw_crops
from .image_files import read_image
from .image_source import FileSource, ImageSource, MemorySource
from .model_inputs import ImageInputs
from .samples import LABEL_KEYS
from .training_files import TrainingFiles
from .user_source import UserSource

TEXT_BATCH_SIZE = 32
Augmentation = Literal["none", "flip", "crop", "crop-and-flip"]


class PreparedFiles(FileSource):
    """Image files as a model's inputs before normalisation.

    Args:
        paths: [N], of the files.
        labels: int64 [N].
        inputs: channels and size.
    """

    def __init__(self, paths: Sequence[Path], labels: Tensor, inputs: ImageInputs) -> None:
        self.inputs = inputs
        size = inputs.prepared(_pixels(paths[0])).shape[1:]
        super().__init__(paths, labels, (size[0], size[1]), resize=inputs.resize is not None, channels=inputs.channels)

    @override
    def _decode(self, path: Path) -> np.ndarray:  # [channels, H, W] uint8
        prepared = self.inputs.prepared(_pixels(path))
        self._check_size(path, (prepared.shape[1], prepared.shape[2]))
        return prepared.numpy()


def _pixels(path: Path) -> Tensor:  # [3, H, W] uint8
    return torch.from_numpy(np.array(read_image(path))).permute(2, 0, 1)


def image_source_of(files: TrainingFiles, inputs: ImageInputs) -> ImageSource:
    """The images of training data, prepared for the model; in memory where they fit, so that each is decoded once.

    Raises:
        DataError: an image that cannot be read, naming it, or sizes that differ where nothing is resized.
    """
    source: ImageSource
    if files.paths is not None:
        source = PreparedFiles(files.paths, files.labels, inputs)
        if source.nbytes() > image_source.MEMORY_LIMIT:
            source.check_headers()
            return source
        return source.in_memory()
    source = UserSource(files.images, None, files.name, prepare=inputs.prepared)
    nbytes = len(source) * source.images([0]).numel()
    if ":" in files.name or nbytes > image_source.MEMORY_LIMIT:  # code of the user's may augment at random
        return source
    return MemorySource(source.images(range(len(source))), source.labels)


class ImageSet(Dataset[tuple[Tensor, int]]):
    """Normalised images and labels.

    Args:
        source: of uint8 images.
        inputs: the normalisation.
        augmentation: "crop": a random crop out of the image with a black border of an eighth of it around; "flip":
            mirrored left to right with probability 1/2.
    """

    def __init__(self, source: ImageSource, inputs: ImageInputs, augmentation: Augmentation = "none") -> None:
        self.source, self.inputs, self.augmentation = source, inputs, augmentation

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        """The samples of a batch: DataLoader asks for them at once."""
        pixels = self.source.images(indices)
        if self.augmentation != "none":
            pad = min(pixels.shape[2:]) // 8 if "crop" in self.augmentation else 0
            pixels = crop(border(pixels, pad), pad, draw_crops(len(pixels), pad, "flip" in self.augmentation))
        return list(
            zip(self.inputs.normalised(pixels), self.source.labels[torch.as_tensor(indices)].tolist(), strict=True)
        )


class TextSet(Dataset[dict[str, Tensor]]):
    """Tokens and labels of texts, all padded to the longest.

    Args:
        texts: [N].
        labels: int64 [N].
        tokenizer: of transformers.
        length: the most tokens of a text.
    """

    def __init__(self, texts: Sequence[str], labels: Tensor, tokenizer: Any, length: int) -> None:
        made = tokenizer(list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt")
        self.entries = {**made, "labels": labels}  # each [N, L], and [N]

    def __len__(self) -> int:
        return len(self.entries["labels"])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {key: values[index] for key, values in self.entries.items()}


def unpadded(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """A batch of samples of `TextSet`, without the places at which all of them are padded."""
    batch = {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}
    if "attention_mask" not in batch:
        return batch
    used = batch["attention_mask"].any(0)
    return {key: values[:, used] if values.ndim == 2 else values for key, values in batch.items()}


@dataclass
class TokenCollate:
    """Batches of samples that are tokens already, as mappings, padded to the longest of each batch."""

    tokenizer: Any

    def __call__(self, samples: list[Mapping[str, Any]]) -> dict[str, Tensor]:
        """The tokenizer's own entries and the labels; other columns are left out."""
        kept = {*self.tokenizer.model_input_names, *LABEL_KEYS} & set(samples[0])
        return dict(self.tokenizer.pad([{key: s[key] for key in kept} for s in samples], return_tensors="pt"))


@dataclass
class OwnData:
    """A user's data as `heal` takes them.

    Attributes:
        train: data set or DataLoader, augmented where that was asked for.
        plain: the same samples without augmentation; None where `train` has none.
        labels: int64 [N].
        source: uint8 images, for pictures; None where the samples are none, or are the user's own inputs.
    """

    train: Any
    plain: Any
    labels: Tensor
    source: ImageSource | None = None


def prepared_data(
    files: TrainingFiles,
    inputs: ImageInputs | None,
    augmentation: Augmentation = "none",
    tokenizer: Any = None,
    length: int = 512,
) -> OwnData:
    """Training data as a model takes them.

    Args:
        files: the samples.
        inputs: what becomes of images; None: the model takes texts.
        augmentation: see `ImageSet`.
        tokenizer: of texts.
        length: the most tokens of a text.

    Raises:
        DataError: samples of another kind than the model's, or that cannot be read.
    """
    if files.inputs is not None:
        if augmentation != "none":
            raise DataError(
                f"{files.name} gives the model's inputs as they are; leave --augment out, or give images of 8 bits"
            )
        if tokenizer is not None and not isinstance(files.inputs, DataLoader):
            loader = DataLoader(files.inputs, TEXT_BATCH_SIZE, collate_fn=TokenCollate(tokenizer))
            return OwnData(loader, None, files.labels)
        return OwnData(files.inputs, None, files.labels)
    if files.texts is not None:
        if tokenizer is None:
            raise DataError(f"{files.name} holds texts, and the model takes images; give the data it was trained on")
        tokens = TextSet(files.texts, files.labels, tokenizer, length)
        return OwnData(DataLoader(tokens, TEXT_BATCH_SIZE, collate_fn=unpadded), None, files.labels)
    if inputs is None:
        raise DataError(f"{files.name} holds images, and the model takes texts; give the data it was trained on")
    source = image_source_of(files, inputs)
    plain = ImageSet(source, inputs)
    if augmentation == "none":
        return OwnData(plain, None, files.labels, source)
    return OwnData(ImageSet(source, inputs, augmentation), plain, files.labels, source)
