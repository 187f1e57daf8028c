"""What a fine-tuning is judged by: how much poison is left, and how much clean accuracy went."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..distributed import Ranks
from ..errors import DataError, ModelError
from ..utils.adapter import Adapter, read_logits
from ..utils.crc import crc32
from ..utils.data_errors import data_named, sample_named
from ..utils.halving import Halving
from ..utils.inputs import BatchInputs
from ..utils.labels import single_labels
from ..utils.seeding import seed_generators
from ..utils.training_data import TrainingData
from .keeping import clean_change
from .predictions import Predictions
from .result import ClassAccuracy, Evaluation

if TYPE_CHECKING:
    from .batches import Batches
    from .steps import Steps

MOST, MOST_CLEAN = 512, 4096  # samples of S_f and of the suspects, and of the caller's clean data, that are evaluated

Outputs = Callable[[BatchInputs], object]


class Reader:
    """Predictions of the model as it stands, each of several ranks reading a part.

    Args:
        outputs: Of the model, for the inputs of a batch.
        adapter: Finds the logits.
        device: Of the model.
        ranks: That share the work.
        seed: Of the samples' random augmentation, which is the same each time that samples are read.

    Attributes:
        samples: That all ranks read.
        classes: Of the model, once this rank has read a sample; 0 before.
    """

    def __init__(self, outputs: Outputs, adapter: Adapter, device: torch.device, ranks: Ranks, seed: int) -> None:
        self.outputs, self.adapter, self.device, self.ranks, self.seed = outputs, adapter, device, ranks, seed
        self.samples, self.classes, self.halving = 0, 0, Halving()

    def __call__(self, data: TrainingData, indices: Tensor) -> Predictions:
        """Of these samples, in their order.

        Raises:
            ModelError: Logits that are not a row for each sample.
            DataError: Labels that are not one class each.
        """
        own = slice(self.ranks.rank, None, self.ranks.size)
        table = torch.zeros(2, len(indices), dtype=torch.float64, device=self.device)  # labels, margins
        with self.ranks.raising_together():
            part = indices[own]
            seed = seed_generators(self.seed, "evaluation", self.ranks.rank)
            if len(part):
                columns: list[Tensor] = []
                with torch.no_grad():
                    done = 0
                    for inputs, labels in data.batches(part, seed=seed):
                        with data_named(data.name), sample_named(labels, part[done : done + len(labels)], data.name):
                            columns += self.halving(self._described, inputs, labels)
                        done += len(labels)
                table[:, own] = torch.cat(columns, 1)
        self.ranks.all_reduce(table)  # x + 0: the same bits
        self.samples += len(indices)
        labels, margins = table.cpu()
        return Predictions(labels.long(), margins.float())

    def _described(self, inputs: BatchInputs, labels: Tensor) -> Tensor:
        """Labels and margins of a batch, float64 [2, B]."""
        logits = read_logits(self.outputs(inputs), self.adapter)
        labels, self.classes = single_labels(logits, labels).to(logits.device)[:, None], logits.shape[1]
        own, others = logits.gather(1, labels), logits.scatter(1, labels, -torch.inf).amax(1, keepdim=True)
        return torch.stack([labels[:, 0].double(), (own - others)[:, 0].double()])


def check_finite(predictions: Predictions, indices: Tensor, what: str) -> None:
    """Raise ModelError where the given model's logits are not finite."""
    if (bad := ~torch.isfinite(predictions.margins)).any():
        raise ModelError(
            f"the model gives logits that are not finite for the sample {int(indices[bad][0])} of {what}; look for bad "
            "inputs or weights"
        )


class Judge:
    """Evaluations of a fine-tuning.

    Args:
        steps: Of the model that is fine-tuned.
        data: The training data.
        clean: Clean data that the model has not seen; None where a part of the training data is kept out.
        ranks: That share the work.
        seed: Of random augmentation, and of the part of large clean data that is read.

    Attributes:
        described: What clean accuracy is measured on.
        last: Predictions for it at the last evaluation with finite logits; None before.
        given: int64 [K], the suspects' labels as trained on, once `changed` has read them.
    """

    def __init__(self, steps: Steps, data: TrainingData, clean: TrainingData | None, ranks: Ranks, seed: int) -> None:
        self.reader = Reader(steps.outputs, data.adapter, steps.device, ranks, seed)
        self.data, self.clean, self.unseen, self.seed = data, clean, clean is not None, seed
        self.described = ""
        self.last: Predictions | None = None

    @property
    def samples(self) -> int:
        """That all ranks read."""
        return self.reader.samples

    def changed(self, suspects: Tensor, new_labels: Tensor) -> Tensor:
        """Whether each suspect's new label is another than the given one, bool [K]; one forward pass, notes the latter.

        Raises:
            DataError: A new label is no class of the model's.
        """
        predictions = self.reader(self.data, suspects)
        check_finite(predictions, suspects, "the training set")
        classes = self.reader.classes
        if classes and len(odd := new_labels[(new_labels < 0) | (new_labels >= classes)]):
            index = int(suspects[(new_labels < 0) | (new_labels >= classes)][0])
            raise DataError(
                f"labels gives the suspect {index} the label {int(odd[0])}; labels count from 0, and the model has "
                f"{classes} outputs"
            )
        self.given = predictions.labels
        return new_labels != self.given

    def start(self, batches: Batches, changed: Tensor, found: Tensor) -> None:
        """Choose the samples, and read them with the given model.

        Args:
            batches: What is kept out.
            changed: int64 [J], suspects with a new label, where none of them is kept out.
            found: int64 [F], S_f.
        """
        self.found = picked(found, MOST, self.seed)
        self.poison = batches.kept_out if len(batches.kept_out) else picked(changed, MOST, self.seed)
        if self.clean is None:
            self.clean, self.kept = self.data, batches.held_out
            self.described = f"{len(self.kept)} samples of the training data that were kept out of the fine-tuning"
        else:
            self.kept = picked(torch.arange(len(self.clean)), MOST_CLEAN, self.seed)
            self.described = f"{len(self.kept)} validation samples"
        self.before = self.reader(self.clean, self.kept)
        check_finite(self.before, self.kept, "the clean data")

    def __call__(self, step: int, rate: float, loss: float) -> Evaluation:
        """Evaluate the model as it stands."""
        assert self.clean is not None
        after = self.before if step == 0 else self.reader(self.clean, self.kept)
        change, error = clean_change(self.before, after, self.unseen)
        finite = bool(torch.isfinite(after.margins).all())
        self.last = after if finite else self.last
        return Evaluation(
            step=step,
            rate=rate,
            loss=loss,
            found_accuracy=self._poisoned(self.found),
            poison_accuracy=self._poisoned(self.poison),
            clean_accuracy=_share(after),
            clean_change=change if finite else math.nan,
            clean_error=error,
        )

    def by_class(self, is_last: bool) -> list[ClassAccuracy]:
        """Accuracy of each class with the given model, and with the model as it stands.

        Args:
            is_last: It is that of the last evaluation, whose predictions are there.
        """
        assert self.clean is not None
        after = self.last if is_last and self.last is not None else self.reader(self.clean, self.kept)
        labels = self.before.labels
        rows = [(label, labels == label) for label in labels.unique().tolist()]
        return [
            ClassAccuracy(label, int(own.sum()), *(float(p.right[own].double().mean()) for p in (self.before, after)))
            for label, own in rows
        ]

    def _poisoned(self, indices: Tensor) -> float:
        """Share of training samples that have the label that they were trained with; 0 of none."""
        return _share(self.reader(self.data, indices)) if len(indices) else 0.0


def picked(indices: Tensor, most: int, seed: int) -> Tensor:
    """All of the indices, or so many of them at random, ascending."""
    if len(indices) <= most:
        return indices
    generator = torch.Generator().manual_seed(crc32(f"{seed} picked"))
    return indices[torch.randperm(len(indices), generator=generator)[:most]].sort().values


def _share(predictions: Predictions) -> float:
    return predictions.right.double().mean().item()
