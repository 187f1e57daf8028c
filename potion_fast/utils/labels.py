"""Labels of classes, in whatever form a loader gives them."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import DataError, LabelError, ModelError

IGNORED = -100  # the label that cross_entropy leaves out


def class_targets(logits: Tensor, labels: Tensor) -> Tensor:
    """Labels as `cross_entropy` takes them. No value is read, so it works under vmap and torch.compile.

    Args:
        logits: [B, C, ...].
        labels: Classes [B] or [B, 1] of any dtype, one-hot rows [B, C] of whole numbers, or probabilities [B, C].

    Returns:
        int64 [B], or probabilities [B, C].

    Raises:
        ModelError: There is only one column of logits.
        DataError: The labels' shape fits no form.
    """
    check_columns(logits)
    labels = _flat(labels)
    if _are_rows(labels, logits.shape[1:]):
        return labels.to(logits.dtype) if labels.is_floating_point() else labels.argmax(1)
    return labels.long()


def check_targets(logits: Tensor, labels: Tensor) -> None:
    """Check the values of labels that `class_targets` is going to convert.

    Args:
        logits: [B, C, ...]; only their shape is used.
        labels: [B, ...].

    Raises:
        ModelError: There is only one column of logits.
        DataError: A label is not a class of the logits, nor −100; rows are not one-hot, or no probabilities.
    """
    check_columns(logits)
    labels = _flat(labels)
    if not _are_rows(labels, logits.shape[1:]):
        _check_classes(labels, logits.shape[1], IGNORED)
    elif labels.is_floating_point():
        _check_probabilities(labels)
    else:
        _check_one_hot(labels)


def class_indices(logits: Tensor, labels: Tensor) -> Tensor:
    """Labels int64 [N], which the largest logit is compared with.

    Args:
        logits: [N, C].
        labels: As for `class_targets`; rows must be one-hot, as no class is the right one of others.

    Raises:
        DataError: They are not that.
    """
    labels = _flat(labels)
    if labels.shape == logits.shape:
        _check_one_hot(labels)
        return labels.long().argmax(1)
    if labels.shape != logits.shape[:1]:
        raise DataError(
            f"labels {list(labels.shape)} do not fit outputs {list(logits.shape)}; give the class of each sample, [N]"
        )
    _check_classes(labels, logits.shape[1])
    return labels.long()


def single_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """Labels int64 [N] for logits [N, C], for what heals classifiers of one label a sample.

    Raises:
        ModelError: The model gives something else than a row of logits for each sample.
        DataError: The labels are of another task: regression, several labels a sample, or one for each pixel or token.
    """
    check_columns(logits)
    advice = "poison is found and healed in classifiers, which give logits [B, C] and have one label for each sample"
    if logits.ndim != 2 or len(logits) != len(labels):
        raise ModelError(f"the model gives {list(logits.shape)} for {len(labels)} samples; {advice}")
    flat = _flat(labels)
    if flat.is_complex() or (flat.is_floating_point() and not (flat == flat.round()).all()):
        raise DataError(f"the labels are no whole numbers, as of a regression; {advice}")
    if flat.shape != labels.shape[:1] and (flat.shape != logits.shape or not _one_hot(flat)):
        kind = "several classes of a sample" if flat.shape == logits.shape else f"{list(labels.shape[1:])} to a sample"
        raise DataError(f"the labels are {kind}, not one class each; {advice}")
    return class_indices(logits, labels)


def check_columns(logits: Tensor) -> None:
    """Refuse one column: softmax makes probability 1 of any single number.

    Raises:
        ModelError: There is one.
    """
    if logits.ndim == 1 or (logits.ndim == 2 and logits.shape[1] == 1):
        raise ModelError(
            f"the model gives one output column, {list(logits.shape)}, and a class needs one each: for the logit z of "
            "two classes give adapter=potion_fast.OneLogitAdapter(), or wrap the model so that it gives "
            "torch.cat([torch.zeros_like(z), z], 1)"
        )


def check_rows(logits: Tensor, labels: Tensor) -> None:
    """Refuse an output whose first dimension is not that of the samples.

    Raises:
        ModelError: It is not.
    """
    if logits.ndim > 1 and len(logits) != len(labels):
        raise ModelError(
            f"the model gives logits {list(logits.shape)} for {len(labels)} samples; they must be [B, C], a row for "
            "each, which an adapter can make of them (potion_fast.Adapter)"
        )


def _flat(labels: Tensor) -> Tensor:
    """[B, 1] -> [B], and as signed numbers: of unsigned ones torch knows uint8 only."""
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    return labels if labels.is_floating_point() or labels.is_complex() else labels.long()


def _are_rows(labels: Tensor, shape: torch.Size) -> bool:
    """Whether they are [B, C], for logits of that shape to a sample, and not [B]."""
    if len(shape) == 1 and labels.shape[1:] == shape:
        return True
    if labels.shape[1:] != shape[1:]:
        raise DataError(
            f"labels {list(labels.shape)} do not fit outputs [B, {', '.join(map(str, shape))}]; give the class of each "
            "sample, [B], or an objective of your own, a callable (outputs, labels) -> losses [B]"
        )
    return False


def _check_classes(labels: Tensor, classes: int, ignored: int | None = None) -> None:
    """Whole numbers below the number of outputs, or the one that is ignored."""
    if labels.is_complex() or (labels.is_floating_point() and not (labels == labels.round()).all()):
        raise DataError("labels of classes are whole numbers from 0; round them, or give an objective that takes them")
    odd = (labels < 0) | (labels >= classes)
    if odd.any() and len(found := [label for label in labels[odd].tolist() if label != ignored]):
        error = LabelError(f"labels count from 0; found {int(found[0])} with {classes} outputs")
        error.label = int(found[0])
        raise error


def _one_hot(labels: Tensor) -> bool:
    return bool(((labels == 0) | (labels == 1)).all() and (labels.sum(1) == 1).all())


def _check_one_hot(labels: Tensor) -> None:
    if not _one_hot(labels):
        raise DataError(
            f"labels {list(labels.shape)} are not one-hot, and only one class can be right; give the class of each "
            "sample, such as labels.argmax(1)"
        )


def _check_probabilities(labels: Tensor) -> None:
    if not ((labels >= 0).all() and torch.allclose(labels.sum(1), labels.new_ones(()), atol=1e-2)):
        raise DataError(
            f"labels {list(labels.shape)} are no probabilities, whose rows are at least 0 and sum to 1; where several "
            "classes may be right, give an objective of your own, a callable (outputs, labels) -> losses [B]"
        )
