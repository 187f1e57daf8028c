"""The descent of gradient canceling, at a rate that falls to 0: settings, state and checkpoints."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ....errors import DataError, FileError, ModelError
from .checkpoints import load_checkpoint, save_checkpoint
from .gradpc import norm
from .mean_gradient import Which

DIVERGED = 100  # times the first loss


@dataclass(frozen=True)
class CancelingSettings:
    """Settings of gradient canceling, see `gradient_canceling`.

    Raises:
        DataError: a number out of range or an unknown choice.
    """

    steps: int
    lr: float
    optimizer: Literal["descent", "adam"]
    parameters: Which
    epsilon: float | None
    tolerance: float
    batch_size: int
    clean_samples: int

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size, self.clean_samples) < 1:
            raise DataError(
                f"steps={self.steps}, batch_size={self.batch_size} and clean_samples={self.clean_samples} "
                "must be at least 1"
            )
        if not 0 < self.lr < math.inf or not 0 <= self.tolerance < math.inf:
            raise DataError(f"lr={self.lr} must be above 0, and tolerance={self.tolerance} at least 0")
        if self.optimizer not in ("descent", "adam"):
            raise DataError(f"optimizer={self.optimizer!r} must be 'descent' or 'adam'")


@dataclass
class CancelingDescent:
    """State of the descent.

    Attributes:
        settings: of the crafting.
        delta: [P, C, H, W], the perturbations.
        done: steps that are done.
        losses: before each of these steps, and that of `delta` where it is known.
    """

    settings: CancelingSettings
    delta: Tensor
    done: int = 0
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        kind = torch.optim.Adam if self.settings.optimizer == "adam" else torch.optim.SGD
        self.stepper: torch.optim.Optimizer = kind([self.delta], lr=self.settings.lr)

    def reached(self, loss: float) -> None:
        """Note the loss of `delta`.

        Raises:
            ModelError: it is not finite, or the descent has driven it up.
        """
        self.losses.append(loss)
        if not (math.isfinite(loss) and loss <= DIVERGED * self.losses[0]):
            raise ModelError(
                f"the loss is {loss:.3g} after {self.done} steps and was {self.losses[0]:.3g}; lower lr="
                f"{self.settings.lr}, or look for images that are not finite"
            )

    def descend(self, slope: Tensor) -> None:
        """Take one step against `slope`, which is like `delta`."""
        cosine = math.cos(math.pi * self.done / self.settings.steps)
        self.stepper.param_groups[0]["lr"] = self.settings.lr * (1 + cosine) / 2
        self.delta.grad = slope
        self.stepper.step()
        self.done += 1

    def save(self, path: str | os.PathLike[str], identity: dict[str, Any], clean: Sequence[Tensor]) -> None:
        """Write a checkpoint.

        Raises:
            FileError: the file cannot be written.
        """
        moments = {f"adam.{key}": value for key, value in self.stepper.state[self.delta].items() if value is not None}
        state = {"done": self.done, "losses": self.losses, "clean": [norm([tensor]) for tensor in clean]}
        save_checkpoint(path, {**identity, **asdict(self.settings)}, {"delta": self.delta, **moments}, state)

    def load(self, path: str | os.PathLike[str], identity: dict[str, Any], clean: Sequence[Tensor]) -> None:
        """Resume from a checkpoint, where there is one.

        A GPU that repeats GradPC and the sums does not give the same bits: clean gradients that differ by no more than
        a hundredth in norm, parameter by parameter, are the same.

        Raises:
            FileError: a file that is foreign or of another crafting.
        """
        saved = load_checkpoint(path, {**identity, **asdict(self.settings)})
        if saved is None:
            return
        tensors, state = saved
        before, now = torch.tensor(state["clean"]), torch.tensor([norm([tensor]) for tensor in clean])
        if before.shape != now.shape or (before - now).norm() > 0.01 * now.norm():
            raise FileError(f"{path} is of another crafting, its clean gradient was another one; remove the file")
        self.done, self.losses = state["done"], state["losses"]
        self.delta.copy_(tensors.pop("delta"))
        self.stepper.state[self.delta] = {key.removeprefix("adam."): value for key, value in tensors.items()}
