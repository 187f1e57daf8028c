"""The public interface of SSD's code (`selective-synaptic-dampening`): its user changes an import and nothing else.

    from potion_fast.drop_in import ssd                             # ssd.ParameterPerturber, in a strategies file
    from potion_fast.drop_in import ssd as forget_full_class_strategies  # ssd_tuning(**kwargs), in the full-class main

Batches are (image, _, label), or (image, label); `label_at=` says where the label is in others. Potion's batches,
whose third is a flag, are refused where they can be told apart. The arithmetic is that of mode "reference", to the bit
on a CPU: the squared gradient of each batch's mean cross-entropy, averaged over the batches. A model is left as the
public code leaves it: in eval mode, its weights changed in place.

What is different: nothing is printed; no gradient is left in the model; the class runs it in eval mode whatever its own
is; bad input is an error or a warning of `potion_fast.errors`. The mains of the repository for random samples and for
subclasses call a function of the same name and arguments.
"""

from __future__ import annotations

from collections.abc import Iterable, Sized
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset, Subset

from ..errors import DataError, ModelError
from ..utils.batches import check_loader
from .batches import SSD, LabelledBatches
from .perturber import Perturber, tune
from .ssd_scores import Scores, membership, percent_correct, zero_retrain_forgetting

__all__ = ["ParameterPerturber", "get_metric_scores", "ssd_tuning"]


class ParameterPerturber(Perturber):
    """SSD with given settings; see `Perturber` for arguments and attributes."""

    form = SSD

    def fulllike_params_dict(self, model: nn.Module, fill_value: float, as_tensor: bool = False) -> dict[str, Any]:
        """A tensor on the device, or nested lists, full of a value for every parameter of a model, by name."""
        filled = {name: np.full(tuple(parameter.shape), fill_value) for name, parameter in model.named_parameters()}
        if not as_tensor:
            return {name: values.tolist() for name, values in filled.items()}
        return {name: torch.full(values.shape, fill_value, device=self.device) for name, values in filled.items()}

    def subsample_dataset(self, dataset: Dataset[Any], sample_perc: float) -> Subset[Any]:
        """Every k-th sample of a data set, for k the whole part of 1 / sample_perc."""
        assert isinstance(dataset, Sized)
        return Subset(dataset, range(0, len(dataset), int(1 / sample_perc)))

    def split_dataset_by_class(self, dataset: Dataset[Any]) -> list[Subset[Any]]:
        """One subset for each class of a data set of (input, label)."""
        assert isinstance(dataset, Sized)
        labels = [int(dataset[index][1]) for index in range(len(dataset))]
        return [
            Subset(dataset, [index for index, label in enumerate(labels) if label == wanted])
            for wanted in range(len(set(labels)))
        ]


def ssd_tuning(
    model: nn.Module,
    unlearning_teacher: nn.Module,
    retain_train_dl: Iterable[object],
    retain_valid_dl: Iterable[object],
    forget_train_dl: Iterable[object],
    forget_valid_dl: Iterable[object],
    valid_dl: Iterable[object],
    dampening_constant: float,
    selection_weighting: float,
    full_train_dl: Iterable[object],
    device: torch.device | str | int,
    *,
    label_at: int | None = None,
    **kwargs: object,
) -> Scores:
    """SSD with given settings, and the five scores of the model that it makes.

    θ ← θ · min(λ · Ω_r / Ω_f, 1) wherever Ω_f > α · Ω_r, in place.

    Args:
        model: Changed in place, and left in eval mode.
        unlearning_teacher: See `get_metric_scores`.
        retain_train_dl: The training data without the forget set.
        retain_valid_dl: Test data of what is retained.
        forget_train_dl: The forget set; its importances are computed first.
        forget_valid_dl: Test data of what is forgotten.
        valid_dl: Test data.
        dampening_constant: λ, at least 0.
        selection_weighting: α, at least 0.
        full_train_dl: All training data, with the forget set.
        device: Of the model.
        label_at: Position of the label in every batch, in place of 2.
        **kwargs: Of no effect, as in the public code, whose mains pass to every method what any of them takes.

    Returns:
        What `get_metric_scores` gives.

    Raises:
        PotionError: As `ParameterPerturber`, its methods and `get_metric_scores` do; the weights are then unchanged.
    """
    if not callable(unlearning_teacher):
        kind = type(unlearning_teacher).__name__
        raise ModelError(f"unlearning_teacher is a {kind}; give a model that never saw the forget set")
    for loader in (retain_train_dl, retain_valid_dl, forget_valid_dl, valid_dl):  # which are read when all is done
        check_loader(loader)
        if isinstance(loader, Sized) and not len(loader):
            raise DataError("one of the loaders for the scores has no samples")
    before = [parameter.detach().clone() for parameter in model.parameters()]
    parameters = {"dampening_constant": dampening_constant, "selection_weighting": selection_weighting}
    tune(ParameterPerturber(model, None, device, parameters, label_at=label_at), forget_train_dl, full_train_dl)
    try:
        return get_metric_scores(
            model,
            unlearning_teacher,
            retain_train_dl,
            retain_valid_dl,
            forget_train_dl,
            forget_valid_dl,
            valid_dl,
            device,
            label_at=label_at,
        )
    except BaseException:
        with torch.no_grad():
            for parameter, values in zip(model.parameters(), before, strict=True):
                parameter.copy_(values)
        raise


def get_metric_scores(
    model: nn.Module,
    unlearning_teacher: nn.Module,
    retain_train_dl: Iterable[object],
    retain_valid_dl: Iterable[object],
    forget_train_dl: Iterable[object],
    forget_valid_dl: Iterable[object],
    valid_dl: Iterable[object],
    device: torch.device | str | int,
    *,
    label_at: int | None = None,
) -> Scores:
    """The five scores of the full-class experiments, as the public code has them.

    Accuracies are in percent, means of the batches' accuracies, so that a small last batch weighs as much as a full
    one. Differences: the membership attack takes the data in batches of the loaders' size and not one by one, and it is
    a binary regression with C = 2, which is the multinomial one of two classes with C = 1.

    Args:
        model: Left in eval mode.
        unlearning_teacher: A model that never saw the forget set. It is copied and runs in the mode that it has: in
            train mode batch statistics count, as in the public code's main, which leaves it there.
        retain_train_dl: Members of the membership attack: all samples of its data set.
        retain_valid_dl: For the accuracy on what is retained.
        forget_train_dl: What the membership attack judges: all samples of its data set.
        forget_valid_dl: For the accuracy on what is forgotten, and the score against the teacher.
        valid_dl: For the accuracy; its data set has the non-members of the membership attack.
        device: Where the inputs are moved.
        label_at: Position of the label in every batch, in place of 2.

    Returns:
        Test accuracy, accuracy on what is retained, zero-retrain-forgetting score (a tensor []), the share of the
        forget set that the membership attack takes for members, accuracy on what is forgotten.

    Raises:
        DataError: A loader without samples or labels.
    """

    def accuracy(loader: Iterable[object]) -> float:
        return percent_correct(model, LabelledBatches(loader, SSD, label_at), device)

    tested, retained = accuracy(valid_dl), accuracy(retain_valid_dl)
    score = zero_retrain_forgetting(model, unlearning_teacher, forget_valid_dl, device)
    forgotten = accuracy(forget_valid_dl)
    members = membership(model, retain_train_dl, forget_train_dl, valid_dl)
    return tested, retained, score, members, forgotten
