"""Interface of the unlearners: a model and its loaders in, the unlearned model and what was done out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, NoReturn

from pydantic import Field
from torch import nn
from torch.utils.data import Dataset

from ...errors import PotionError
from ...modes import mode_named
from ...user.schema import SEEDS, Schema
from ...utils.did_you_mean import choices_for
from ..training.train import seeded


@dataclass(frozen=True)
class TrainingIndex:
    """The training data read by index, for a method that looks for more poison in it.

    Attributes:
        train_set: the training data as trained on, S_f among it: a data set of (input, label).
        found: positions of S_f in it, ascending.
        plain_set: the same samples without random augmentation; None where there is none.
        held_out: a data set of clean samples that the model never saw; None without.
        batch_size: of the training.
    """

    train_set: Dataset[Any]
    found: Sequence[int]
    plain_set: Dataset[Any] | None = None
    held_out: Dataset[Any] | None = None
    batch_size: int = 128


@dataclass(frozen=True)
class Loaders:
    """The data that an unlearner may read: batches (input [B, ...], label [B], ...), moved to the model's device.

    Attributes:
        forget: S_f, the poisoned samples that were found, with the labels they were trained with.
        retain: the training data without S_f.
        evaluation: S_f, for the methods that measure its accuracy, where it should differ from `forget`: without
            augmentation, say.
        validation: data with true labels, for the methods that choose by accuracy.
        training: all of the training data by index.
        clean: clean samples with true labels, shuffled, for the defences that train on some.
    """

    forget: Iterable[Any]
    retain: Iterable[Any]
    evaluation: Iterable[Any] | None = None
    validation: Iterable[Any] | None = None
    training: TrainingIndex | None = None
    clean: Iterable[Any] | None = None

    def by_index(self, name: str) -> TrainingIndex:
        """The training data by index.

        Args:
            name: of the method that reads them, for the error.

        Raises:
            PotionError: they are not there.
        """
        if self.training is None:
            raise PotionError(f"{name} reads the training data by index: Loaders(training=TrainingIndex(...))")
        return self.training

    @property
    def forget_evaluation(self) -> Iterable[Any]:
        """S_f, to measure its accuracy."""
        return self.forget if self.evaluation is None else self.evaluation


@dataclass
class Unlearned:
    """What an unlearner gives back.

    Attributes:
        model: the unlearned model, in evaluation mode; a model of its own, the caller's is as it was.
        method: the unlearner's registered name.
        trace: what was done, in order: `Step`s of a search, `Setting`s of a grid, `Epoch`s of a training or
            `RateTrial`s.
        kept: the entry of the trace whose model it is; None where the model is unchanged.
        gradient_steps: batches whose gradients were taken: those of optimiser steps, a batch of the retain set and one
            of S_f each for itself, and those of a pass for importances. Where learning rates were tried, of the
            training that is kept; the trials hold the others'.
        seconds: wall-clock time by phase.
        report: what the method itself gave back: a `Result`, a `Grid` or a `TrainingReport`.
        warnings: what deserves a second look, as sentences.
        learning_rate: base rate of the training that is kept; None without training.
    """

    model: nn.Module
    method: str
    trace: list[Any] = field(default_factory=list)
    kept: Any = None
    gradient_steps: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    report: Any = None
    warnings: list[str] = field(default_factory=list)
    learning_rate: float | None = None


class Unlearner(Schema, ABC):
    """One method with its settings, which are fields; equal seeds and loaders give equal weights.

    A field's annotation holds its bounds, as `PositiveFloat` or `Annotated[float, Field(ge=0, le=1)]` of pydantic do,
    and they are checked when the unlearner is made. `updated` gives a copy with other settings.

    Attributes:
        mode: "default", "reference" (the public code) or "paper" (as printed): fills in what is left None.
        seed: of all random numbers; the generators of torch, NumPy and Python continue afterwards from where they were.
            A loader with a generator of its own continues in it: make a new one to repeat a run.

    Raises:
        PotionError: a setting of the wrong type or out of range.
    """

    name: ClassVar[str]  # the registered one

    mode: str = "default"
    seed: Annotated[int, Field(ge=0, lt=SEEDS)] = 0

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        cls.name = cls.__name__  # until it is registered

    def __init__(self, /, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except PotionError as error:
            raise type(error)(f"{self.name}: {error}") from None

    def model_post_init(self, context: Any, /) -> None:
        """Check the settings together; a subclass that has more to check extends it.

        Raises:
            PotionError: they do not fit each other.
        """
        mode_named(self.mode)

    @classmethod
    def refuse_key(cls, key: object) -> NoReturn:
        """Raise for a setting that there is not."""
        raise PotionError(f"there is no setting {key}; it has {choices_for(key, cls.keys())}")

    def __call__(self, model: nn.Module, loaders: Loaders, *, progress: bool = False) -> Unlearned:
        """Unlearn S_f. The caller's model is not changed.

        Args:
            model: the poisoned model, on its device.
            loaders: the data; a method reads those that it needs.
            progress: show progress bars.

        Returns:
            The unlearned model and what was done.

        Raises:
            DataError: an empty loader.
            ModelError: a model that the method cannot train, or whose training diverged.
            PotionError: a loader that the settings ask for is missing.
        """
        with seeded(self.seed):
            return self.unlearn(model, loaders, progress)

    @abstractmethod
    def unlearn(self, model: nn.Module, loaders: Loaders, progress: bool) -> Unlearned:
        """The method itself, called with the generators seeded. It leaves the model as it was, and works on a copy."""
