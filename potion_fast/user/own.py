"""A user's own model with the data that it was trained on, loaded together and checked against each other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..errors import DataError, FileError, ModelError
from .given_accuracy import Accuracy, given_accuracy
from .image_source import ImageSource
from .model_inputs import ImageInputs
from .own_config import OwnConfig
from .own_data import OwnData, prepared_data
from .own_model import OwnModel, Weights, load_own_model
from .samples import pixels_of
from .training_files import TrainingFiles, read_training_files, sample_of

BATCH_SIZE = 128


@dataclass
class Own:
    """What `heal` and the search for poison take, of a user's own.

    Attributes:
        model: on its device.
        weights: where they came from, in whose form others are written.
        train: the training data, a DataLoader.
        plain: the same samples without augmentation; None where `train` has none.
        validation: clean samples that the model has not seen; None where none were given.
        files: the samples as they were read: labels int64 [N], class names, file names.
        source: the images before normalisation, for pictures; None where there are none.
        inputs: what becomes of images; None where they are no images, or the user's own inputs.
        accuracy: of the given model on the training data.
        notes: what deserves a second look.
    """

    model: nn.Module
    weights: Weights
    train: DataLoader[Any]
    plain: Any
    validation: Any
    files: TrainingFiles
    source: ImageSource | None
    inputs: ImageInputs | None
    accuracy: Accuracy
    notes: list[str]

    @property
    def class_names(self) -> list[str]:
        """Of every label that the data have."""
        return list(self.files.classes or map(str, range(int(self.files.labels.max()) + 1)))


def read_own(config: OwnConfig, device: str) -> Own:
    """Load a user's model and data.

    Args:
        config: what they are.
        device: that the model goes to.

    Raises:
        DataError: data that cannot be read, or whose labels are none of the model's outputs.
        FileError: weights that cannot be read.
        ModelError: an unknown architecture, or one that the weights do not fit.
    """
    if config.weights is None or config.data is None:
        missing = "--weights" if config.weights is None else "--data"
        raise DataError(f"{missing} is missing; your own model needs --weights, --data and, for a file, --model")
    files = read_training_files(config.data, config.classes, config.split)
    classes = len(files.classes) if files.classes else max(2, int(files.labels.max()) + 1)
    own = load_own_model(config.weights, config.model, classes, _channels(files), config.image_size)
    if own.inputs is not None:
        own.inputs = own.inputs.changed(config.mean, config.std, config.image_size)
    notes = [*files.notes, *own.notes]
    files, ordered = _in_order_of_model(files, own, config)
    notes += ordered
    data = _prepared(files, own, config)
    validation = None
    if config.validation is not None:
        unseen = read_training_files(config.validation, files.classes or config.classes, config.split)
        validation = _prepared(unseen, own, config.updated(augment="none"))
    plain = data.plain
    if config.plain_data is not None:
        same = read_training_files(config.plain_data, files.classes or config.classes, config.split)
        if len(same) != len(files) or not torch.equal(same.labels, files.labels):
            raise DataError(f"{config.plain_data} does not give the samples of {config.data} in the same order")
        plain = _prepared(same, own, config.updated(augment="none")).train
    elif _is_random(data.train):
        notes.append(
            f"{config.data} gives another input each time that it is asked for sample 0: it augments at random; give "
            "the same samples without augmentation as --plain-data"
        )
    model = own.model.to(device)
    _check_outputs(model, plain or data.train, files, config)
    inputs = None if data.source is None else own.inputs
    accuracy = given_accuracy(model, plain or data.train, files, inputs, config.seed)
    return Own(
        model,
        own.weights,
        _loader(data.train, config),
        plain,
        None if validation is None else _loader(validation.train, config),
        files,
        data.source,
        inputs,
        accuracy,
        [*notes, *accuracy.notes],
    )


def _channels(files: TrainingFiles) -> int:
    """Of the images."""
    if files.images is not None:
        try:
            return len(pixels_of(sample_of(files.images, 0, files.name)[0]))
        except (ValueError, OSError) as error:
            raise DataError(f"image 0 of {files.name} cannot be used: {error}") from error
    if files.inputs is not None and not isinstance(files.inputs, DataLoader):
        given = sample_of(files.inputs, 0, files.name)[0]
        if isinstance(given, Tensor) and given.ndim == 3:
            return len(given)
    return 3


def _prepared(files: TrainingFiles, own: OwnModel, config: OwnConfig) -> OwnData:
    if files.inputs is not None and (config.mean is not None or config.std is not None):
        files = replace(files, images=files.inputs, inputs=None)  # pixels from 0 to 1, which are to be normalised
    tokenizer, length = None, 0
    if own.folder is not None and not own.folder.takes_images:
        tokenizer, length = own.folder.tokenizer(), min(config.length or 10**9, own.folder.longest())
    return prepared_data(files, own.inputs, config.augment, tokenizer, length)


def _in_order_of_model(files: TrainingFiles, own: OwnModel, config: OwnConfig) -> tuple[TrainingFiles, list[str]]:
    """The samples with labels in the order of the model's outputs, where both name their classes; and notes."""
    names = None if own.folder is None else own.folder.classes
    if names is None or files.classes is None or config.classes is not None or names == files.classes:
        return files, []
    if missing := [name for name in files.classes if name not in names]:
        return files, [
            f"the model names its classes {_few(names)} and the data {_few(files.classes)} ({missing[0]!r} is none "
            "of the model's): they are taken to be in the same order; --classes gives another"
        ]
    places = torch.tensor([names.index(name) for name in files.classes])
    return replace(files, labels=places[files.labels], classes=names), []


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def _loader(dataset: Any, config: OwnConfig) -> DataLoader[Any]:
    """The data by batches, not shuffled: `heal` reads by index."""
    given = isinstance(dataset, DataLoader)
    size = dataset.batch_size if given else BATCH_SIZE
    return DataLoader(
        dataset.dataset if given else dataset,
        batch_size=config.batch_size or size or BATCH_SIZE,
        num_workers=config.workers,
        collate_fn=dataset.collate_fn if given else None,
    )


def _is_random(dataset: Any) -> bool:
    """Whether the first sample's input changes when it is read again, in a data set of the user's own code."""
    dataset = dataset.dataset if isinstance(dataset, DataLoader) else dataset
    first, again = dataset[0], dataset[0]
    if isinstance(first, dict):
        return any(isinstance(first[key], Tensor) and not torch.equal(first[key], again[key]) for key in first)
    return isinstance(first[0], Tensor) and not torch.equal(first[0], again[0])


def _check_outputs(model: nn.Module, dataset: Any, files: TrainingFiles, config: OwnConfig) -> None:
    """Raise ModelError or DataError unless the model takes a sample, and has an output for every label."""
    from ..utils.adapter import DEFAULT, read_batch, read_logits

    given = dataset if isinstance(dataset, DataLoader) else DataLoader(dataset)
    one = DataLoader(torch.utils.data.Subset(given.dataset, [0]), collate_fn=given.collate_fn)
    inputs, _ = read_batch(next(iter(one)), DEFAULT)
    try:
        with torch.no_grad():
            logits = read_logits(DEFAULT.call(model, inputs.to(next(model.parameters()).device)), DEFAULT)
    except (ModelError, DataError, FileError):
        raise
    except Exception as error:  # of the user's own code, or of torch
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"the model does not take a sample of {config.data}: {type(error).__name__}: {reason}; --image-size and "
            "the form of the data must be those of its training"
        ) from error
    outputs, most = logits.shape[-1], int(files.labels.max())
    if logits.ndim != 2 or outputs < 2:
        raise ModelError(f"the model gives {list(logits.shape)} for one sample; logits [1, classes] are needed")
    named = len(files.classes) if files.classes else most + 1
    if max(named, most + 1) > outputs:
        raise DataError(
            f"the model has {outputs} outputs and {config.data} has {max(named, most + 1)} classes; give the "
            "weights and the data that belong together"
        )
