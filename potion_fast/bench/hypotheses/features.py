"""The inputs of hypothesis 1's linear classifiers: activations before a model's last layer, or pixels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...errors import DataError, ModelError
from ...user.run_folder import RunFolder
from ...utils.batches import inputs_and_labels
from ...utils.model import evaluating
from ...utils.progress import bar
from ..configs import EvaluateConfig
from ..data import Splits, load_dataset, make_loader
from ..runs.inputs import load_trained, load_weights, training_run

BATCH = 500  # images at a time; the features do not depend on it


@dataclass(frozen=True)
class Features:
    """Inputs of a linear classifier; what no training sample differs in is left out.

    Attributes:
        train, test: float64 [N, d] and [M, d], of clean images that are not augmented.
        labels, test_labels: int64 [N] and [M].
        classes: how many there are: at least three, each among the training samples.
    """

    train: NDArray[np.float64]
    labels: NDArray[np.int64]
    test: NDArray[np.float64]
    test_labels: NDArray[np.int64]
    classes: int

    def __post_init__(self) -> None:
        if not (np.isfinite(self.train).all() and np.isfinite(self.test).all()):
            raise DataError("the features are not all finite; look for such weights or images")
        if self.classes < 3 or len(np.unique(self.labels)) < self.classes:
            raise DataError(
                f"{self.classes} classes, of which {len(np.unique(self.labels))} have training samples: a multinomial "
                "logistic regression needs three, and samples of each"
            )
        if not self.train.shape[1]:
            raise DataError("the training samples do not differ in any feature; there is nothing to classify by")

    @classmethod
    def of_run(cls, config: EvaluateConfig, progress: bool = False) -> Features:
        """Activations before the last linear layer of a run's model (appendix E.1), on all clean images of its data.

        Raises:
            ModelError: a model that does not end in a linear layer, and the errors of `load_trained`.
        """
        config = config.resolved()
        run = RunFolder.open(config.run)
        scenario, _ = load_trained(training_run(run), config)
        model, _ = load_weights(run, scenario, config.device)
        return _features(scenario.splits, model, config.device, config.workers, progress)

    @classmethod
    def of_pixels(cls, data: str, root: str | None = None) -> Features:
        """The normalised pixels of a data set, see `load_dataset`."""
        return _features(load_dataset(data, root), None, "cpu", 0, False)


def _features(splits: Splits, model: nn.Module | None, device: str, workers: int, progress: bool) -> Features:
    how: dict[str, Any] = {"batch_size": BATCH, "shuffle": False, "seed": 0, "workers": workers, "device": device}
    loaders = {part: make_loader(splits.dataset(part), None, **how) for part in ("train", "test")}
    train, labels = _read(model, loaders["train"], len(splits.classes), progress)
    test, test_labels = _read(model, loaders["test"], len(splits.classes), progress)
    varies = train.max(axis=0) > train.min(axis=0)  # a constant has no range that a poison could move it in
    return Features(train[:, varies], labels, test[:, varies], test_labels, len(splits.classes))


def _read(
    model: nn.Module | None, loader: Iterable[object], classes: int, progress: bool
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Features [N, d] and labels [N] of a loader's images, in its order."""
    features, labels = [], []
    for batch in bar(loader, label="features", unit="batch", shown=progress):
        images, given = inputs_and_labels(batch)
        assert given is not None
        inputs = images if model is None else last_inputs(model, images, classes)
        features.append(inputs.flatten(1).double().cpu())
        labels.append(given.cpu())
    return torch.cat(features).numpy(), torch.cat(labels).numpy()


def last_inputs(
    model: nn.Module,
    images: Tensor,  # [B, C, H, W]
    classes: int,
) -> Tensor:  # [B, d]
    """What a model's last linear layer, the last of its modules of that kind, is given for these images.

    Raises:
        ModelError: a model without one, or whose last one does not give one output [B, classes] for each image.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not layers or layers[-1].out_features != classes:
        raise ModelError(f"a {type(model).__name__} does not end in a linear layer of {classes} outputs")
    seen: list[Tensor] = []
    handle = layers[-1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        with evaluating(model), torch.inference_mode():
            model(images.to(next(model.parameters()).device))
    finally:
        handle.remove()
    if len(seen) != 1 or seen[0].ndim != 2 or len(seen[0]) != len(images):
        raise ModelError(f"the last linear layer of a {type(model).__name__} is not used once for each image")
    return seen[0].clone()
