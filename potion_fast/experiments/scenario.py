"""The data of one experiment: what was poisoned, what was found, and the loaders that follow from it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..data import PoisonedDataset, Splits, load_dataset, make_loader, max_value
from ..errors import DataError
from ..poisons import Poison, choose_poisoned, make_poison
from .config import TrainConfig

Loader = DataLoader[tuple[Tensor, Tensor]]

EVALUATION_BATCH = 500  # samples; predictions do not depend on it


@dataclass(frozen=True)
class Scenario:
    """Everything that a training configuration says about data.

    config      resolved: normalisation and trigger value as used
    splits      training and test images
    poison      the trigger
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
        )
        n = len(splits.train)
        if config.target >= len(splits.classes):
            raise DataError(f"target {config.target} is out of range; the data has {len(splits.classes)} classes")
        if (splits.test.labels == config.target).all():
            raise DataError(f"all test images are of the target class {config.target}: an attack cannot be measured")
        value = config.trigger_value
        if value is None:
            value = max_value(splits.train, splits.mean, splits.std)
        poison = make_poison(
            config.poison, value=value, size=config.patch_size, corner=config.corner, target=config.target
        )
        poison(torch.zeros(1, splits.channels, *splits.size))  # raises where the trigger does not fit the images
        poisoned, found = choose_poisoned(n, config.poisoned, config.found, config.seed)
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
            config=replace(config, mean=splits.mean, std=splits.std, trigger_value=value, validation=held_out),
            splits=splits,
            poison=poison,
            poisoned=np.sort(poisoned).tolist(),
            found=np.sort(found).tolist(),
            trained_on=np.setdiff1d(np.arange(n), out).tolist(),
            validation=validation.tolist(),
        )

    def train_loader(self) -> Loader:
        """The (poisoned) training data, augmented and shuffled."""
        return self._loader(self._train_set(augment=True), self.trained_on, shuffle=True)

    def retain_loader(self, found: Collection[int], *, holds_forget: bool, batch_size: int | None, seed: int) -> Loader:
        """The training data as trained on, shuffled, without S_f or, where `holds_forget`, with it.

        Raises DataError where nothing is left.
        """
        indices = self.trained_on if holds_forget else sorted(set(self.trained_on) - set(found))
        if not indices:
            raise DataError("the forget set holds all of the training data; nothing is left to retain")
        return self._loader(self._train_set(augment=True), indices, shuffle=True, batch_size=batch_size, seed=seed)

    def forget_loader(self, found: Collection[int], *, augment: bool, batch_size: int | None) -> Loader:
        """S_f with trigger and poison label, augmented as in training or as stored."""
        return self._loader(self._train_set(augment=augment), found, shuffle=False, batch_size=batch_size)

    def validation_loader(self) -> Loader:
        """The held-out samples, clean."""
        return self._loader(self.splits.dataset("train"), self.validation, shuffle=False, batch_size=EVALUATION_BATCH)

    def test_loader(self, triggered: bool) -> Loader:
        """The test images in their order with clean labels, all with the trigger or none."""
        poison = self.poison if triggered else None
        dataset = self.splits.dataset("test", poison=poison, trigger_all=triggered)
        return self._loader(dataset, None, shuffle=False, batch_size=EVALUATION_BATCH)

    def triggered_test_images(self, indices: Collection[int]) -> tuple[Tensor, Tensor]:
        """Triggered test images as pixels in [0, 1], [B, C, H, W], and their clean labels, [B]."""
        dataset = self.splits.dataset("test", poison=self.poison, trigger_all=True)
        images, labels = dataset.batch(list(indices))
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (self.splits.mean, self.splits.std))
        return (images * std + mean).clamp(0, 1), labels

    def _train_set(self, augment: bool) -> PoisonedDataset:
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
        )
