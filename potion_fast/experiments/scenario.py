"""The data of one experiment: what was poisoned, what was found, and the loaders that follow from it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..data import Loader, PoisonedDataset, Splits, load_dataset, make_loader, max_value
from ..errors import DataError
from ..poisons import InterclassSwap, Poison, make_poison, options_of
from .config import POISON_OPTIONS, TrainConfig

EVALUATION_BATCH = 500  # samples; predictions do not depend on it


@dataclass(frozen=True)
class Scenario:
    """Everything that a training configuration says about data.

    config      resolved: normalisation and trigger value as used
    splits      training and test images
    poison      the attack
    poisoned    S_m, ascending indices into the training images
    found       S_f ⊆ S_m, ascending
    trained_on  indices the model is trained on: all, less the validation set, less S_m where it is left out
    validation  indices held out for choosing the epoch, ascending
    """

    config: TrainConfig
    splits: Splits
    poison: Poison
    poisoned: list[int]
    found: list[int]
    trained_on: list[int]
    validation: list[int]

    @classmethod
    def load(cls, config: TrainConfig) -> Scenario:
        """Read the data and draw S_m and S_f. Raises DataError for what does not fit together."""
        config = config.resolved()
        splits = load_dataset(
            config.data,
            config.root,
            train_size=config.train_size,
            seed=config.seed,
            image_size=config.image_size,
            mean=config.mean,
            std=config.std,
            model=config.model,
        )
        n = len(splits.train)
        _check_target(config.target, splits)
        if config.trigger_value is None and "value" in options_of(config.poison):
            config = replace(config, trigger_value=max_value(splits.train, splits.mean, splits.std))
        poison = _make_poison(config, splits)
        poisoned, found = poison.choose(splits.train.labels, config.poisoned, config.found, config.seed)
        if poison.target is None:
            _check_swap(poison, splits, np.sort(poisoned))
        held_out = config.validation
        if held_out is None:
            held_out = n // 10 if config.keep == "validation" else 0
        clean = np.setdiff1d(np.arange(n), poisoned)
        if not 0 <= held_out < len(clean):
            raise DataError(f"a validation set of {held_out} samples cannot be held out of {len(clean)} clean ones")
        if held_out == 0 and config.keep == "validation":
            raise DataError("keeping the epoch that is best on the validation set needs one: give it samples")
        validation = np.sort(np.random.default_rng(config.seed).choice(clean, held_out, replace=False))
        out = np.union1d(validation, poisoned) if config.leave_out_poisoned else validation
        return cls(
            config=replace(config, mean=splits.mean, std=splits.std, validation=held_out),
            splits=splits,
            poison=poison,
            poisoned=np.sort(poisoned).tolist(),
            found=np.sort(found).tolist(),
            trained_on=np.setdiff1d(np.arange(n), out).tolist(),
            validation=validation.tolist(),
        )

    def train_loader(self) -> Loader:
        """The (poisoned) training data, augmented and shuffled."""
        return self._loader(self.train_set(augment=True), self.trained_on, shuffle=True)

    def retain_loader(self, found: Collection[int], *, holds_forget: bool, batch_size: int | None, seed: int) -> Loader:
        """The training data as trained on, shuffled, without S_f or, where `holds_forget`, with it.

        Raises DataError where nothing is left.
        """
        indices = self.trained_on if holds_forget else sorted(set(self.trained_on) - set(found))
        if not indices:
            raise DataError("the forget set holds all of the training data; nothing is left to retain")
        return self._loader(self.train_set(augment=True), indices, shuffle=True, batch_size=batch_size, seed=seed)

    def forget_loader(self, found: Collection[int], *, augment: bool, batch_size: int | None) -> Loader:
        """S_f with trigger and poison label, augmented as in training or as stored."""
        return self._loader(self.train_set(augment=augment), found, shuffle=False, batch_size=batch_size)

    def validation_loader(self) -> Loader:
        """The held-out samples, clean."""
        return self._loader(self.splits.dataset("train"), self.validation, shuffle=False, batch_size=EVALUATION_BATCH)

    def test_loader(self, triggered: bool) -> Loader:
        """The test images in their order with clean labels, all with the trigger or none."""
        poison = self.poison if triggered else None
        dataset = self.splits.dataset("test", poison=poison, trigger_all=triggered)
        return self._loader(dataset, None, shuffle=False, batch_size=EVALUATION_BATCH)

    def attacked_loader(self) -> Loader:
        """The images that the attack is judged by, with clean labels: triggered test images, or of a swap all of S_m.

        S_m comes as stored: ascending, not augmented, whether the model was trained on it or not.
        """
        if self.poison.target is not None:
            return self.test_loader(True)
        return self._loader(self.splits.dataset("train"), self.poisoned, shuffle=False, batch_size=EVALUATION_BATCH)

    def attacked_labels(self) -> tuple[Tensor, Tensor]:
        """Of the images of `attacked_loader`: int64 [M] clean labels, and [M] those that the attack wants."""
        if self.poison.target is not None:
            labels = self.splits.test.labels
            return labels, torch.full_like(labels, self.poison.target)
        rows = torch.tensor(self.poisoned)
        return self.splits.train.labels[rows], self.train_set(augment=False).labels[rows]

    def attacked_images(self, places: Collection[int]) -> Tensor:
        """Images [B, C, H, W] at these places in the order of `attacked_loader`, as pixels in [0, 1]."""
        if self.poison.target is not None:
            dataset, rows = self.splits.dataset("test", poison=self.poison, trigger_all=True), list(places)
        else:
            dataset, rows = self.splits.dataset("train"), [self.poisoned[place] for place in places]
        return self.pixels(dataset.batch(rows)[0])

    def pixels(self, images: Tensor) -> Tensor:
        """Normalised images [B, C, H, W] as pixels in [0, 1]: what lies beyond, as a patch may, is clipped."""
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (self.splits.mean, self.splits.std))
        return (images * std + mean).clamp(0, 1)

    def swapped_pair(self) -> tuple[int, ...] | None:
        """The two classes whose labels were swapped; None for another attack."""
        return self.poison.classes if isinstance(self.poison, InterclassSwap) else None

    def train_set(self, augment: bool) -> PoisonedDataset:
        """The training images, with S_m poisoned."""
        return self.splits.dataset("train", augment=augment, poison=self.poison, poisoned=self.poisoned)

    def _loader(
        self,
        dataset: PoisonedDataset,
        indices: Collection[int] | None,
        *,
        shuffle: bool,
        batch_size: int | None = None,
        seed: int | None = None,
    ) -> Loader:
        return make_loader(
            dataset,
            indices,
            batch_size=batch_size or self.config.batch_size or EVALUATION_BATCH,
            shuffle=shuffle,
            seed=self.config.seed if seed is None else seed,
            workers=self.config.workers,
            device=self.config.device,
        )


def _check_target(target: int | None, splits: Splits) -> None:
    if target is None:
        return
    if target >= len(splits.classes):
        raise DataError(f"target {target} is out of range; the data has {len(splits.classes)} classes")
    if (splits.test.labels == target).all():
        raise DataError(f"all test images are of the target class {target}: an attack cannot be measured")


def _make_poison(config: TrainConfig, splits: Splits) -> Poison:
    """The poison of a resolved configuration. Raises DataError for wrong options, or images that are too small."""
    known = options_of(config.poison)
    told = {option: getattr(config, name) for name, option in POISON_OPTIONS.items()}
    told |= {"mean": splits.mean, "std": splits.std, "seed": config.seed}
    poison = make_poison(config.poison, **{option: value for option, value in told.items() if option in known})
    poison(torch.zeros(1, splits.channels, *splits.size), torch.zeros(1, dtype=torch.int64))
    return poison


def _check_swap(
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
