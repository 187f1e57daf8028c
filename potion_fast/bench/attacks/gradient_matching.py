"""Gradient matching: a targeted attack with right labels (Geiping et al., *Witches' Brew*, 2021)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import nn
from typing_extensions import override

from ...errors import DataError
from ...utils.predict import predict
from .crafting.gradient_matching import gradient_matching
from .crafting.job import CraftJob, CraftResult, loss_metrics
from .evaluation import Attacked, Scores
from .kinds import Targeted
from .options import AttackOptions, CraftOptions, option
from .perturbation import Perturbation, Perturbations, check_epsilon
from .registry import register_attack
from .selection import choose_from_class

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..data import Loader, Splits


@register_attack("gradient-matching")
@dataclass(frozen=True, kw_only=True)
class GradientMatching(Targeted, Perturbation):
    """Small perturbations of images of one class, crafted so that a test image of another is taken for theirs.

    Attributes:
        epsilon: largest change of a pixel's value, of 255.
        target_class: true label of the test images that the attack aims at; None: drawn.
        intended_class: label that it wants for them, and the class that is poisoned; None: drawn.
        targets: number of such test images.

    Raises:
        DataError: a value out of range, or one class for both; see also `Perturbation`.
    """

    class Options(AttackOptions):
        """Options of gradient matching."""

        poison: Literal["gradient-matching"] = "gradient-matching"
        epsilon: float = option(16.0, "largest change of a pixel", metavar="OF_255", gt=0)
        target_class: int | None = option(
            None,
            "true label of the test image that it aims at, counted from 0",
            metavar="CLASS",
            default_text="drawn by the seed",
            ge=0,
        )
        intended_class: int | None = option(
            None,
            "label that it wants for that image, and that the poisoned samples have",
            metavar="CLASS",
            default_text="drawn by the seed",
            ge=0,
        )

        def resolved(self, splits: Splits, seed: int) -> Self:
            """With both classes, of which those that were not given are drawn."""
            target, intended = self.build(splits, seed).classes(splits.train.labels, seed)
            if not (splits.test.labels == target).any():
                raise DataError(f"there is no test image of the target's class {target}; choose another one")
            return self.model_copy(update={"target_class": target, "intended_class": intended})

        def build(self, splits: Splits, seed: int) -> GradientMatching:
            """The attack with these options; its perturbations are crafted."""
            return GradientMatching(**self.model_dump(exclude={"poison"}))

    class Crafting(CraftOptions):
        """Settings of its crafting: those of its authors."""

        steps: int = option(250, "of the optimiser, each over all poisoned samples", metavar="N", ge=1)
        optimizer: Literal["sign-adam", "adam"] = option("sign-adam", "of the perturbations")
        lr: float | None = option(
            None,
            "learning rate, in units of the normalised image",
            metavar="X",
            default_text="0.1 * batch / 512 for sign-adam and 0.1 for adam",
            gt=0,
        )
        batch_size: int = option(512, "poisoned samples on the device at a time", metavar="N", ge=1)
        restarts: int = option(8, "random starts, of which the best is kept", metavar="N", ge=1)
        over: Literal["batch", "all"] = option(
            "batch", "what is matched, each batch of poisoned samples by itself or all of them together"
        )
        shift: int | None = option(
            None,
            "of its augmentation, at most so far each way; 0: no augmentation, no flips",
            metavar="PIXELS",
            default_text="a quarter of the image's shorter side",
            ge=0,
        )

    epsilon: float = 16.0
    target_class: int | None = None
    intended_class: int | None = None
    targets: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < math.inf or self.targets < 1:
            raise DataError(f"needs epsilon > 0 and targets >= 1; got {self.epsilon} and {self.targets}")
        if self.target_class is not None and self.target_class == self.intended_class:
            raise DataError(f"the target's class and the intended one must differ, not both be {self.target_class}")

    def classes(
        self,
        labels: torch.Tensor,  # [N] int64, of the whole training set
        seed: int,
    ) -> tuple[int, int]:
        """The target's class and the intended one, different; those that were not given are drawn, uniformly.

        Args:
            labels: of the whole training set.
            seed: of the draws.

        Raises:
            DataError: a given class that no sample has, or fewer than two classes.
        """
        present = labels.unique().numpy()
        given = [label for label in (self.target_class, self.intended_class) if label is not None]
        for label in given:
            if label not in present:
                raise DataError(f"no training sample has the label {label}; choose another class for the attack")
        if len(present) < 2:
            raise DataError("a targeted attack needs two classes, the target's and the intended one")
        drawn = (int(label) for label in np.random.default_rng(seed).permutation(present) if label not in given)
        target = next(drawn) if self.target_class is None else self.target_class
        return target, next(drawn) if self.intended_class is None else self.intended_class

    @override
    def choose(
        self,
        labels: torch.Tensor,  # [N]
        count: int,
        found: int,
        seed: int,
    ) -> tuple[np.ndarray, np.ndarray]:  # [count] int64, [found] int64
        """Choose S_m uniformly from the intended class, S_f uniformly from S_m; sets of one seed are nested.

        Raises:
            DataError: the class has too few samples, or S_f is no part of S_m.
        """
        return choose_from_class(labels, self.classes(labels, seed)[1], count, found, seed)

    def attacked_samples(
        self,
        splits: Splits,
        poisoned: list[int],  # ascending
    ) -> Attacked:
        """The targets; without perturbations, and so without targets, all test images of their class."""
        test = splits.test.labels
        if self.table is not None:
            rows, wanted = self.table.targets, self.table.intended
        else:
            assert self.target_class is not None and self.intended_class is not None  # resolved
            rows = (test == self.target_class).nonzero().squeeze(1)
            wanted = torch.full_like(rows, self.intended_class)
        return Attacked(splits.dataset("test"), rows.tolist(), test[rows], wanted)

    @classmethod
    def reference_scores(cls, table: Perturbations, predictions: Callable[[], Mapping[int, tuple[int, int]]]) -> Scores:
        """The scores on the targets, which are known only once perturbations are crafted against the reference."""
        predicted, targets = predictions(), list(zip(table.targets.tolist(), table.intended.tolist(), strict=True))
        right, reached = cls.score_names
        return {
            right: sum(predicted[target][0] == predicted[target][1] for target, _ in targets) / len(targets),
            reached: sum(intended == predicted[target][1] for target, intended in targets) / len(targets),
        }

    def crafting_targets(self, model: nn.Module, attacked: Attacked, loader: Loader, seed: int) -> list[int]:
        """Test images of the target's class that the clean model gets right: the first in an order of the seed."""
        images = attacked.rows
        logits, labels = predict(model, loader)
        right = (logits.argmax(1) == labels).tolist()
        order = np.random.default_rng(seed).permutation(len(images)).tolist()
        chosen = [images[place] for place in order if right[place]][: self.targets]
        if len(chosen) < self.targets:
            raise DataError(
                f"the model gets {len(chosen)} of the {len(images)} test images of the target's class "
                f"{self.target_class} right, and {self.targets} are to be attacked; train it longer or choose another"
            )
        return chosen

    def craft(self, job: CraftJob) -> CraftResult:
        """Gradient matching."""
        settings, targets = job.settings, job.targets
        assert isinstance(settings, self.Crafting) and self.intended_class is not None
        images = job.splits.dataset("test").batch(targets)[0]
        intended = torch.full((len(targets),), self.intended_class)
        crafted = gradient_matching(
            job.model,
            job.reader(),
            job.labels,
            images,
            intended,
            epsilon=self.epsilon / 255,
            mean=job.splits.mean,
            std=job.splits.std,
            augment=settings.shift != 0,
            flip=job.splits.flip,
            seed=job.seed,
            checkpoint=job.checkpoint,
            progress=job.progress,
            **settings.model_dump(),
        )
        before, after = crafted.facts["unperturbed_loss"], crafted.facts["final_losses"][crafted.kept]
        aims = "1 target" if len(targets) == 1 else f"{len(targets)} targets"
        where = f"1 - cosine of the gradients of {len(job.poisoned)} poisons and {aims}"
        metrics = loss_metrics(before, after, len(job.poisoned), where)
        notes = [] if after < before else ["the perturbations match the targets no better than none: try more steps"]
        return CraftResult(crafted, metrics, notes, targets=torch.tensor(targets), intended=intended)

    def crafting_aim(self, attacked: Attacked, count: int, names: Sequence[str]) -> str:
        """What its perturbations are crafted for, above their picture."""
        target, wanted = names[int(attacked.labels[0])], names[int(attacked.wanted[0])]
        others = f" and {len(attacked.rows) - 1} more" if len(attacked.rows) > 1 else ""
        return f"so that test image {attacked.rows[0]}{others}, “{target}”, is taken for “{wanted}”"

    def check_table(
        self,
        table: Perturbations,
        splits: Splits,
        poisoned: np.ndarray,  # [P] ascending
    ) -> None:
        """Check that a table is this poison's.

        Raises:
            DataError: it is another's, changes a pixel by more than epsilon, or has other targets.
        """
        super().check_table(table, splits, poisoned)
        check_epsilon(table, self.epsilon, splits)
        labels = splits.test.labels
        if not len(table.targets) or table.targets.max() >= len(labels):
            raise DataError(f"aims at no test image, or at one past the {len(labels)} that there are")
        given = set(labels[table.targets].tolist()), set(table.intended.tolist())
        if given != ({self.target_class}, {self.intended_class}):
            raise DataError(f"does not want class {self.target_class} to be taken for {self.intended_class}")
