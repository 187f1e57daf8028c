"""What the unlearners share that train: the loop of `potion_fast.bench.training.train` with its settings."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from torch import nn

from ...errors import PotionError
from ...modes import mode_named
from ...utils.predict import accuracy, predict
from ..models import initialise, last_modules
from ..training.schedules import SCHEDULES, Schedule
from ..training.train import RATES, Adjust, Loss, cross_entropy, seeded, train
from .base import Unlearned, Unlearner
from .lr_search import best_rate


@dataclass(frozen=True, kw_only=True)
class Trained(Unlearner):
    """An unlearner that trains. Iterations are those of the public code on CIFAR-10; on CIFAR-100 they are half as many
    again. The schedule of the learning rate starts anew, warm-up included.

    iterations, optimizer, lr, momentum, weight_decay, schedule, nesterov, amp   see `train`; lr is SGD's, AdamW wants a
            smaller one
    budget  in gradient steps, in place of iterations: as many iterations as it pays for. An iteration that takes the
            gradients of a batch of the retain set and of one of S_f costs two
    rates   learning rates, in place of lr: each is tried from the same start, with the same seed and budget, and the
            one with the highest accuracy on the validation loader is kept (paper B searches from 1e-6 to 5e-5)
    keep    "last", or "best": the epoch with the highest accuracy on the validation loader. None: the mode's, where
            "reference" and "paper" keep the best. The public code measures it on its test set
    """

    cost: ClassVar[int] = 1  # gradient steps of an iteration

    iterations: int | None = 1000
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.025
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Schedule = "linear"
    nesterov: bool = False
    amp: bool | None = None
    budget: int | None = None
    rates: Sequence[float] | None = None
    keep: Literal["last", "best"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.optimizer not in RATES:
            raise PotionError(f"{self.name}: optimizer must be one of {', '.join(RATES)}, not {self.optimizer!r}")
        if self.schedule not in SCHEDULES:
            raise PotionError(f"{self.name}: schedule must be one of {', '.join(SCHEDULES)}, not {self.schedule!r}")
        if not isinstance(self.nesterov, bool) or (self.nesterov and (self.optimizer != "sgd" or not self.momentum)):
            raise PotionError(f"{self.name}: nesterov must be true or false, and true only for sgd with momentum")
        if self.keep not in (None, "last", "best"):
            raise PotionError(f"{self.name}: keep must be last or best, not {self.keep!r}")
        if self.iterations is not None:
            self.check_number("iterations", self.iterations, int)
        self._check_budget()
        self._check_rates()

    def _check_budget(self) -> None:
        if self.budget is None:
            return
        self.check_number("budget", self.budget, int)
        if self.budget < self.cost:
            raise PotionError(
                f"{self.name}: budget must be at least {self.cost}, an iteration's gradient steps, not {self.budget}"
            )

    def _check_rates(self) -> None:
        if self.rates is None:
            return
        if not isinstance(self.rates, (list, tuple)) or not self.rates:
            raise PotionError(f"{self.name}: rates must be a list of learning rates, not {self.rates!r}")
        for rate in self.rates:
            self.check_number("rates", rate, float)

    def __call__(
        self,
        model: nn.Module,
        forget_loader: Iterable[Any],
        retain_loader: Iterable[Any],
        *,
        evaluation_loader: Iterable[Any] | None = None,
        validation_loader: Iterable[Any] | None = None,
        progress: bool = False,
    ) -> Unlearned:
        if self.rates is not None:
            loaders = (forget_loader, retain_loader)

            def at(rate: float) -> Unlearned:
                one = replace(self, lr=rate, rates=None)
                return one(model, *loaders, validation_loader=validation_loader, progress=progress)

            return best_rate(self.name, self.rates, at, validation_loader, *loaders, cost=self.cost)
        with seeded(self.seed):
            return self.unlearned(model, forget_loader, retain_loader, validation_loader, progress)

    def unlearned(
        self,
        model: nn.Module,
        forget_loader: Iterable[Any],
        retain_loader: Iterable[Any],
        validation_loader: Iterable[Any] | None,
        progress: bool,
    ) -> Unlearned:
        """Unlearn at the one learning rate `lr`; the generators are seeded."""
        model, only = self.begun(model)
        return self.trained(model, retain_loader, validation_loader, progress, only=only)

    def begun(self, model: nn.Module) -> tuple[nn.Module, Sequence[str] | None]:
        """The model that is trained on the retain set, and the modules of it that are: None for all."""
        return copy.deepcopy(model), None

    def trained(
        self,
        model: nn.Module,
        loader: Iterable[Any],
        validation_loader: Iterable[Any] | None,
        progress: bool,
        loss: Loss = cross_entropy,
        only: Sequence[str] | None = None,
        adjust: Adjust | None = None,
    ) -> Unlearned:
        """Train this model, in place."""
        start = time.perf_counter()
        keep = self.keep or ("last" if mode_named(self.mode).keep == "last" else "best")
        if keep == "best" and validation_loader is None:
            raise PotionError(f"{self.name}: to keep the best epoch it needs a validation_loader to measure it on")
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
            evaluate=_accuracy_on(validation_loader) if keep == "best" and validation_loader is not None else None,
            keep=keep,
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
        if self.budget is not None:
            return self.budget // self.cost
        assert self.iterations is not None
        return self.iterations


@dataclass(frozen=True, kw_only=True)
class OnlyTheEnd(Trained):
    """One that trains the last k layers; the others stay as they are, batch norms in evaluation mode.

    k  see `last_modules`; the public code's 2 and 4 of ResNet-9, 5 and 13 of WRN-28-10. None: the smaller
    """

    k: int | Sequence[str] | None = None

    def begun(self, model: nn.Module) -> tuple[nn.Module, Sequence[str] | None]:
        return copy.deepcopy(model), last_modules(model, self.k)


@dataclass(frozen=True, kw_only=True)
class FromFresh(Trained):
    """One that needs an untrained model.

    fresh  makes it: for models that cannot be re-initialised, or where the training did not start from random weights
           but from pretrained ones. None: the modules of a copy re-initialise themselves, see `initialise`
    """

    fresh: Callable[[], nn.Module] | None = None

    def untrained(self, model: nn.Module) -> nn.Module:
        """A model like this one, with none of its weights; on the same device."""
        if self.fresh is not None:
            return copy.deepcopy(self.fresh()).to(next(model.parameters()).device)
        untrained = copy.deepcopy(model)
        initialise(untrained)
        return untrained


def _accuracy_on(loader: Iterable[Any]) -> Callable[[nn.Module], float]:
    return lambda model: accuracy(*predict(model, loader))


def reinitialised(model: nn.Module, end: Sequence[str] | None) -> tuple[nn.Module, Sequence[str] | None]:
    """What is given, with new weights in these modules."""
    for name in end or ():
        initialise(model.get_submodule(name))
    return model, end


def frozen_copy(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode that needs no gradients: a teacher."""
    return copy.deepcopy(model).eval().requires_grad_(False)
