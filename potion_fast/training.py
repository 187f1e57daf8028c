"""The training loop of the Potion experiments: SGD for a fixed number of iterations."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import nn

from .errors import DataError, ModelError
from .progress import bar

CHECK_EVERY = 50  # iterations between looks at the loss: each look waits for the GPU


@dataclass(frozen=True)
class Epoch:
    """One pass over the loader; the last one ends early when the iterations are used up.

    Attributes:
        iterations: optimiser steps done by its end, counted from the start of training.
        loss: mean cross-entropy over its samples, in nats, measured while the weights changed.
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
    """What `train` did.

    Attributes:
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


def lr_factor(step: int, iterations: int) -> float:
    """Learning rate of optimiser step `step` (from 0), as a factor of the base rate.

    (n + 1) / (w + 1) for n < w = iterations // 100, then 1 - (n - w) / (1.25 * iterations), which ends near 0.2.
    """
    warmup = iterations // 100
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 1 - (step - warmup) / (1.25 * iterations)


def train(
    model: nn.Module,
    loader: Iterable[tuple[torch.Tensor, torch.Tensor]],
    *,
    iterations: int,
    lr: float = 0.025,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    amp: bool | None = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    keep: Literal["last", "best"] = "last",
    progress: bool = False,
) -> TrainingReport:
    """Train the model in place with cross-entropy and SGD (no Nesterov; weight decay on all parameters).

    Exactly `iterations` optimiser steps are done, over as many epochs as that takes; the public code of the paper does
    one more. The learning rate follows `lr_factor`. The model stays on its device, and batches are moved there. It is
    given back in evaluation mode.

    Args:
        loader: batches of images [B, C, H, W] and class indices [B]; it is iterated once an epoch.
        amp: float16 autocast with gradient scaling; None means on a CUDA device, and only there.
        evaluate: called after every epoch with the model in evaluation mode; returns an accuracy in [0, 1].
        keep: "last" keeps the weights of the last epoch, "best" those of the (first) epoch with the highest accuracy.
            The public code keeps the best by its test set: its test accuracies are chosen by the data they measure.
        progress: show a progress bar.

    Raises:
        ModelError: the loss is not finite, or mixed precision was asked for on another device than CUDA.
        DataError: an empty loader, or a number of iterations below 1.
        ValueError: an unknown `keep`, or "best" without `evaluate`.
    """
    if keep not in ("last", "best") or (keep == "best" and evaluate is None):
        raise ValueError(f"keep={keep!r}: choose 'last', or 'best' together with evaluate")
    if iterations < 1:
        raise DataError(f"iterations={iterations}: at least one step is needed")
    device = next(model.parameters()).device
    amp = device.type == "cuda" if amp is None else amp
    if amp and device.type != "cuda":
        raise ModelError(f"amp=True needs the model on a CUDA device, it is on {device}; leave amp out")

    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay)
    scaler = torch.amp.GradScaler(device.type, enabled=amp)
    epochs: list[Epoch] = []
    best: tuple[int, float, dict[str, torch.Tensor]] | None = None
    started = time.perf_counter()
    step = 0
    steps = bar(total=iterations, what="training", unit="it", shown=progress)
    while step < iterations:
        epoch_started, first_step = time.perf_counter(), step
        total, samples = torch.zeros((), dtype=torch.float64, device=device), 0
        model.train()
        for images, labels in loader:
            images = images.to(device, non_blocking=True)
            labels = labels.to(device, non_blocking=True)
            # By hand: an LR scheduler warns when the scaler skips a step, which the schedule counts all the same.
            optimizer.param_groups[0]["lr"] = lr * lr_factor(step, iterations)
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.float16, enabled=amp):
                loss = nn.functional.cross_entropy(model(images), labels)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            total += loss.detach() * len(labels)
            samples += len(labels)
            step += 1
            steps.update()
            if step % CHECK_EVERY == 0:
                _check_loss(total, step)
                steps.set_postfix(loss=f"{total.item() / samples:.3f}", refresh=False)
            if step == iterations:
                break
        if step == first_step:
            raise DataError("the loader gave no batch; training needs at least one")
        _check_loss(total, step)
        accuracy = None
        if evaluate is not None:
            model.eval()
            accuracy = evaluate(model)
            if keep == "best" and (best is None or accuracy > best[1]):
                best = (len(epochs), accuracy, {name: value.clone() for name, value in model.state_dict().items()})
        rate = optimizer.param_groups[0]["lr"]
        seconds = time.perf_counter() - epoch_started
        epochs.append(Epoch(step, total.item() / samples, accuracy, rate, seconds))
    steps.close()
    if best is not None:
        model.load_state_dict(best[2])
    model.eval()
    return TrainingReport(epochs, best[0] if best else len(epochs) - 1, time.perf_counter() - started)


def _check_loss(total: torch.Tensor, step: int) -> None:
    if not math.isfinite(total.item()):
        raise ModelError(
            f"the training loss is not finite at iteration {step} or in the {CHECK_EVERY} before it; "
            "lower the learning rate, and look for images or weights that are not finite"
        )
