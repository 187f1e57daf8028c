"""A poisoned model with all that its unlearnings share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from ...user.run_folder import RunFolder
from ...utils.model import fingerprint
from ...utils.predict import accuracy, predict
from ..attacks import Scores
from ..configs import EvaluateConfig
from ..data import make_loader
from ..runs.architecture import fresh_model, loss_of
from ..runs.evaluations import evaluated
from ..runs.inputs import load_trained, load_weights, reference_accuracies
from ..runs.scenario import Loader, Scenario
from .config import SweepConfig
from .plan import Training, reference_of
from .sweep_folder import SweepFolder

QUANTILES = (np.arange(100) + 0.5) / 100  # of what fresh noise gives
DIGITS = 5  # decimals of a statistic, whose standard deviation is 1


@dataclass(frozen=True)
class ModelScores:
    """What a model was found to do.

    Attributes:
        scores: every metric's value by name.
        statistics: of Gaussian noise: how much the model depends on each poisoned sample's.
        fresh: of Gaussian noise: quantiles of how much it seems to depend on noise that it never saw.
    """

    scores: Scores
    statistics: list[float] | None = None
    fresh: list[float] | None = None

    @classmethod
    def of(cls, model: nn.Module, scenario: Scenario) -> ModelScores:
        """Evaluate a model on a scenario's data."""
        evaluation = evaluated(model, scenario)
        scores = {name: metric.value for name, metric in evaluation.metrics.items()}
        noise = scenario.poison.noise_statistics(evaluation)
        if noise is None:
            return cls(scores)
        statistics, fresh = noise[0].numpy(), np.quantile(noise[1].numpy(), QUANTILES)
        return cls(scores, statistics.round(DIGITS).tolist(), fresh.round(DIGITS).tolist())


@dataclass
class TrainedModel:
    """A trained model and its data.

    Attributes:
        config: of the sweep.
        training: what it was trained as.
        model: the poisoned model.
        scenario: its data and attack.
        before: what the poisoned model does.
        reference: metrics of the model trained without S_m.
        measured: what models do, by fingerprint of the weights.
    """

    config: SweepConfig
    training: Training
    model: nn.Module
    scenario: Scenario
    before: ModelScores
    reference: Scores
    measured: dict[str, ModelScores] = field(default_factory=dict)

    @classmethod
    def load(cls, config: SweepConfig, folder: SweepFolder, training: Training) -> TrainedModel:
        """Load a training of a sweep's folder.

        Raises:
            FileError, DataError: a run is missing, broken, or not what it should be.
        """
        run, trained = RunFolder.open(folder.place(training)), training.config
        machine = {name: getattr(trained, name) for name in ("root", "data", "model", "device", "workers")}
        read = EvaluateConfig(run=str(run.path), **machine).resolved()
        scenario, scores = load_trained(run, read)
        model, _ = load_weights(run, scenario, read.device)
        before = ModelScores.of(model, scenario) if scenario.poison.has_noise else ModelScores(scores)
        clean = folder.path / "models" / reference_of(training.key)
        reference = reference_accuracies(str(clean), scenario.config)
        return cls(config, training, model, scenario, before, reference, {fingerprint(model): before})

    @property
    def seed(self) -> int:
        """Of the training."""
        return self.training.config.seed

    @property
    def iterations(self) -> int:
        """Of the training."""
        iterations = self.scenario.config.iterations
        assert iterations is not None  # resolved
        return iterations

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
        if self.config.mode == "reference" and count > 1 and self.scenario.poison.has_trigger:
            poisoned = self.scenario.poisoned
            return sorted(np.random.RandomState(self.seed).choice(poisoned, count, replace=False).tolist())
        return self.scenario.draw_found(count)

    def forget_loader(self, found: list[int], augment: bool) -> Loader:
        """S_f with its given labels, in order."""
        return self.scenario.forget_loader(found, augment=augment, batch_size=self.batch_size)

    def validation_loader(self) -> Loader:
        """What methods choose by: the held-out samples, or where there are none the test set, as in the public code."""
        return self.scenario.validation_loader() if self.scenario.validation else self.scenario.test_loader(False)

    def retain_loader(self, found: list[int], augment: bool) -> Loader:
        """The training data without S_f, shuffled."""
        retained = sorted(set(self.scenario.trained_on) - set(found))
        workers = self.scenario.config.workers
        dataset, size = self.scenario.train_set(augment), self.batch_size
        return make_loader(dataset, retained, batch_size=size, shuffle=True, seed=self.seed, workers=workers)

    def defaults(self, method: str) -> dict[str, Any]:
        """Settings that a method takes from the training: retraining repeats it."""
        if method not in ("eu", "retrain"):
            return {}
        config = self.scenario.config
        fresh = partial(fresh_model, config, self.scenario.splits)
        repeated = ("iterations", "optimizer", "lr", "momentum", "nesterov", "weight_decay", "schedule")
        return {"fresh": fresh, "loss": loss_of(config), **{name: getattr(config, name) for name in repeated}}

    def evaluate(self, model: nn.Module, edited: bool) -> ModelScores:
        """What it does; measured once for the same weights, where the model is this one with edited weights."""
        if not edited:
            return ModelScores.of(model, self.scenario)
        weights = fingerprint(model)
        if weights not in self.measured:
            self.measured[weights] = ModelScores.of(model, self.scenario)
        return self.measured[weights]


def accuracy_on(model: nn.Module, loader: Iterable[object]) -> float:
    """Share of a loader's samples that are given their label, in [0, 1]."""
    return accuracy(*predict(model, loader))
