"""Base classes of the unlearners that train, by the loop of `potion_fast.bench.training.train`."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import nn
from typing_extensions import override

from ...errors import PotionError
from ...modes import mode_named
from ...utils.copies import copy_model
from ...utils.predict import accuracy, predict
from ..models import initialise, last_modules
from ..training.schedules import Schedule
from ..training.train import Adjust, Loss, cross_entropy, train
from .base import Loaders, Unlearned, Unlearner
from .lr_search import best_rate


class Finetuning(Unlearner):
    """An unlearner that trains the model, all of it on the retain set where a method says nothing else.

    Defaults are those of the public code on CIFAR-10; on CIFAR-100 iterations are half as many again. The schedule of
    the learning rate starts anew, warm-up included. All settings that are not listed below are described at `train`.

    Attributes:
        iterations: optimiser steps.
        lr: base learning rate of SGD; AdamW needs a smaller one.
        budget: in gradient steps, in place of iterations: as many iterations as it pays for. An iteration that takes
            the gradients of a batch of the retain set and of one of S_f costs two.
        rates: learning rates, in place of lr: each is tried from the same start, with the same seed and budget, and the
            one with the highest accuracy on the validation loader is kept (Pawelczyk et al.: from 1e-6 to 5e-5).
        keep: "last", or "best": the epoch with the highest accuracy on the validation loader. None: the mode's, where
            "reference" and "paper" keep the best. The public code measures it on its test set.
        cost: gradient steps of an iteration, of the class.
    """

    cost: ClassVar[int] = 1

    iterations: PositiveInt = 1000
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: PositiveFloat = 0.025
    momentum: NonNegativeFloat = 0.9
    weight_decay: NonNegativeFloat = 5e-4
    schedule: Schedule = "linear"
    nesterov: bool = False
    amp: bool | None = None
    budget: PositiveInt | None = None
    rates: Annotated[Sequence[PositiveFloat], Field(min_length=1)] | None = None
    keep: Literal["last", "best"] | None = None

    @override
    def model_post_init(self, context: Any, /) -> None:
        super().model_post_init(context)
        if self.nesterov and (self.optimizer != "sgd" or not self.momentum):
            raise PotionError("nesterov must be false but for sgd with momentum")
        if self.budget is not None and self.budget < self.cost:
            raise PotionError(f"budget must be at least {self.cost}, an iteration's gradient steps, not {self.budget}")

    @override
    def __call__(self, model: nn.Module, loaders: Loaders, *, progress: bool = False) -> Unlearned:
        if self.rates is None:
            return super().__call__(model, loaders, progress=progress)

        def unlearn_at(rate: float) -> Unlearned:
            return self.updated(lr=rate, rates=None)(model, loaders, progress=progress)

        return best_rate(self.name, self.rates, unlearn_at, loaders, cost=self.cost)

    def unlearn(self, model: nn.Module, loaders: Loaders, progress: bool) -> Unlearned:
        """Prepare a copy of the model and train it on the retain set, at the one learning rate `lr`."""
        model, only = self.prepare(model)
        return self.finetune(model, loaders.retain, loaders.validation, progress, only=only)

    def prepare(self, model: nn.Module) -> tuple[nn.Module, Sequence[str] | None]:
        """A copy of the model as the training starts from it.

        Args:
            model: the poisoned model, which stays as it is.

        Returns:
            The copy, and the names of its modules that are trained: None for all.
        """
        return copy_model(model), None

    def finetune(
        self,
        model: nn.Module,
        loader: Iterable[Any],
        validation: Iterable[Any] | None,
        progress: bool,
        *,
        loss: Loss = cross_entropy,
        only: Sequence[str] | None = None,
        adjust: Adjust | None = None,
        until: Callable[[nn.Module], bool] | None = None,
    ) -> Unlearned:
        """Train a model in place, with this unlearner's settings.

        Args:
            model: a copy that the unlearner owns.
            loader: batches to train on.
            validation: data with true labels, to keep the best epoch by.
            progress: show a progress bar.
            loss: what is minimised, see `train`.
            only: names of the modules that are trained; None for all.
            adjust: changes the gradients before each step, see `train`.
            until: ends the training after an epoch, see `train`.

        Returns:
            The model and what was done.

        Raises:
            PotionError: the best epoch is to be kept, and there is no validation loader.
        """
        start = time.perf_counter()
        keep = self.keep or ("last" if mode_named(self.mode).keep == "last" else "best")
        if keep == "best" and validation is None:
            raise PotionError(f"{self.name}: to keep the best epoch it needs a validation loader to measure it on")
        report = train(
            model,
            loader,
            iterations=self.length(loader),
            optimizer=self.optimizer,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            schedule=self.schedule,
            nesterov=self.nesterov,
            amp=self.amp,
            loss=loss,
            adjust=adjust,
            only=only,
            evaluate=_accuracy_on(validation) if keep == "best" and validation is not None else None,
            keep=keep,
            until=until,
            progress=progress,
        )
        return Unlearned(
            model=model,
            method=self.name,
            trace=report.epochs,
            kept=report.epochs[report.kept],
            gradient_steps=report.epochs[-1].iterations * self.cost,
            seconds={"training": time.perf_counter() - start},
            report=report,
            learning_rate=self.lr,
        )

    def length(self, loader: Iterable[Any]) -> int:
        """Iterations of a training on this loader."""
        return self.iterations if self.budget is None else self.budget // self.cost


class LastLayersFinetuning(Finetuning):
    """A training of the last k layers; the others stay as they are, batch norms in evaluation mode.

    Attributes:
        k: see `last_modules`; the public code's 2 and 4 of ResNet-9, 5 and 13 of WRN-28-10. None: the smaller.
    """

    k: int | Sequence[str] | None = None

    @override
    def prepare(self, model: nn.Module) -> tuple[nn.Module, Sequence[str] | None]:
        return copy_model(model), last_modules(model, self.k)


class FreshStart(Finetuning):
    """A training that needs an untrained model.

    Attributes:
        fresh: makes it, for models that cannot be re-initialised, or where the training did not start from random
            weights but from pretrained ones. None: the modules of a copy re-initialise themselves, see `initialise`.
    """

    fresh: Callable[[], nn.Module] | None = None

    def untrained(self, model: nn.Module) -> nn.Module:
        """A model like this one, with none of its weights; on the same device."""
        if self.fresh is not None:
            return copy.deepcopy(self.fresh()).to(next(model.parameters()).device)
        untrained = copy_model(model)
        initialise(untrained)
        return untrained


def reinitialised(model: nn.Module, names: Sequence[str] | None) -> tuple[nn.Module, Sequence[str] | None]:
    """Give these modules of a model new weights, in place; returns both arguments."""
    for name in names or ():
        initialise(model.get_submodule(name))
    return model, names


def frozen_copy(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode that needs no gradients: a teacher."""
    return copy_model(model).eval().requires_grad_(False)


def _accuracy_on(loader: Iterable[Any]) -> Callable[[nn.Module], float]:
    return lambda model: accuracy(*predict(model, loader))
