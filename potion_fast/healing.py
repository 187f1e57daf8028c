"""Healing on one page: the rest of the poison found → other labels for it → a fraction of an epoch to learn them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from .attack_success import SimulatedAttack, simulated_attack
from .detection import Suspects, suspects_from
from .detection.features import Features, features_of
from .detection.regularity import regularity
from .detection.suspect_list import GIVEN
from .distributed import Group, Ranks
from .errors import DataError
from .finetuning import finetune
from .finetuning.checks import check_model
from .finetuning.steps import Losses
from .healing_result import HealResult
from .relabel import Source, propose_labels
from .relabel.checkpoint import LabelsCheckpoint
from .relabel.propose import check_source
from .utils.adapter import Adapter
from .utils.copies import IN_PLACE, copy_model
from .utils.cost import Cost
from .utils.crc import crc32
from .utils.model import ModelParameters
from .utils.seeding import check_seed, generators_kept, seed_generators
from .utils.training_data import TrainingData, check_indices, plain_data
from .utils.unchanged import unchanged
from .utils.warn import warn_caller


def heal(
    model: nn.Module,
    train_set: object,
    found: Iterable[int] | Tensor | None = None,
    *,
    suspects: Suspects | Iterable[int] | Tensor | None = None,
    plain_set: object = None,
    validation: object = None,
    rate: float = 0.05,
    labels: Source = "auto",
    loss: Losses | None = None,
    max_damage: float = 0.5,
    adapter: Adapter | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    amp: torch.dtype | None = None,
    compiled: bool = False,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    process_group: Group = None,
    inplace: bool = False,
    progress: bool = False,
) -> HealResult:
    """Heal a poisoned classifier: find the rest of the poison, give it other labels, and let the model learn these.

    The steps are `suspects`, `propose_labels` and `finetune`, each of them a function of its own, whose docstrings say
    how they decide. There is nothing to tune. On several ranks of torch.distributed, which all call this, each reads
    its part of the data, and all end with the same bits.

    Args:
        model: A classifier with float32 weights that gives logits [B, C]; a copy is healed unless `inplace`.
        train_set: The training data as the model was trained on it, N samples with one label each: a data set that is
            read by index, or a DataLoader over one.
        found: S_f, indices of poisoned samples that were found, one or more. Some of them may be wrong. None: there are
            suspects instead.
        suspects: In place of those that would be found: an edited `Suspects`, or indices of the training set.
        plain_set: The same samples without augmentation, where `train_set` augments at random.
        validation: Clean samples that the model has not seen, likewise, by which clean accuracy is then judged.
        rate: Share of false ones among the suspects that is accepted, see `suspects`.
        labels: Where the labels come from, see `propose_labels`.
        loss: Called with the model's outputs and labels int64 [B], gives losses [B]; the cross-entropy by default.
        max_damage: Points of clean accuracy that may be lost without a warning.
        adapter: Reads the batches, calls the model and finds its logits, see `Adapter`.
        batch_size: Samples per batch of forward passes; that of the DataLoader, or 128.
        workers: Processes that read samples; those of the DataLoader, or none.
        amp: bfloat16 or float16: the model runs under `torch.autocast`.
        compiled: Let torch.compile make the passes of the fine-tuning.
        seed: Of all that is drawn. The caller's random generators are left where they were.
        checkpoint: Beginning of the names of files that keep what is done; they are removed at the end.
        resume: Continue from these files where they are.
        process_group: The ranks that share the work; None: all there are; False: this process.
        inplace: Heal the caller's model; it is restored to the bit should anything fail.
        progress: Show progress bars.

    Returns:
        The healed model, the suspects, their labels, every evaluation, the estimated success of the attack before and
        after, and what it cost.

    Raises:
        DataError: Training data, indices or labels that do not fit together, or of another task than classification.
        ModelError: Weights that are not float32 or not finite, or outputs that are no logits [B, C].
        ImportanceError: No trainable parameter.
        FileError: A checkpoint that cannot be read or written.
        OutOfMemoryError: Not even one sample fits.
    """
    started = time.perf_counter()
    ranks = Ranks.of(process_group)
    with ranks.raising_together():
        data = TrainingData.of(train_set, adapter=adapter, batch_size=batch_size, workers=workers)
        plain = plain_data(plain_set, data)
        unseen = None if validation is None else TrainingData.of(validation, adapter=adapter, name="validation")
        given = suspects if suspects is None or isinstance(suspects, Suspects) else Suspects.of_indices(suspects)
        if given is not None and not len(given):
            raise DataError("suspects has no samples; leave it out to have them found")
        members = _members(found, given, len(data))
        parameters = ModelParameters.of(model)
        check_model(parameters, inplace)
        check_source(labels, "labels")
        seed = check_seed(seed)
        identity = {
            "model (fingerprint)": parameters.fingerprint(),
            "samples": len(data),
            "found and suspects (checksum)": crc32(members, *_tensors(given)),
            "rate": rate,
            "labels": labels,
            "seed": seed,
            "amp": str(amp),
        }
        checkpoints = LabelsCheckpoint(checkpoint, identity)
        if not inplace:
            parameters = ModelParameters(copy_model(parameters.wrapped, IN_PLACE))
    healed = parameters.wrapped
    with unchanged(healed, only_on_failure=True), generators_kept():
        seed_generators(seed, "heal", ranks.rank)
        loaded = checkpoints.load(ranks) if resume else None
        if loaded is None:
            features = features_of(healed, plain, amp=amp, ranks=ranks, progress=progress)
            with ranks.raising_together():
                listed = _suspects(given, features, plain, members, rate)
            listed = ranks.all_gather(listed)[0]  # libraries may round in another way on another machine
            proposed = propose_labels(
                healed,
                plain,
                listed,
                source=labels,
                features=features,
                amp=amp,
                seed=seed,
                progress=progress,
                process_group=process_group,
            )
            proposed = replace(proposed, cost=proposed.cost + Cost(forward=len(data)))
            checkpoints.save(listed, proposed, ranks)
        else:
            listed, proposed = loaded
        changed = proposed.indices[~proposed.kept]
        attack = simulated_attack(healed, plain, changed, listed.kind, clean=unseen, amp=amp, seed=seed, ranks=ranks)
        until = time.perf_counter()
        tuned = finetune(
            healed,
            data,
            proposed.indices,
            proposed.labels,
            found=listed.found[listed.fits] if listed.fits.any() else listed.indices,
            attack=attack if isinstance(attack, SimulatedAttack) else None,
            plain_set=plain,
            validation=validation,
            loss=loss,
            amp=amp,
            compiled=compiled,
            seed=seed,
            max_damage=max_damage,
            checkpoint=checkpoints.finetuning,
            resume=resume,
            process_group=process_group,
            progress=progress,
            inplace=True,
        )
        estimate = attack.estimate(healed, amp=amp, ranks=ranks) if isinstance(attack, SimulatedAttack) else attack
    checkpoints.remove(ranks)
    seconds = {"suspects and labels": until - started, "fine-tuning": tuned.seconds}
    given_back = model if inplace and isinstance(model, nn.Module) else healed
    result = HealResult(given_back, listed, proposed, tuned, estimate, len(data), seconds)
    for text in (result.attack_warning, result.unmeasured_warning):
        if text is not None:
            warn_caller(text)
    return result


def _members(found: Iterable[int] | Tensor | None, given: Suspects | None, samples: int) -> Tensor:
    """S_f, int64 [F]; empty where there are suspects alone."""
    if found is not None:
        return check_indices(found, samples, "found")
    if given is None:
        raise DataError(
            "found is missing: name the poisoned samples that were found, one or more; where none were, give "
            "potion_fast.suspects(model, train_set) as suspects"
        )
    return torch.empty(0, dtype=torch.int64)


def _tensors(given: Suspects | None) -> list[Tensor]:
    """What tells the caller's own suspects apart."""
    return [] if given is None else [part for part in (given.indices, given.proposed) if part is not None]


def _suspects(given: Suspects | None, features: Features, data: TrainingData, found: Tensor, rate: float) -> Suspects:
    """The suspects: those that the features and inputs tell, or the caller's own."""
    if given is not None:
        listed = replace(given.checked(features.labels), found=found, fits=torch.isin(found, given.indices))
        return (
            replace(listed, kind=regularity(features, found if len(found) else listed.indices).kind)
            if listed.kind == GIVEN
            else listed
        )
    listed = suspects_from(features, found, rate=rate, data=data)
    if len(listed):
        return listed
    text = "none of the found samples stands out from the others of its label; they alone get other labels"
    warn_caller(text)
    alone = Suspects.of_indices(found, labels=features.labels, found=found)
    return replace(alone, kind=listed.kind, why=listed.why, warnings=(*listed.warnings, text))
