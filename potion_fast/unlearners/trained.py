"""What the unlearners share that train: the loop of `potion_fast.training` with its settings."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from ..errors import PotionError
from ..metrics import accuracy, predict
from ..models import initialise, last_modules
from ..modes import mode_named
from ..training import RATES, Loss, cross_entropy, seeded, train
from .base import Unlearned, Unlearner


@dataclass(frozen=True, kw_only=True)
class Trained(Unlearner):
    """An unlearner that trains. Iterations are those of the public code on CIFAR-10; on CIFAR-100 they are half as many
    again. The schedule of the learning rate starts anew, warm-up included.

    iterations, optimizer, lr, momentum, weight_decay, amp   see `train`; lr is SGD's, AdamW wants a smaller one
    keep  "last", or "best": the epoch with the highest accuracy on the validation loader. None: the mode's, where
          "reference" and "paper" keep the best. The public code measures it on its test set
    """

    iterations: int = 1000
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.025
    momentum: float = 0.9
    weight_decay: float = 5e-4
    amp: bool | None = None
    keep: Literal["last", "best"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.optimizer not in RATES:
            raise PotionError(f"{self.name}: optimizer must be one of {', '.join(RATES)}, not {self.optimizer!r}")
        if self.keep not in (None, "last", "best"):
            raise PotionError(f"{self.name}: keep must be last or best, not {self.keep!r}")

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
        with seeded(self.seed):
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
    ) -> Unlearned:
        """Train this model, in place."""
        start = time.perf_counter()
        keep = self.keep or ("last" if mode_named(self.mode).keep == "last" else "best")
        if keep == "best" and validation_loader is None:
            raise PotionError(f"{self.name}: to keep the best epoch it needs a validation_loader to measure it on")
        report = train(
            model,
            loader,
            iterations=self.iterations,
            optimizer=self.optimizer,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            amp=self.amp,
            loss=loss,
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
            gradient_steps=report.epochs[-1].iterations,
            seconds={"training": time.perf_counter() - start},
            report=report,
        )


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


def frozen_copy(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode that needs no gradients: a teacher."""
    return copy.deepcopy(model).eval().requires_grad_(False)
