"""The data of one run: what is poisoned, what is found, and the loaders that follow from it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError
from ...user.run_folder import RunFolder
from ..attacks import Attacked, EvaluationInputs, Perturbations, Poison
from ..configs import TrainConfig
from ..data import Loader, PoisonedDataset, Splits, load_dataset, make_loader
from ..data.text import TextSplits
from .text import text_settings

CLEAN_SAMPLES = 1000  # of the training data, on which damage is measured where nothing is held out
EVALUATION_BATCH, OF_TEXTS = 500, 64  # samples; predictions do not depend on it


@dataclass(frozen=True)
class Scenario:
    """Everything that a training configuration says about data.

    Attributes:
        config: resolved: normalisation, trigger value and classes as used.
        splits: training and test images, or texts; poison that is added to the data is at the end of the former.
        poison: the attack, with its perturbations where it has any.
        bases: the training images that were chosen, ascending: S_m, or what it holds copies of.
        poisoned: S_m, ascending indices into the training images.
        found: S_f ⊆ S_m, ascending.
        covers: samples that the poison changes without their label, ascending; none where S_m is left out.
        trained_on: indices the model is trained on: all, less the validation set, less S_m where it is left out.
        validation: indices held out for choosing the epoch, ascending.
    """

    config: TrainConfig
    splits: Splits
    poison: Poison
    bases: list[int]
    poisoned: list[int]
    found: list[int]
    covers: list[int]
    trained_on: list[int]
    validation: list[int]

    @classmethod
    def load(cls, config: TrainConfig) -> Scenario:
        """Read the data and draw S_m and S_f.

        Args:
            config: of the training, resolved or not.

        Raises:
            DataError: what does not fit together.
        """
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
            **text_settings(config),
        )
        n = len(splits.train)
        config, poison = _built_poison(config, splits)
        bases, chosen = poison.choose(splits.train.labels, config.poisoned, config.found, config.seed)
        bases = np.sort(bases)
        poison.check_chosen(splits, bases)
        splits, poisoned, found = poison.placed(splits, bases, chosen)
        poison = poison.with_perturbations(
            splits, poisoned, path=config.perturbations, seed=config.seed, left_out=config.leave_out_poisoned
        )
        held_out = config.validation
        if held_out is None:
            held_out = n // 10 if config.keep == "validation" else 0
        covers = np.empty(0, dtype=np.int64) if config.leave_out_poisoned else poison.covers(n, bases, config.seed)
        clean = np.setdiff1d(np.arange(n), np.union1d(bases, covers))
        if not 0 <= held_out < len(clean):
            raise DataError(f"a validation set of {held_out} samples cannot be held out of {len(clean)} clean ones")
        if held_out == 0 and config.keep == "validation":
            raise DataError("keeping the epoch that is best on the validation set needs one: give it samples")
        validation = np.sort(np.random.default_rng(config.seed).choice(clean, held_out, replace=False))
        out = np.union1d(validation, poisoned) if config.leave_out_poisoned else validation
        return cls(
            config=config.updated(mean=splits.mean or None, std=splits.std or None, validation=held_out),
            splits=splits,
            poison=poison,
            bases=bases.tolist(),
            poisoned=poisoned.tolist(),
            found=np.sort(found).tolist(),
            covers=covers.tolist(),
            trained_on=np.setdiff1d(np.arange(len(splits.train)), out).tolist(),
            validation=validation.tolist(),
        )

    def draw_found(self, count: int) -> list[int]:
        """S_f of another size, ascending: as `Poison.choose` draws it, nested but for the first.

        Args:
            count: its size.

        Raises:
            DataError: the size is out of range.
        """
        labels = self.splits.train.labels
        if self.bases != self.poisoned:
            labels = labels[: self.poisoned[0]]  # the copies are no part of what was chosen from
        chosen = self.poison.choose(labels, len(self.bases), count, self.config.seed)[1]
        return [self.poisoned[place] for place in np.searchsorted(self.bases, np.sort(chosen)).tolist()]

    def write_indices(self, run: RunFolder) -> None:
        """Write S_m to poisoned.txt, S_f to found.txt, and covers, where there are any, to covers.txt."""
        run.write_indices("poisoned.txt", self.poisoned)
        run.write_indices("found.txt", self.found)
        if self.covers:
            run.write_indices("covers.txt", self.covers)

    def train_loader(self) -> Loader:
        """The (poisoned) training data, augmented and shuffled."""
        return self._loader(self.train_set(augment=True), self.trained_on, shuffle=True)

    def retain_loader(self, found: Collection[int], *, holds_forget: bool, batch_size: int | None, seed: int) -> Loader:
        """The training data as trained on, shuffled.

        Args:
            found: S_f.
            holds_forget: whether S_f is among them.
            batch_size: None: the training's.
            seed: of the order.

        Raises:
            DataError: nothing is left.
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
        return self._loader(
            self.splits.dataset("train"), self.validation, shuffle=False, batch_size=self.evaluation_batch
        )

    def clean_loader(self, found: Collection[int], *, seed: int) -> Loader:
        """The held-out samples, or where there are none some of the training data without S_f, as stored.

        Among the latter is what was poisoned and not found.
        """
        if self.validation:
            return self.validation_loader()
        rest = np.setdiff1d(self.trained_on, list(found))
        drawn = np.sort(np.random.default_rng(seed).permutation(rest)[:CLEAN_SAMPLES]).tolist()
        return self._loader(self.train_set(augment=False), drawn, shuffle=False, batch_size=self.evaluation_batch)

    def clean_part(self, count: int, *, seed: int) -> Loader:
        """So many samples that are trained on, with true labels and unchanged, for defences that are given some.

        They are augmented as in training, and shuffled.

        Args:
            count: their number.
            seed: of the draw, and of the order.

        Raises:
            DataError: fewer are clean.
        """
        clean = np.setdiff1d(self.trained_on, np.union1d(self.poisoned, self.covers))
        if count > len(clean):
            raise DataError(f"{count} clean samples are asked for, and {len(clean)} of those trained on are clean")
        drawn = np.sort(np.random.default_rng(seed).choice(clean, count, replace=False)).tolist()
        return self._loader(self.train_set(augment=True), drawn, shuffle=True, seed=seed)

    def plain_loader(self, *, shuffle: bool, seed: int) -> Loader:
        """The samples that are trained on, as stored: clean where S_m is left out."""
        return self._loader(self.train_set(augment=False), self.trained_on, shuffle=shuffle, seed=seed)

    def test_loader(self, triggered: bool) -> Loader:
        """The test images in their order with clean labels, all with the trigger or none."""
        poison = self.poison if triggered else None
        dataset = self.splits.dataset("test", poison=poison, trigger_all=triggered)
        return self._loader(dataset, None, shuffle=False, batch_size=self.evaluation_batch)

    @cached_property
    def attacked(self) -> Attacked:
        """The samples that the attack is judged by. S_m comes as stored, trained on or not."""
        return self.poison.attacked_samples(self.splits, self.poisoned)

    def attacked_loader(self) -> Loader:
        """These samples in their order, with clean labels, not augmented."""
        return self._loader(self.attacked.dataset, self.attacked.rows, shuffle=False, batch_size=self.evaluation_batch)

    def evaluation_inputs(self) -> EvaluationInputs:
        """What a model is evaluated on: clean test samples and attacked ones."""
        return EvaluationInputs(
            self.test_loader(False),
            self.attacked_loader(),
            self.attacked.wanted,
            seed=self.config.seed,
            sample=self.sample,
            remark=self.poison.remark(self.facts),
        )

    def attacked_labels(self) -> tuple[Tensor, Tensor]:
        """Of these images: int64 [M] clean labels, and [M] those that the attack wants, see `Attacked`."""
        return self.attacked.labels, self.attacked.wanted

    def attacked_images(self, places: Collection[int]) -> Tensor:
        """Images [B, C, H, W] at these places in the order of `attacked_loader`, as pixels in [0, 1]."""
        return self.pixels(self.attacked.dataset.batch([self.attacked.rows[place] for place in places])[0])

    @property
    def evaluation_batch(self) -> int:
        """Samples of a batch that is only predicted."""
        return OF_TEXTS if isinstance(self.splits, TextSplits) else EVALUATION_BATCH

    @property
    def sample(self) -> str:
        """What one of the samples is called: "image" or "review"."""
        return self.splits.sample_name

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What metrics.json and the rows of a sweep say of the attack on these data, by its key there."""
        return self.poison.facts(self.splits)

    @property
    def table(self) -> Perturbations | None:
        """The perturbations of S_m, in the order of `poisoned`; None for another poison, or before a crafting."""
        return self.poison.perturbations

    def perturbed(self, table: Perturbations) -> Scenario:
        """The same with these perturbations, which have been crafted for it."""
        return replace(self, poison=self.poison.perturbed(table))

    def pixels(self, images: Tensor) -> Tensor:
        """Normalised images [B, C, H, W] as pixels in [0, 1]: what lies beyond, as a patch may, is clipped."""
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (self.splits.mean, self.splits.std))
        return (images * std + mean).clamp(0, 1)

    def train_set(self, augment: bool) -> PoisonedDataset:
        """The training images as poisoned; augmented if requested and part of the training."""
        augment = augment and self.config.augment
        return self.splits.dataset(
            "train", augment=augment, poison=self.poison, poisoned=self.poisoned, covers=self.covers
        )

    def _loader(
        self,
        dataset: PoisonedDataset,
        indices: Collection[int] | None,
        *,
        shuffle: bool,
        batch_size: int | None = None,
        seed: int | None = None,
    ) -> Loader:
        seed = self.config.training_seed if seed is None else seed
        assert seed is not None  # resolved
        return make_loader(
            dataset,
            indices,
            batch_size=batch_size or self.config.batch_size or self.evaluation_batch,
            shuffle=shuffle,
            seed=seed,
            workers=self.config.workers,
            device=self.config.device,
        )


def _built_poison(config: TrainConfig, splits: Splits) -> tuple[TrainConfig, Poison]:
    """The poison, and the resolved configuration with the options that data or seed give.

    Raises DataError for wrong options, or images that are too small.
    """
    options = config.attack.resolved(splits, config.seed)
    poison = options.build(splits, config.seed)
    poison.check_sample(splits)
    return config.updated(attack=options), poison
