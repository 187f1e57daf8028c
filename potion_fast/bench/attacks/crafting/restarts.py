"""The descent of gradient matching, from several random starts: settings, state and checkpoints."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ....errors import DataError
from .checkpoints import load_checkpoint, save_checkpoint
from .matching import Over
from .projection import Box

MOMENTS = ("exp_avg", "exp_avg_sq")  # as torch's Adam names them


@dataclass(frozen=True)
class MatchingSettings:
    """Settings of gradient matching, see `gradient_matching`.

    Raises:
        DataError: a number out of range or an unknown choice.
    """

    epsilon: float
    restarts: int
    steps: int
    batch_size: int
    optimizer: Literal["sign-adam", "adam"]
    lr: float
    over: Over
    augment: bool
    shift: float
    flip: bool
    seed: int

    def __post_init__(self) -> None:
        if min(self.restarts, self.steps, self.batch_size) < 1:
            raise DataError(
                f"restarts={self.restarts}, steps={self.steps} and batch_size={self.batch_size} must be at least 1"
            )
        if not 0 < self.lr < math.inf or not 0 <= self.shift < math.inf:
            raise DataError(f"lr={self.lr} must be above 0, and shift={self.shift} at least 0")
        if self.optimizer not in ("sign-adam", "adam") or self.over not in ("batch", "all"):
            raise DataError(
                f"optimizer={self.optimizer!r} must be 'sign-adam' or 'adam', and over={self.over!r} 'batch' or 'all'"
            )

    def rate(self, step: int) -> float:
        """Learning rate of step number `step`, from 0: 93, 156 and 218 of 250 begin a tenth of the one before."""
        if self.optimizer == "adam":
            return self.lr
        return self.lr * 0.1 ** sum(0 < part * self.steps // 8 <= step for part in (3, 5, 7))


@dataclass
class MatchingDescent:
    """State of the descent.

    Attributes:
        settings: of the crafting.
        delta: [P, C, H, W], the perturbations of the current restart.
        generator: of starts and augmentation.
        restart: number, from 0, of the current restart.
        step: steps that it has done.
        losses: of every restart by step.
        finals: final loss of each restart that has ended.
        best: perturbations of the restart `kept`.
        stepper: torch's Adam on `delta`.
    """

    settings: MatchingSettings
    delta: Tensor
    generator: torch.Generator
    restart: int = 0
    step: int = 0
    losses: list[list[float]] = field(default_factory=list)
    finals: list[float] = field(default_factory=list)
    best: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.stepper = torch.optim.Adam([self.delta], betas=(0.9, 0.999), eps=1e-8)
        self.best = torch.empty(0)

    @property
    def kept(self) -> int:
        """The restart with the lowest final loss."""
        return self.finals.index(min(self.finals))

    def begin(self, box: Box) -> None:
        """Start the current restart, unless it was resumed from a checkpoint."""
        if self.step == 0:
            self.delta = torch.randn(self.delta.shape, generator=self.generator, dtype=self.delta.dtype)
            self.delta *= box.radius(self.delta)
            self.stepper = torch.optim.Adam([self.delta])
            self.losses.append([])

    def descend(self, loss: float, slope: Tensor) -> None:
        """Take one step against the gradient `slope` of the loss, which is like `delta`."""
        self.stepper.param_groups[0]["lr"] = self.settings.rate(self.step)
        self.delta.grad = slope.sign_() if self.settings.optimizer == "sign-adam" else slope
        self.stepper.step()
        self.losses[-1].append(loss)
        self.step += 1

    def end(self, final: float) -> None:
        """End the current restart, whose perturbations have this loss."""
        self.finals.append(final)
        if self.kept == self.restart:
            self.best = self.delta
        self.restart, self.step = self.restart + 1, 0

    def save(self, path: str | os.PathLike[str], identity: dict[str, Any]) -> None:
        """Write a checkpoint.

        Raises:
            FileError: the file cannot be written.
        """
        tensors = {"generator": self.generator.get_state()}
        if self.finals:
            tensors["best"] = self.best
        if self.step:
            tensors["delta"] = self.delta
            tensors |= {name: self.stepper.state[self.delta][name] for name in MOMENTS}
        state = {name: getattr(self, name) for name in ("restart", "step", "losses", "finals")}
        save_checkpoint(path, {**identity, **asdict(self.settings)}, tensors, state)

    def load(self, path: str | os.PathLike[str], identity: dict[str, Any]) -> None:
        """Resume from a checkpoint, where there is one.

        Raises:
            FileError: a file that is foreign or of another crafting.
        """
        saved = load_checkpoint(path, {**identity, **asdict(self.settings)})
        if saved is None:
            return
        tensors, state = saved
        self.generator.set_state(tensors["generator"])
        self.restart, self.step = state["restart"], state["step"]
        self.losses, self.finals = state["losses"], state["finals"]
        self.best = tensors.get("best", self.best)
        if self.step:
            self.delta = tensors["delta"]
            self.stepper = torch.optim.Adam([self.delta])
            self.stepper.state[self.delta] = {name: tensors[name] for name in MOMENTS}
            self.stepper.state[self.delta]["step"] = torch.tensor(float(self.step))
