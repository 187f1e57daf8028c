"""Fine-tuning of a poisoned model on the suspects with other labels, from data to kept model."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..distributed import Group, Ranks
from ..errors import DataError
from ..utils.adapter import Adapter
from ..utils.atomic_files import check_writable
from ..utils.copies import copy_model
from ..utils.cost import Cost
from ..utils.crc import crc32
from ..utils.inputs import BatchInputs, rows_of, tensors_of
from ..utils.model import ModelParameters, differentiable_rnns
from ..utils.progress import bar
from ..utils.seeding import check_seed, generators_kept, seed_generators
from ..utils.training_data import TrainingData, check_indices, plain_data
from ..utils.unchanged import unchanged
from ..utils.warn import warn_caller
from .batches import NO_TRIGGER, Batches, KeepTheirLabel
from .checkpoint import Checkpoint
from .checks import check_model, check_options, checked_pairs
from .judging import Judge
from .keeping import chosen, verdict
from .learning_rate import Schedule
from .result import DIVERGED, NOTHING_NEW, Evaluation, FineTuned
from .steps import Losses, Steps

if TYPE_CHECKING:
    from ..attack_success import SimulatedAttack
    from ..attack_success.trigger import Trigger

PARTS = (1 / 3, 2 / 3, 1.0)  # of the steps in which the rate falls, each of which ends with an evaluation


def finetune(
    model: nn.Module | ModelParameters,
    train_set: object,
    indices: Iterable[int] | Tensor,
    labels: Iterable[int] | Tensor,
    *,
    found: Iterable[int] | Tensor,
    attack: SimulatedAttack | None = None,
    plain_set: object = None,
    validation: object = None,
    loss: Losses | None = None,
    adapter: Adapter | None = None,
    amp: torch.dtype | None = None,
    compiled: bool = False,
    seed: int = 0,
    max_damage: float = 0.5,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    process_group: Group = None,
    progress: bool = False,
    inplace: bool = False,
) -> FineTuned:
    """Let a poisoned model learn other labels for the suspects, and keep the best model on the way.

    Nothing is to be tuned. A batch holds 16 suspects and 32 to 128 samples of the rest of the training data, about a
    hundredth of it, which keep their labels and what the given model says of them. The rate is relative to each
    tensor's weights (`finetuning.steps.Steps`). It grows from step to step until the suspects' probability of the
    poison's label has fallen by 70 %, then falls linearly to 0 over 0.3 of an epoch (0.6 with the smallest batches), 32
    steps at least and 300 at most: neither the optimiser nor the learning rate of the training need be known. The model
    is in evaluation mode throughout: batch norms keep their statistics, there is no dropout. Parameters without
    `requires_grad`, and all buffers, stay as they are. Suspects that keep their label are left out.

    How it is judged: by the suspects with a new label that are kept out of the fine-tuning (a fifth of them, where
    there are 40 of them that were not found; else by all), of which POISON_LEFT may keep the old label, and by clean
    accuracy, see `finetuning.keeping.clean_change`. The model that is given back has lost no more than `max_damage`
    points by that measure, or a warning and the reason say so.

    The batches depend on nothing but data, suspects and seed. The samples are read as the training set gives them; its
    random augmentation follows from the seed, the number of workers and that of ranks, so that a call gives the same
    bits again with these the same, resumed or not. On several ranks each reads its part of every batch, gradients are
    added up, and all end with the same bits.

    Args:
        model: A classifier with float32 weights, as the poison left it; a copy is fine-tuned unless `inplace`.
        train_set: The training data as trained on: a data set that is read by index, or a DataLoader over one.
        indices: Of the suspects, [K].
        labels: Their new labels, [K] classes; equal to the given one where a suspect keeps it.
        found: Indices of S_f; it may be empty.
        attack: The suspects' trigger, see `simulate_attack`: in each batch clean samples of the poison's own label get
            it and keep that label: 16 with two classes of one size, which makes the label as frequent with the trigger
            as without, fewer where the suspects' new labels differ, 2 at least. Without them the trigger of two
            classes, whose suspects all get the same other label, comes to tell that one.
        plain_set: The same samples without augmentation, where `train_set` augments at random: what is evaluated.
        validation: Clean samples that the model has not seen, likewise; without them a tenth of the rest of the
            training data, 1024 samples at most, is kept out of the fine-tuning.
        loss: Called with the model's outputs and labels int64 [B], gives losses [B]; it and the labels then teach the
            rest of the data too. By default the cross-entropy of the logits, and for the rest half that, half what the
            given model says.
        adapter: Reads the batches, calls the model and finds its logits, see `Adapter`.
        amp: bfloat16 or float16: the model runs under `torch.autocast`, float16 with the loss scaled.
        compiled: Let torch.compile make the passes; for long fine-tunings.
        seed: Of the batches, of what is kept out, and of random augmentation. The caller's random generators are left
            where they were.
        max_damage: Points of clean accuracy that may be lost without a warning.
        checkpoint: File that keeps the state at every evaluation; it is removed at the end.
        resume: Continue from that file where there is one.
        process_group: The ranks of torch.distributed that share the work; None: all there are; False: this process.
        progress: Show a progress bar, with the time left.
        inplace: Fine-tune the caller's model; it is restored to the bit should anything fail.

    Returns:
        The model, the trace, which evaluation was kept and why.

    Raises:
        DataError: Indices or labels out of range or of different number, labels of another task than classification, a
            training set that cannot be read by index, a checkpoint of another fine-tuning.
        ModelError: Weights that are not float32 or not finite, outputs that are no logits [B, C], or not finite.
        ImportanceError: No trainable parameter.
        FileError: A checkpoint that cannot be read or written.
        OutOfMemoryError: The weights' copies, or a single sample, do not fit.
    """
    started = time.perf_counter()
    ranks = Ranks.of(process_group)
    with ranks.raising_together():
        check_options(amp, max_damage, checkpoint, resume)
        seed = check_seed(seed)
        data = TrainingData.of(train_set, adapter=adapter)
        plain = plain_data(plain_set, data)
        clean = None if validation is None else TrainingData.of(validation, adapter=adapter, name="validation")
        suspects, new_labels = checked_pairs(indices, labels, len(data))
        found = torch.as_tensor(found if isinstance(found, Tensor) else list(found), dtype=torch.int64)
        found = check_indices(found, len(data), "found") if len(found) else found
        parameters = ModelParameters.of(model)
        check_model(parameters, inplace)
        attack = _usable(attack, data)
        if checkpoint is not None:
            check_writable(checkpoint)
        if not inplace:
            parameters = ModelParameters(
                copy_model(parameters.wrapped, "; fine-tune the model itself, with inplace=True")
            )
    identity = {
        "model (fingerprint)": parameters.fingerprint(),
        "samples": len(data),
        "suspects and labels (checksum)": crc32(suspects, new_labels, found),
        "attack (checksum)": 0 if attack is None else crc32(attack.way, attack.spare.places, attack.spare.donors),
        "seed": seed,
        "amp": str(amp),
        "ranks": ranks.size,
    }
    ranks.check_same(identity)
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        generators_kept(),
        _trained(parameters),
        differentiable_rnns(parameters.module),
    ):
        steps = Steps(parameters, data.adapter, loss, amp, compiled, ranks)
        judge = Judge(steps, plain, clean, ranks, seed)
        changed = judge.changed(suspects, new_labels)
        batches = Batches.of(
            len(data),
            suspects,
            new_labels,
            found,
            changed=changed,
            triggered=KeepTheirLabel.of(attack, judge.given[changed], new_labels[changed]),
            held_out=clean is None,
            seed=seed,
        )
        judge.start(batches, suspects[changed], found)
        file = None if checkpoint is None else Checkpoint(checkpoint, identity)
        run = _Run(steps, judge, data, batches, None if attack is None else attack.trigger, ranks, max_damage, file)
        if changed.any():
            run.go(resume, progress)
        kept, reason = (run.kept, run.reason) if changed.any() else (0, NOTHING_NEW)
        by_class = judge.by_class(is_last=kept == len(run.trace) - 1)
    result = FineTuned(
        model=model if inplace and isinstance(model, nn.Module) else parameters.wrapped,
        trace=run.trace,
        kept=kept,
        reason=reason,
        judged_by=judge.described,
        warnings=verdict(run.trace, kept, reason, max_damage, judge.described),
        cost=Cost(judge.samples + run.samples + (loss is None) * run.step * batches.size, run.samples),
        seconds=time.perf_counter() - started,
        plan=batches.described(),
        by_class=by_class,
    )
    for text in result.warnings:
        warn_caller(text)
    if file is not None:
        with ranks.raising_together():
            if ranks.rank == 0:
                file.remove()
    return result


def _usable(attack: SimulatedAttack | None, data: TrainingData) -> SimulatedAttack | None:
    """The attack where its trigger can be put onto the training data.

    Raises:
        DataError: It is no attack, or one on other data.
    """
    if attack is None:
        return None
    trigger, spare = getattr(attack, "trigger", None), getattr(attack, "spare", None)
    if trigger is None or spare is None:
        raise DataError(f"attack must be what simulate_attack gives, not a {type(attack).__name__}")
    if len(spare.clean.data) != len(data):
        raise DataError(
            f"the attack was simulated with {len(spare.clean.data)} training samples, and train_set has {len(data)}"
        )
    if trigger.fits(next(data.batches([0]))[0]):
        return attack
    warn_caller(
        "the samples of train_set have another shape than those of plain_set, so none of them gets the suspects' "
        "trigger in the fine-tuning"
    )
    return None


@dataclass
class _Run:
    """The steps of one call of `finetune`, segment by segment: the growth of the rate, and parts of its fall.

    Attributes:
        steps: That change the model.
        judge: Of the model as it stands.
        data: The training data.
        batches: Of all steps.
        trigger: That some of their samples get.
        ranks: That share the work.
        max_damage: See `finetune`.
        file: Keeps the state between segments.
        trace: So far.
        kept: The evaluation whose weights are kept, a place in `trace`.
        reason: Why that one.
        step: Steps that are done.
        rate: Of the last one.
        losses: Of the steps since the last evaluation.
        samples: That went forward and backward, on all ranks.
    """

    steps: Steps
    judge: Judge
    data: TrainingData
    batches: Batches
    trigger: Trigger | None
    ranks: Ranks
    max_damage: float
    file: Checkpoint | None
    trace: list[Evaluation] = field(default_factory=list)
    kept: int = 0
    reason: str = ""
    step: int = 0
    samples: int = 0
    rate: float = 0.0
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.trace = [self.judge(0, 0.0, 0.0)]
        self.schedule = Schedule(self.batches.falling, self.trace[0].poison_accuracy)
        self.best = self.steps.given

    def go(self, resume: bool, progress: bool) -> None:
        """All steps that are left; the model has the kept weights afterwards."""
        if resume:
            self._resume()
        with bar(label="fine-tuning", unit="step", shown=progress and self.ranks.rank == 0, total=0) as done:
            done.update(self.step)
            while not self.schedule.over:
                growing = self.schedule.grown is None
                part = next(part for part in PARTS if round(part * self.schedule.falling) > self.schedule.fallen)
                done.total = self.step + self.schedule.steps_to(1.0) + growing * self.schedule.falling
                if not self._segment(self.schedule.steps_to(part), growing, done) or not (growing or self._evaluated()):
                    self.reason = DIVERGED
                    break
                self._save()
        self.steps.put(self.best)

    def _segment(self, count: int, growing: bool, done: Any) -> bool:
        """So many steps, or those until the rate stops growing; whether losses and gradients were finite."""
        batches = [self.batches.batch(step) for step in range(self.step, self.step + count)]
        own = slice(self.ranks.rank, None, self.ranks.size)
        parts = [tuple(column[own] for column in batch) for batch in batches]
        size, own_size = len(self.batches), len(parts[0][0])
        seed = seed_generators(self.batches.seed, "steps", self.step, self.ranks.rank)
        read: Iterator[tuple[BatchInputs, Tensor]] = iter(())
        if own_size:
            read = self.data.batches(torch.cat([indices for indices, *_ in parts]), own_size, seed=seed)
        for _, labels, donors in parts:
            with self.ranks.raising_together():
                batch = self._triggered(*next(read), donors) if own_size else None
            self.rate = self.schedule.rate
            loss, probability = self.steps.step(self.rate, batch, labels, size)
            if math.isnan(loss):
                return False
            self.losses.append(loss)
            self.schedule.advance(self.step, probability)
            self.step, self.samples = self.step + 1, self.samples + size
            done.update()
            if growing and self.schedule.grown is not None:
                break
        return True

    def _triggered(self, inputs: BatchInputs, labels: Tensor, donors: Tensor) -> tuple[BatchInputs, Tensor]:
        """A batch with the trigger on those of its samples that get one."""
        rows = (donors != NO_TRIGGER).nonzero().flatten()
        if self.trigger is None or not len(rows):
            return inputs, labels
        new = tensors_of(self.trigger.onto(rows_of(inputs, rows), donors[rows]))
        columns = [old.index_copy(0, rows, column) for old, column in zip(tensors_of(inputs), new, strict=True)]
        return (columns[0] if isinstance(inputs, Tensor) else inputs.with_tensors(columns)), labels

    def _evaluated(self) -> bool:
        """Evaluate the model as it stands and keep it if it is the best; whether its logits are finite."""
        entry = self.judge(self.step, self.rate, sum(self.losses) / len(self.losses))
        if math.isfinite(entry.clean_change):
            self.trace.append(entry)
            self.losses = []
            self.kept, self.reason = chosen(self.trace, self.max_damage)
            if self.kept == len(self.trace) - 1:
                self.best = self.steps.weights()
        return math.isfinite(entry.clean_change)

    def _tensors(self) -> dict[str, Tensor]:
        return {"weights": self.steps.weights(), "moments": self.steps.moments, "best": self.best}

    def _save(self) -> None:
        if self.file is None:
            return
        state = {
            "step": self.step,
            "losses": self.losses,
            "samples": self.samples,
            "judged": self.judge.samples,
            "schedule": asdict(self.schedule),
            "updates": self.steps.done,
            "scale": self.steps.scale,
        }
        with self.ranks.raising_together():
            if self.ranks.rank == 0:
                self.file.save(self.trace, state, self._tensors())

    def _resume(self) -> None:
        """Take over the state of the file, if there is one."""
        with self.ranks.raising_together():
            loaded = None if self.file is None else self.file.load(self._tensors())
        self.ranks.check_same({"step of the checkpoint": None if loaded is None else loaded[1]["step"]})
        if loaded is None:
            return
        self.trace, state, tensors = loaded
        self.steps.put(tensors["weights"].to(self.steps.device))
        self.steps.moments.copy_(tensors["moments"])
        self.best = tensors["best"].to(self.steps.device, copy=True)
        self.step, self.losses, self.samples = state["step"], state["losses"], state["samples"]
        self.steps.done, self.steps.scale = state["updates"], state["scale"]
        self.schedule = Schedule(**state["schedule"])
        self.judge.reader.samples = state["judged"]
        if len(self.trace) > 1:
            self.kept, self.reason = chosen(self.trace, self.max_damage)


@contextmanager
def _trained(parameters: ModelParameters) -> Iterator[None]:
    """Evaluation mode for the block, which may change weights; all else is as it was afterwards.

    Where the block fails, the weights are too.
    """
    module = parameters.module
    before = [tensor.clone() for tensor in parameters.tensors.values()]
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        with unchanged(parameters.wrapped) as watch:
            yield
            watch.forget_values()
    except BaseException:
        for tensor, value in zip(parameters.tensors.values(), before, strict=True):
            tensor.copy_(value)
        raise
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
