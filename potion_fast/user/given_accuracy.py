"""Accuracy of a given model on its training data: where it is low, something is not as it was in the training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from ..utils.predict import predict
from .model_inputs import ImageInputs
from .own_data import ImageSet
from .training_files import TrainingFiles

SAMPLES, TRIED = 1000, 200  # that the accuracy is taken from; that another normalisation is tried on
NORMALISATIONS = {  # of three channels and one, as people train
    "--mean 0.485 0.456 0.406 --std 0.229 0.224 0.225": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "--mean 0.4914 0.4822 0.4465 --std 0.247 0.2435 0.2616": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "--mean 0.5 0.5 0.5 --std 0.5 0.5 0.5": ((0.5,) * 3, (0.5,) * 3),
    "--mean 0 0 0 --std 1 1 1": ((0.0,) * 3, (1.0,) * 3),
    "--mean 0.5 --std 0.5": ((0.5,), (0.5,)),
    "--mean 0 --std 1": ((0.0,), (1.0,)),
}


@dataclass(frozen=True)
class Accuracy:
    """How well the given model knows its training data.

    Attributes:
        value: share of right labels.
        samples: that it was taken from.
        chance: share of the most frequent label.
        notes: what deserves a second look.
    """

    value: float
    samples: int
    chance: float
    notes: tuple[str, ...] = ()


def given_accuracy(
    model: nn.Module, dataset: Any, files: TrainingFiles, inputs: ImageInputs | None, seed: int
) -> Accuracy:
    """Measure it on 1,000 samples at most.

    Below a quarter of the way from chance to all right, a note says so: normalisation, size or the order of the classes
    are then not those of the training. It also says which other normalisation or order would do better, where one does.

    Args:
        model: the given model.
        dataset: data set or DataLoader of the training data, not augmented.
        files: the samples.
        inputs: what becomes of images; None where that is not known.
        seed: of the choice of samples.
    """
    chosen = torch.randperm(len(files), generator=torch.Generator().manual_seed(seed))[:SAMPLES]
    predicted, labels = _predicted(model, dataset, chosen)
    value = (predicted == labels).double().mean().item()
    chance = labels.bincount().max().item() / len(labels)
    if value >= chance + (1 - chance) / 4:
        return Accuracy(value, len(labels), chance)
    causes = [
        f"the given model has {value:.1%} accuracy on its training data, where the most frequent label has "
        f"{chance:.1%}: normalisation (--mean, --std), --image-size or the order of the classes (--classes) are not as "
        "they were in its training, or the weights are of another"
    ]
    causes += _other_normalisation(model, dataset, inputs, chosen[:TRIED], value) or _other_order(
        predicted, labels, files
    )
    return Accuracy(value, len(labels), chance, tuple(causes))


def _predicted(model: nn.Module, dataset: Any, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Labels that the model gives to samples, int64 [K], and those that they have."""
    given = dataset if isinstance(dataset, DataLoader) else DataLoader(dataset, batch_size=64)
    loader: DataLoader[Any] = DataLoader(
        Subset(given.dataset, chosen.tolist()), batch_size=given.batch_size, collate_fn=given.collate_fn
    )
    logits, labels = predict(model, loader)
    return logits.argmax(1), labels


def _other_normalisation(
    model: nn.Module, dataset: Any, inputs: ImageInputs | None, chosen: Tensor, value: float
) -> list[str]:
    """What is said of a normalisation with which more labels are right by far."""
    if inputs is None or not isinstance(dataset, ImageSet):
        return []
    tried = {}
    for flags, (mean, std) in NORMALISATIONS.items():
        if len(mean) == inputs.channels:
            other = ImageSet(dataset.source, replace(inputs, mean=mean, std=std))
            predicted, labels = _predicted(model, other, chosen)
            tried[flags] = (predicted == labels).double().mean().item()
    best = max(tried, key=tried.__getitem__, default=None)
    if best is None or tried[best] < value + (1 - value) / 4:
        return []
    return [f"with {best} the accuracy is {tried[best]:.1%}: if that is the normalisation of its training, give it"]


def _other_order(predicted: Tensor, labels: Tensor, files: TrainingFiles) -> list[str]:
    """What is said of an order of the classes with which more labels are right by far."""
    from scipy.optimize import linear_sum_assignment  # comes with scikit-learn

    count = int(max(predicted.max(), labels.max())) + 1
    table = torch.zeros(count, count).index_put_((labels, predicted), torch.ones(len(labels)), accumulate=True)
    rows, columns = linear_sum_assignment(-table.numpy())
    right = table[rows, columns].sum().item() / len(labels)
    if right < (1 + (predicted == labels).double().mean().item()) / 2:
        return []
    text = f"with the classes in another order {right:.1%} of the labels are right"
    if files.classes is not None and len(files.classes) == count:
        order = [files.classes[row] for row, _ in sorted(zip(rows, columns, strict=True), key=lambda pair: pair[1])]
        text += f": --classes {','.join(order)}"
    return [text]
