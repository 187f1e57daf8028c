"""What an attack does to the data of an experiment: its options, whom it poisons, and the samples it is judged by."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError
from ..attacks import (
    Gaussian,
    GradientCanceling,
    GradientMatching,
    InterclassSwap,
    Perturbation,
    Perturbations,
    Poison,
    TriggerWord,
    attack_named,
    read_options,
)
from ..configs import TrainConfig
from ..data import AppendedSource, PoisonedDataset, Splits
from ..data.text import TextSplits

NO_LABEL = -1
BASES = "bases"  # entry of a table's facts: the samples that perturbed copies are of


@dataclass(frozen=True)
class Attacked:
    """The images, or texts, that an attack is judged by.

    dataset, rows  [M] positions in it
    labels         int64 [M], clean
    wanted         int64 [M], the labels that the attack wants; NO_LABEL where any wrong one, or none, will do
    """

    dataset: PoisonedDataset
    rows: list[int]
    labels: Tensor
    wanted: Tensor


def made_poison(config: TrainConfig, splits: Splits) -> tuple[TrainConfig, Poison]:
    """The poison, and the resolved configuration with the options that data or seed give.

    Raises DataError for wrong options, or images that are too small.
    """
    attack = attack_named(config.poison)
    names = [name for name in attack.Options.model_fields if name != "poison"]
    options = read_options(attack.Options, {name: getattr(config, name) for name in names})
    options = options.resolved(splits, config.seed)
    poison = options.build(splits, config.seed)
    config = replace(config, **{name: getattr(options, name) for name in names})
    if not isinstance(poison, Perturbation):  # that needs a table for every image
        poison(splits.sample(), torch.zeros(1, dtype=torch.int64))
    return config, poison


def placed(
    poison: Poison,
    splits: Splits,
    bases: np.ndarray,  # [P] ascending
    found: np.ndarray,  # [F] of bases
) -> tuple[Splits, np.ndarray, np.ndarray]:  # [P], [F]
    """The data with S_m and S_f in it: the chosen samples, or copies of them where poison is added to the data."""
    if not (isinstance(poison, GradientCanceling) and poison.placement == "append"):
        return splits, bases, found
    n = len(splits.train)
    added = replace(splits, train=AppendedSource(splits.train, bases))
    return added, n + np.arange(len(bases)), n + np.searchsorted(bases, found)


def with_table(
    poison: Poison,
    config: TrainConfig,
    splits: Splits,
    poisoned: np.ndarray,  # [P] ascending
) -> Poison:
    """The poison with its perturbations: those of the file, or drawn. A crafted one without S_m needs none.

    Raises FileError, and DataError for perturbations of other data, or none.
    """
    if not isinstance(poison, Perturbation):
        return poison
    if config.perturbations is not None:
        table = Perturbations.load(config.perturbations)
        try:
            _check_table(table, poison, splits, poisoned)
        except DataError as error:
            raise DataError(f"{config.perturbations} {error}") from error
    elif isinstance(poison, Gaussian):
        shape, tokens = splits.sample().shape[1:], isinstance(splits, TextSplits)
        table = poison.draw(poisoned.tolist(), shape, config.seed, tokens=tokens)
    elif config.leave_out_poisoned:
        return poison
    else:
        raise DataError(
            f"the poison {config.poison!r} needs perturbations: train with --leave-out-poisoned, craft them against "
            "that model (potion-fast craft), and give their file (--perturbations)"
        )
    return replace(poison, table=table)


def attacked_by(
    poison: Poison,
    splits: Splits,
    poisoned: list[int],  # ascending
) -> Attacked:
    """By kind: triggered test images, S_m without its poison, the targets, or the test images as they are.

    The targets of a trigger word are the test reviews in which the model sees it, see `TriggerWord.seen`.
    Without perturbations, and so without targets, a targeted attack is judged by all test images of their class.
    """
    train, test = splits.train.labels, splits.test.labels
    everything = list(range(len(test)))
    if poison.target is not None:
        triggered = splits.dataset("test", poison=poison, trigger_all=True)
        return Attacked(triggered, everything, test, torch.full_like(test, poison.target))
    if poison.kind in ("swap", "gaussian"):
        labels = train[torch.tensor(poisoned)]
        wanted = poison.relabel(labels) if poison.kind == "swap" else torch.full_like(labels, NO_LABEL)
        return Attacked(splits.dataset("train"), poisoned, labels, wanted)
    if isinstance(poison, TriggerWord):
        rows = poison.seen(splits, "test")
        return Attacked(splits.dataset("test"), rows.tolist(), test[rows], poison.relabel(test[rows]))
    if isinstance(poison, GradientMatching):
        if poison.table is not None:
            rows, wanted = poison.table.targets, poison.table.intended
        else:
            assert poison.target_class is not None and poison.intended_class is not None  # see `made_poison`
            rows = (test == poison.target_class).nonzero().squeeze(1)
            wanted = torch.full_like(rows, poison.intended_class)
        return Attacked(splits.dataset("test"), rows.tolist(), test[rows], wanted)
    return Attacked(splits.dataset("test"), everything, test, torch.full_like(test, NO_LABEL))


def check_swap(
    poison: Poison,
    splits: Splits,
    poisoned: np.ndarray,  # ascending
) -> None:
    """Raise DataError for swapped labels that change nothing or that no test image can show."""
    labels = splits.train.labels[poisoned]
    if torch.equal(poison.relabel(labels), labels):
        raise DataError(f"the labels of all {len(labels)} manipulated samples stay what they are; draw more of them")
    if isinstance(poison, InterclassSwap):
        first, second = poison.classes
        if not ((splits.test.labels == first) | (splits.test.labels == second)).any():
            raise DataError(f"there is no test image of the classes {first} and {second}: nothing can be measured")


def _check_table(table: Perturbations, poison: Perturbation, splits: Splits, poisoned: np.ndarray) -> None:
    """Raise DataError, which goes on after the name of a file, for a table that is not this poison's."""
    same = table.ids.tolist() == poisoned.tolist()
    if isinstance(splits.train, AppendedSource):  # the ids of copies do not tell what they are copies of
        same = same and table.facts.get(BASES) == splits.train.bases.tolist()
    if not same:
        raise DataError(f"perturbs other samples than the {len(poisoned)} poisoned ones: take the same data and seed")
    shape = list(splits.sample().shape[1:])
    if list(table.values.shape[1:]) != shape:
        raise DataError(f"perturbs images of {list(table.values.shape[1:])}, and those of the data are {shape}")
    if isinstance(poison, Gaussian) and table.facts.get("variance") != poison.variance:
        raise DataError(f"holds noise of variance {table.facts.get('variance')}, not {poison.variance}")
    if isinstance(poison, (GradientMatching, GradientCanceling)) and poison.epsilon is not None:
        largest = torch.maximum(table.values.amax((0, 2, 3)), -table.values.amin((0, 2, 3)))  # [C]
        change = 255 * (largest * torch.tensor(splits.std)).max().item()
        if change > poison.epsilon * (1 + 1e-4):
            raise DataError(f"changes a pixel by {change:.2f} of 255, and epsilon is {poison.epsilon:g}")
    if isinstance(poison, GradientMatching):
        labels = splits.test.labels
        if not len(table.targets) or table.targets.max() >= len(labels):
            raise DataError(f"aims at no test image, or at one past the {len(labels)} that there are")
        given = set(labels[table.targets].tolist()), set(table.intended.tolist())
        if given != ({poison.target_class}, {poison.intended_class}):
            raise DataError(f"does not want class {poison.target_class} to be taken for {poison.intended_class}")
