"""A poisoned model with all that its unlearnings share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from ...data import make_loader
from ...metrics import accuracy, predict
from ...models import create_model
from ...modules import fingerprint
from ...poisons import Swap
from ...runs import RunFolder
from ..config import EvaluateConfig
from ..earlier import Accuracies, load_trained, load_weights, reference_accuracies
from ..scenario import Loader, Scenario
from ..stages import evaluated
from .config import SweepConfig
from .folder import SweepFolder
from .plan import Training, reference_of


@dataclass
class Subject:
    """A trained model and its data.

    before, reference  accuracies of the poisoned model, and of the one trained without S_m
    measured           accuracies by fingerprint of the weights
    """

    config: SweepConfig
    training: Training
    model: nn.Module
    scenario: Scenario
    before: Accuracies
    reference: Accuracies
    measured: dict[str, Accuracies] = field(default_factory=dict)

    @classmethod
    def load(cls, config: SweepConfig, folder: SweepFolder, training: Training) -> Subject:
        """Raises FileError or DataError where a run is missing, broken, or not what it should be."""
        run, told = RunFolder.open(folder.place(training)), training.config
        read = EvaluateConfig(str(run.path), told.root, told.data, device=told.device, workers=told.workers).resolved()
        scenario, before = load_trained(run, read)
        model, _ = load_weights(run, scenario, read.device)
        clean = folder.path / "models" / reference_of(training.key)
        reference = reference_accuracies(str(clean), scenario.config)
        return cls(config, training, model, scenario, before, reference, {fingerprint(model): before})

    @property
    def seed(self) -> int:
        return self.training.config.seed

    @property
    def batch_size(self) -> int:
        """Of the passes for importances."""
        size = self.config.batch_size or self.scenario.config.batch_size
        assert size is not None  # resolved
        return size

    def found(self, count: int) -> list[int]:
        """S_f, ascending. All but the first are nested.

        In mode "reference" the public code's own: it draws one sample right after S_m, and all larger S_f from a
        generator that starts anew, as S_m comes from a file by then.
        """
        scenario = self.scenario
        if self.config.mode == "reference" and count > 1 and not isinstance(scenario.poison, Swap):
            return sorted(np.random.RandomState(self.seed).choice(scenario.poisoned, count, replace=False).tolist())
        labels = scenario.splits.train.labels
        return sorted(scenario.poison.choose(labels, len(scenario.poisoned), count, self.seed)[1].tolist())

    def forget_loader(self, found: list[int], augment: bool) -> Loader:
        return self.scenario.forget_loader(found, augment=augment, batch_size=self.batch_size)

    def validation_loader(self) -> Loader:
        """What methods choose by: the held-out samples, or where there are none the test set, as in the public code."""
        return self.scenario.validation_loader() if self.scenario.validation else self.scenario.test_loader(False)

    def retain_loader(self, found: list[int], augment: bool) -> Loader:
        """The training data without S_f, shuffled."""
        left = sorted(set(self.scenario.trained_on) - set(found))
        workers = self.scenario.config.workers
        dataset, size = self.scenario.train_set(augment), self.batch_size
        return make_loader(dataset, left, batch_size=size, shuffle=True, seed=self.seed, workers=workers)

    def defaults(self, method: str) -> dict[str, Any]:
        """Settings that a method takes from the training: retraining repeats it."""
        if method != "eu":
            return {}
        config = self.scenario.config
        assert config.model is not None  # resolved
        told: dict[str, Any] = {} if config.width is None else {"width": config.width}
        classes, channels = len(self.scenario.splits.classes), self.scenario.splits.channels
        fresh = partial(create_model, config.model, classes, channels, pretrained=config.pretrained, **told)
        return {"fresh": fresh} | {
            name: getattr(config, name) for name in ("iterations", "optimizer", "lr", "momentum", "weight_decay")
        }

    def evaluate(self, model: nn.Module, edited: bool) -> Accuracies:
        """Test accuracies; once for the same weights, where the model is this one with edited weights."""
        mark = fingerprint(model) if edited else ""
        if mark not in self.measured:
            values = {name: metric.value for name, metric in evaluated(model, self.scenario).metrics.items()}
            if not edited:
                return values
            self.measured[mark] = values
        return self.measured[mark]


def accuracy_on(model: nn.Module, loader: Iterable[object]) -> float:
    return accuracy(*predict(model, loader))
