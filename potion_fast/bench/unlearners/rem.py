"""REM: poison is caught in units of its own, which are dropped (Schoepf et al., arXiv 2505.17730)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset
from typing_extensions import override

from ...utils.copies import copy_model
from ...utils.predict import accuracy, predict
from .base import Loaders, Unlearned, Unlearner
from .finetuning import frozen_copy
from .memory_units import SHARED, MemoryUnits, default_blocks
from .npo import loss_increases, negative_preference
from .paired_batches import labelled
from .registry import register_unlearner


@dataclass(frozen=True)
class Round:
    """One round, with the memory units off.

    Attributes:
        steps: so far, of both parts.
        retain_accuracy: on the training data without S_f, as trained on.
        forget_accuracy: on S_f, with the labels that it was trained with.
        product: retain_accuracy · (1 − max(forget_accuracy, γ)).
    """

    steps: int
    retain_accuracy: float
    forget_accuracy: float
    product: float


@register_unlearner("rem")
class REM(Unlearner):
    """Rounds of (a) NPO on S_f until the accuracy on it is at most γ, and (b) an epoch over all of the training data.

    *Redirection for Erasing Memory*: in (b) the model θ₁ is enlarged by memory units θ₂, and what is minimised is

        (2/β) · mean log σ(β Δ), over all samples and with θ₂,  −  (2/β) · mean log σ(β Δ), over S_f and without it,

    Δ being a sample's cross-entropy less that of the given model: the labels of all samples are learnt, those of S_f in
    θ₂ alone. Both means are over a batch's samples, the second with batch norms in evaluation mode. All of S_f shares
    one random set of memory units, every other sample keeps a random set of its own. The round with the largest product
    (see `Round`) is kept, without θ₂.

    Where the paper leaves the form of θ₂ open, it is here: beside each of the `blocks` a branch of a 3 × 3 convolution
    (on tokens and vectors a linear layer), ReLU, and a linear map onto the block's outputs, zero at first so that the
    given model is unchanged; with hidden units for a share `memory` of the block's channels, of which a sample uses
    `kept`. It reads the training data by index.

    Attributes:
        gamma: γ.
        beta: β.
        optimizer: "sgd" with momentum 0.9, or "adam".
        lr: constant; the paper's is a fifth of the training's, of Adam on a vision transformer 2e-5.
        weight_decay: of all weights.
        batch_size: of (b); None: the training's.
        iterations: steps of both parts together, at most.
        erasing_epochs: passes over S_f in (a), at most.
        patience: rounds without a larger product, after which it ends; None: never before `iterations`.
        blocks: names of modules; None: see `default_blocks`.
        memory: hidden units of a branch, of its block's channels.
        kept: share of the units that a sample uses.
    """

    gamma: Annotated[float, Field(ge=0, le=1)] = 0.2
    beta: PositiveFloat = 1.0
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: PositiveFloat = 0.005
    weight_decay: NonNegativeFloat = 5e-4
    batch_size: PositiveInt | None = None
    iterations: PositiveInt = 980
    erasing_epochs: PositiveInt = 100
    patience: PositiveInt | None = None
    blocks: Annotated[Sequence[str], Field(min_length=1)] | None = None
    memory: Annotated[float, Field(gt=0)] = 0.2
    kept: Annotated[float, Field(gt=0, le=1)] = 0.5

    @override
    def unlearn(self, model: nn.Module, loaders: Loaders, progress: bool) -> Unlearned:
        start, data = time.perf_counter(), loaders.by_index(self.name)
        plain: Any = data.train_set if data.plain_set is None else data.plain_set
        rest = np.setdiff1d(np.arange(len(plain)), np.asarray(data.found)).tolist()
        student, device = copy_model(model).eval(), next(model.parameters()).device
        example = labelled(next(iter(DataLoader(plain, 2))))[0].to(device)
        blocks = self.blocks or default_blocks(student, example)
        memory = MemoryUnits(student, blocks, example, self.memory, self.kept, self.seed).to(device)
        run = _Run(self, student, frozen_copy(model), memory, loaders.forget, loaders.forget_evaluation, device)
        order = torch.Generator().manual_seed(self.seed)
        size = self.batch_size or data.batch_size
        everything = DataLoader(_Indexed(data.train_set), size, shuffle=True, generator=order)
        retained = DataLoader(Subset(plain, rest), size)
        trace: list[Round] = []
        best, since = run.weights(), 0
        while run.steps < self.iterations and (self.patience is None or since < self.patience):
            run.erase()
            run.redirect(everything, torch.tensor(list(data.found)))
            before = max((entry.product for entry in trace), default=-1.0)
            trace.append(run.round(retained))
            since += 1
            if trace[-1].product > before:
                best, since = run.weights(), 0
        student.load_state_dict(best)
        for parameter, theirs in zip(student.parameters(), model.parameters(), strict=True):
            parameter.requires_grad_(theirs.requires_grad)
        return Unlearned(
            model=student.eval(),
            method=self.name,
            trace=trace,
            kept=max(trace, key=lambda entry: entry.product),
            gradient_steps=run.steps,
            seconds={"training": time.perf_counter() - start},
            learning_rate=self.lr,
        )


class _Run:
    """The parts of the rounds.

    Attributes:
        steps: done.
    """

    def __init__(
        self,
        settings: REM,
        student: nn.Module,
        given: nn.Module,
        memory: MemoryUnits,
        forget: Any,
        evaluation: Any,
        device: torch.device,
    ) -> None:
        self.settings, self.student, self.given, self.memory = settings, student, given, memory
        self.forget, self.evaluation, self.device = forget, evaluation, device
        self.parameters = [p for p in (*student.parameters(), *memory.parameters()) if p.requires_grad]
        if settings.optimizer == "sgd":
            self.optimizer: torch.optim.Optimizer = torch.optim.SGD(
                self.parameters, lr=settings.lr, momentum=0.9, weight_decay=settings.weight_decay
            )
        else:
            self.optimizer = torch.optim.Adam(self.parameters, lr=settings.lr, weight_decay=settings.weight_decay)
        self.erasing, self.steps = negative_preference(given, settings.beta), 0

    def erase(self) -> None:
        """NPO on S_f, until the model gives at most γ of it its label."""
        for _ in range(self.settings.erasing_epochs):
            if self._forget_accuracy() <= self.settings.gamma:
                return
            self.student.train()
            for batch in self.forget:
                if self.steps == self.settings.iterations:
                    return
                inputs, labels = (part.to(self.device) for part in labelled(batch))
                self._step(self.erasing(self.student, (inputs, labels)))

    def redirect(self, loader: Any, found: Tensor) -> None:
        """An epoch over all samples, whose batches hold their indices."""
        self.student.train()
        for raw in loader:
            if self.steps == self.settings.iterations:
                return
            inputs, labels, indices = raw[0].to(self.device), raw[1].to(self.device), raw[2]
            of_found = torch.isin(indices, found)
            with self.memory.on(self.student, torch.where(of_found, SHARED, indices)):
                value = -self._preference((inputs, labels))
            if of_found.any():
                rows = of_found.nonzero().flatten().to(self.device)
                self.student.eval()  # a few samples are no statistics for batch norms
                value = value + self._preference((inputs[rows], labels[rows]))
                self.student.train()
            self._step(value)

    def round(self, retained: Any) -> Round:
        """What the model does now."""
        right, kept = accuracy(*predict(self.student.eval(), retained)), self._forget_accuracy()
        return Round(self.steps, right, kept, right * (1 - max(kept, self.settings.gamma)))

    def weights(self) -> dict[str, Tensor]:
        """A copy of the model's weights and buffers."""
        return {name: value.clone() for name, value in self.student.state_dict().items()}

    def _preference(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """−(2/β) · mean log σ(β Δ)."""
        beta = self.settings.beta
        return 2 / beta * F.softplus(-beta * loss_increases(self.student, self.given, batch)).mean()

    def _step(self, value: Tensor) -> None:
        self.optimizer.zero_grad()
        value.backward()
        self.optimizer.step()
        self.steps += 1

    def _forget_accuracy(self) -> float:
        return accuracy(*predict(self.student.eval(), self.evaluation))


class _Indexed(Dataset[Any]):
    """A data set whose samples come with their index."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return (*self.data[index][:2], index)

    def __getitems__(self, indices: list[int]) -> list[tuple[Any, ...]]:
        read = getattr(self.data, "__getitems__", None)
        samples = [self.data[index] for index in indices] if read is None else read(indices)
        return [(*sample[:2], index) for sample, index in zip(samples, indices, strict=True)]
