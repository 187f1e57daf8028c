"""Training loop of the Potion experiments, for a fixed number of iterations: SGD, or AdamW to fine-tune."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from ...errors import DataError, ModelError, PotionError
from ...utils.batches import inputs_and_labels
from ...utils.progress import bar
from ...utils.seeding import generators_kept
from .schedules import SCHEDULES, Schedule, lr_factor

CHECK_EVERY = 50  # iterations between checks of the loss: each waits for the GPU
RATES = {"sgd": 0.025, "adamw": 2.5e-4}  # learning rates of the public code, and of the paper's section 4.2

Batch = Sequence[Any]  # inputs [B, ...], labels [B], and what else the loader gives
Loss = Callable[[nn.Module, Batch], torch.Tensor]  # the model in training mode, a batch on its device -> a scalar
Adjust = Callable[[Sequence[nn.Parameter]], None]  # the parameters that are trained, with their gradients


class DivergedError(ModelError):
    """A training whose loss or weights are no longer finite.

    Args:
        message: what happened and what to do.
        iterations: optimiser steps done by the time that it was noticed.

    Attributes:
        iterations: the same.
    """

    def __init__(self, message: str, iterations: int) -> None:
        super().__init__(message)
        self.iterations = iterations


@dataclass(frozen=True)
class Epoch:
    """One pass over the loader; the last one ends early when the iterations are used up.

    Attributes:
        iterations: optimiser steps done by its end, counted from the start of training.
        loss: mean over its samples, in nats, measured while the weights changed.
        accuracy: what `evaluate` returned after it, a fraction in [0, 1]; None without `evaluate`.
        lr: learning rate of its last step.
        seconds: wall clock, with the evaluation.
    """

    iterations: int
    loss: float
    accuracy: float | None
    lr: float
    seconds: float


@dataclass(frozen=True)
class TrainingReport:
    """Record of a training.

    Attributes:
        epochs: in their order.
        kept: number, from 0, of the epoch whose weights the model holds now.
        seconds: wall clock of the whole training.
    """

    epochs: list[Epoch] = field(default_factory=list)
    kept: int = 0
    seconds: float = 0.0


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's global generators, on every device."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """`seed_everything` for the block; afterwards the generators are put back to where they were."""
    with generators_kept():
        seed_everything(seed)
        yield


def cross_entropy(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Mean cross-entropy of a batch, in nats."""
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def train(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    iterations: int | None = None,
    epochs: int | None = None,
    optimizer: Literal["sgd", "adamw"] = "sgd",
    lr: float | None = None,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    schedule: Schedule = "linear",
    nesterov: bool = False,
    amp: bool | None = None,
    loss: Loss = cross_entropy,
    adjust: Adjust | None = None,
    only: Sequence[str] | None = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    keep: Literal["last", "best"] = "last",
    until: Callable[[nn.Module], bool] | None = None,
    progress: bool = False,
) -> TrainingReport:
    """Train the model in place, with weight decay on all parameters.

    Exactly `iterations` optimiser steps are done, over as many epochs as that takes; the public code of the paper does
    one more. The learning rate follows the schedule. The model stays on its device, and batches are moved there. It is
    given back in evaluation mode.

    Args:
        model: the model.
        loader: batches of images [B, C, H, W], class indices [B] and whatever `loss` needs; it is iterated once an
            epoch.
        iterations: optimiser steps.
        epochs: instead of iterations: so many passes over a loader that knows its length. The paper fine-tunes a ViT
            for 2 on ImageNet and 5 on Imagenette.
        optimizer: "sgd" or "adamw".
        lr: base learning rate; by default 0.025 for SGD, and for AdamW 0.00025.
        momentum: of SGD; of AdamW it is β₁, and β₂ is 0.999.
        weight_decay: of all parameters.
        schedule: of the learning rate, see `lr_factor`.
        nesterov: Nesterov's momentum, of SGD only.
        amp: float16 autocast with gradient scaling; None means on a CUDA device, and only there.
        loss: what is minimised instead of the cross-entropy.
        adjust: called between each backward pass and its step with the parameters that are trained, whose gradients
            (unscaled, None where the loss does not depend on one) it may change.
        only: names of the modules that are trained. All others are frozen, and in evaluation mode: their batch norms
            use and keep the statistics that they have.
        evaluate: called after every epoch with the model in evaluation mode; returns an accuracy in [0, 1].
        keep: "last" keeps the weights of the last epoch, "best" those of the (first) epoch with the highest accuracy.
            The public code keeps the best by its test set: its test accuracies are chosen by the data they measure.
        until: called after every epoch with the model in evaluation mode; true ends the training.
        progress: show a progress bar.

    Returns:
        What was done, epoch by epoch.

    Raises:
        ModelError: the loss or the weights are not finite (DivergedError), mixed precision was requested on another
            device than CUDA, or there is nothing to train.
        DataError: an empty loader, a batch that is not (images, labels, ...), or a number of iterations below 1.
        PotionError: an unknown `keep`, `optimizer` or `schedule`, "best" without `evaluate`, `nesterov` without SGD's
            momentum, or not one of iterations and epochs.
    """
    if keep not in ("last", "best") or (keep == "best" and evaluate is None):
        raise PotionError(f"keep={keep!r}: choose 'last', or 'best' together with evaluate")
    _check_optimizer(optimizer, schedule, nesterov, momentum)
    iterations = _iterations(loader, iterations, epochs)
    device = next(model.parameters()).device
    amp = device.type == "cuda" if amp is None else amp
    if amp and device.type != "cuda":
        raise ModelError(f"amp=True needs the model on a CUDA device, it is on {device}; leave amp out")
    lr = RATES[optimizer] if lr is None else lr
    trained = [model] if only is None else _submodules(model, only)
    epochs_done: list[Epoch] = []
    best: tuple[int, float, dict[str, torch.Tensor]] | None = None
    started = time.perf_counter()
    with (
        _freeze_all_but(model, trained) as parameters,
        bar(total=iterations, label="training", unit="it", shown=progress) as steps,
    ):
        if not parameters:
            raise ModelError("there is nothing to train: no parameter requires a gradient")
        loop = _Loop(
            model=model,
            parameters=parameters,
            optimizer=_make_optimizer(optimizer, parameters, lr, momentum, weight_decay, nesterov),
            scaler=torch.amp.GradScaler(device.type, enabled=amp),
            loss=loss,
            adjust=adjust,
            lr=lr,
            schedule=schedule,
            iterations=iterations,
            steps=steps,
        )
        while loop.step < iterations:
            epoch_started = time.perf_counter()
            model.eval()
            for module in trained:
                module.train()
            mean_loss = loop.run_epoch(loader)
            accuracy = None
            if evaluate is not None:
                model.eval()
                accuracy = evaluate(model)
                if keep == "best" and (best is None or accuracy > best[1]):
                    weights = {name: value.clone() for name, value in model.state_dict().items()}
                    best = (len(epochs_done), accuracy, weights)
            seconds = time.perf_counter() - epoch_started
            epochs_done.append(Epoch(loop.step, mean_loss, accuracy, loop.rate, seconds))
            model.eval()
            if until is not None and until(model):
                break
        if best is not None:
            model.load_state_dict(best[2])
        _check_weights(parameters, loop.step)
    model.eval()
    return TrainingReport(epochs_done, best[0] if best else len(epochs_done) - 1, time.perf_counter() - started)


@dataclass
class _Loop:
    """State of a training: what is stepped, and how many steps are done."""

    model: nn.Module
    parameters: Sequence[nn.Parameter]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    loss: Loss
    adjust: Adjust | None
    lr: float
    schedule: Schedule
    iterations: int
    steps: Any  # the progress bar
    step: int = 0

    @property
    def rate(self) -> float:
        """Learning rate of the last step."""
        return self.optimizer.param_groups[0]["lr"]

    def run_epoch(self, loader: Iterable[Any]) -> float:
        """Step on every batch, or on as many as there are iterations left; returns the mean loss of the samples."""
        device = next(self.model.parameters()).device
        total, samples, first_step = torch.zeros((), dtype=torch.float64, device=device), 0, self.step
        for raw_batch in loader:
            batch = _to_device(raw_batch, device)
            total += self._step_on(batch, device) * len(batch[1])
            samples += len(batch[1])
            self.step += 1
            self.steps.update()
            if self.step % CHECK_EVERY == 0:
                _check_loss(total, self.step)
                self.steps.set_postfix(loss=f"{total.item() / samples:.3f}", refresh=False)
            if self.step == self.iterations:
                break
        if self.step == first_step:
            raise DataError("the loader gave no batch; training needs at least one")
        _check_loss(total, self.step)
        return total.item() / samples

    def _step_on(self, batch: Batch, device: torch.device) -> torch.Tensor:
        """One step of the optimiser; returns the loss, without a graph."""
        # By hand: an LR scheduler warns when the scaler skips a step, which the schedule counts all the same.
        self.optimizer.param_groups[0]["lr"] = self.lr * lr_factor(self.step, self.iterations, self.schedule)
        self.optimizer.zero_grad()
        with torch.autocast(device.type, torch.float16, enabled=self.scaler.is_enabled()):
            value = self.loss(self.model, batch)
        self.scaler.scale(value).backward()
        if self.adjust is not None:
            self.scaler.unscale_(self.optimizer)
            self.adjust(self.parameters)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return value.detach()


def _iterations(loader: Iterable[Any], iterations: int | None, epochs: int | None) -> int:
    """Of the two, the one that is given, as iterations."""
    if (iterations is None) == (epochs is None):
        raise PotionError("say how long to train: either iterations or epochs")
    if iterations is None:
        if not isinstance(loader, Sized):
            raise DataError(f"epochs={epochs} of a loader that does not know its length; give iterations")
        iterations = int(epochs or 0) * len(loader)
    if iterations < 1:
        raise DataError(f"iterations={iterations}: at least one step is needed")
    return iterations


def _check_optimizer(optimizer: str, schedule: str, nesterov: bool, momentum: float) -> None:
    if optimizer not in RATES:
        raise PotionError(f"optimizer={optimizer!r}: choose one of {', '.join(RATES)}")
    if schedule not in SCHEDULES:
        raise PotionError(f"schedule={schedule!r}: choose one of {', '.join(SCHEDULES)}")
    if nesterov and not (optimizer == "sgd" and momentum > 0):
        raise PotionError(f"nesterov=True needs SGD with momentum, not {optimizer} with momentum={momentum}")


def _submodules(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    try:
        return [model.get_submodule(name) for name in names]
    except AttributeError as error:
        raise ModelError(f"only={list(names)}: {error}") from error


def _make_optimizer(
    name: str, parameters: list[nn.Parameter], lr: float, momentum: float, weight_decay: float, nesterov: bool
) -> torch.optim.Optimizer:
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)
    return torch.optim.AdamW(parameters, lr=lr, betas=(momentum, 0.999), weight_decay=weight_decay)


@contextmanager
def _freeze_all_but(model: nn.Module, trained: Sequence[nn.Module]) -> Iterator[list[nn.Parameter]]:
    """The parameters of these modules; all others of the model need no gradient within the block."""
    kept = list(dict.fromkeys(parameter for module in trained for parameter in module.parameters()))
    rest = set(model.parameters()).difference(kept)
    frozen = [parameter for parameter in rest if parameter.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(False)
        yield kept if any(parameter.requires_grad for parameter in kept) else []
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


def _to_device(batch: object, device: torch.device) -> Batch:
    """Inputs, labels and what follows them. Raises DataError where it is not a batch with labels."""
    inputs, labels = inputs_and_labels(batch)
    if labels is None or not isinstance(batch, tuple | list):
        raise DataError("the loader gives no labels to train with")
    moved = [part.to(device, non_blocking=True) for part in (inputs, labels)]
    rest = (part.to(device, non_blocking=True) if isinstance(part, torch.Tensor) else part for part in batch[2:])
    return *moved, *rest


def _check_loss(total: torch.Tensor, step: int) -> None:
    if not math.isfinite(total.item()):
        raise DivergedError(
            f"the training loss is not finite at iteration {step} or in the {CHECK_EVERY} before it; "
            "lower the learning rate, and look for images or weights that are not finite",
            step,
        )


def _check_weights(parameters: Sequence[nn.Parameter], step: int) -> None:
    """Of a last step, which no loss follows."""
    if not all(bool(parameter.isfinite().all()) for parameter in parameters):
        raise DivergedError(f"the weights are not finite after iteration {step}; lower the learning rate", step)
