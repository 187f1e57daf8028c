"""The base of all attacks on the training data: whom they poison, what becomes of an image and its label."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import DataError
from ...utils.predict import predict
from ..metrics.scores import EFFECT
from .evaluation import Attacked, Captions, EvaluationInputs, Scores
from .options import AttackOptions, CraftOptions
from .selection import choose_poisoned

if TYPE_CHECKING:
    from ..data import Loader, Splits
    from ..metrics import Evaluation
    from .crafting.job import CraftJob, CraftResult
    from .perturbation import Perturbations


class Poison(ABC):
    """An attack. It holds no state: what a sample becomes depends on its id alone, and so is the same at every visit.

    A new attack inherits from one of the kinds in `kinds.py`, which say by whom an attack is judged, how, and what it
    is called; it overrides what is different with it.

    Attributes:
        name: under which it is registered, see `register_attack`.
        Options: what a configuration says of it.
        Crafting: settings of its crafting; None where it is not crafted.
        takes_perturbations: whether each poisoned sample has a perturbation of its own, in a file.
        modalities: what it poisons: "image", "text" or both.
        before_augmentation: whether images are poisoned before they are cropped and flipped, rather than after.
        embeddings: whether texts are poisoned in their embeddings, for which a sample then has room.
        target: label that a trigger aims at; None where there is no trigger, or none of one label.
        has_trigger: whether a mark can be put on every test sample.
        kind: name of its kind, a key of `KINDS`.
        score_names: of the two metrics that an attack is judged by: accuracy on the attacked samples with their clean
            labels, and what the attack reaches, which unlearning is to bring down.
        gives_labels: whether samples are to get another label, so that "poison healed" is a score of it.
        unseen_score: the second score of a model that never saw the poison; None where only a reference run tells it.
        judged_on_training: whether the attacked samples are S_m itself, so that a reference must have the same.
        attack_word: what the poison is called in an error text.
        attacked_sample: what one of the attacked samples is called in an error text, with "{sample}" for image or
            review.
        changes: what it does, in an error text: why it cannot be put on all test samples.
        attacked_file: name of the file of predictions on the attacked samples; None where predictions.csv has them.
        has_noise: whether it adds noise, so that an evaluation has `noise_statistics`.
        shows_excerpts: whether a picture of the attacked samples shows excerpts of texts, see `TriggerWord.position`.
    """

    name: ClassVar[str]
    Options: ClassVar[type[AttackOptions]]
    Crafting: ClassVar[type[CraftOptions] | None] = None
    takes_perturbations: ClassVar[bool] = False
    modalities: ClassVar[tuple[str, ...]] = ("image",)
    before_augmentation: ClassVar[bool] = False
    embeddings: ClassVar[bool] = False
    has_trigger: ClassVar[bool] = False
    target: int | None
    kind: ClassVar[str]
    score_names: ClassVar[tuple[str, str]]
    gives_labels: ClassVar[bool]
    unseen_score: ClassVar[float | None] = None
    judged_on_training: ClassVar[bool] = False
    attack_word: ClassVar[str] = "poison"
    attacked_sample: ClassVar[str] = "attacked {sample}"
    changes: ClassVar[str] = "training samples are changed"
    attacked_file: ClassVar[str | None] = None
    has_noise: ClassVar[bool] = False
    shows_excerpts: ClassVar[bool] = False

    @abstractmethod
    def __call__(
        self,
        images: Tensor,  # [B, C, H, W] float32, normalised
        ids: Tensor,  # [B] int64
    ) -> Tensor:  # [B, C, H, W]
        """The poisoned images: a copy wherever a pixel changes."""

    @abstractmethod
    def relabel(
        self,
        labels: Tensor,  # [M] int64, clean, of all of S_m by ascending id
        ids: Tensor,  # [M] int64
    ) -> Tensor:  # [M] int64
        """The labels that S_m is given."""

    def choose(
        self,
        labels: Tensor,  # [N] int64, clean, of the whole training set
        count: int,
        found: int,
        seed: int,
    ) -> tuple[np.ndarray, np.ndarray]:  # [count] int64, [found] int64
        """S_m and S_f, in the order of the draws; uniformly, see `choose_poisoned`."""
        return choose_poisoned(len(labels), count, found, seed)

    def covers(
        self,
        samples: int,
        poisoned: np.ndarray,  # [P] int64, ascending
        seed: int,
    ) -> np.ndarray:  # int64, ascending
        """Samples that are changed too but keep their label, to hide the attack or to sharpen it; none by default.

        Args:
            samples: of the training set.
            poisoned: S_m.
            seed: of the choice.
        """
        return np.empty(0, dtype=np.int64)

    def cover(
        self,
        images: Tensor,  # [B, C, H, W] float32, normalised
        ids: Tensor,  # [B] int64
    ) -> Tensor:  # [B, C, H, W]
        """What becomes of these samples."""
        return images

    def at_test(self) -> Poison:
        """The poison as it is put on test images, which are the same for every seed of a run."""
        return self

    # --- the data of a run

    def check_sample(self, splits: Splits) -> None:
        """Poison one sample of zeros.

        Raises:
            DataError: images that are too small.
        """
        self(splits.sample(), torch.zeros(1, dtype=torch.int64))

    def check_chosen(
        self,
        splits: Splits,
        chosen: np.ndarray,  # [P] int64, ascending
    ) -> None:
        """Check S_m before it is used.

        Raises:
            DataError: nothing could be measured with these samples.
        """
        return

    def placed(
        self,
        splits: Splits,
        chosen: np.ndarray,  # [P] int64, ascending
        found: np.ndarray,  # [F] int64, of chosen
    ) -> tuple[Splits, np.ndarray, np.ndarray]:  # [P], [F]
        """The data with S_m and S_f in it: the chosen samples, or copies of them where poison is added to the data."""
        return splits, chosen, found

    def with_perturbations(
        self,
        splits: Splits,
        poisoned: np.ndarray,  # [P] int64, ascending
        *,
        path: str | None,
        seed: int,
        left_out: bool,
    ) -> Poison:
        """The poison with its perturbations, where it has any.

        Args:
            splits: with S_m in it.
            poisoned: S_m.
            path: file of the perturbations; None where none is given.
            seed: of the run's random draws.
            left_out: whether S_m is left out of the training.

        Raises:
            FileError: the file is missing or broken.
            DataError: perturbations of other data, or none.
        """
        return self

    @property
    def perturbations(self) -> Perturbations | None:
        """Of S_m; None where it has none, or before a crafting."""
        return None

    def perturbed(self, table: Perturbations) -> Poison:
        """The same with these perturbations, which have been crafted for it."""
        raise DataError(f"the poison {self.name!r} takes no perturbations")

    def facts(self, splits: Splits) -> dict[str, Any]:
        """What metrics.json and the rows of a sweep say of the attack on these data, by its key there."""
        return {}

    def remark(self, facts: Mapping[str, Any]) -> str:
        """What the denominators of the attacked samples' scores say behind their number, given its `facts`."""
        return ""

    def preview_lines(self, facts: Mapping[str, Any]) -> list[str]:
        """What a preview of texts says of the poison, given its `facts`."""
        return []

    # --- what it did to a model

    @abstractmethod
    def attacked_samples(
        self,
        splits: Splits,
        poisoned: list[int],  # ascending
    ) -> Attacked:
        """The samples that the attack is judged by; S_m as stored, whether it is trained on or not."""

    @abstractmethod
    def evaluate(self, model: nn.Module, inputs: EvaluationInputs, progress: bool = False) -> Evaluation:
        """The model on the clean test samples and on the attacked ones, with all metrics of this kind."""

    def scores(self, evaluation: Evaluation) -> dict[str, float]:
        """The values of the two metrics that the attack is judged by, by their `score_names`."""
        return {name: evaluation.metrics[name].value for name in self.score_names}

    def attacked_outputs(self, model: nn.Module, inputs: EvaluationInputs, progress: bool = False) -> Tensor:
        """What the picture of a healing compares: logits float32 [M, C] of the attacked samples."""
        return predict(model, inputs.attacked, progress)[0]

    def noise_statistics(self, evaluation: Evaluation) -> tuple[Tensor, Tensor] | None:
        """How far noise shows in gradients, of S_m [P] and of noise never seen [P, F]; None without noise."""
        return None

    def prediction_columns(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Columns int64 [N] of predictions.csv, in the order of the test set."""
        return {"label": evaluation.labels, "clean": evaluation.clean_logits.argmax(1)}

    def attacked_columns(self, evaluation: Evaluation, attacked: Attacked) -> dict[str, Tensor]:
        """Columns [M] of `attacked_file`, in the order of the attacked samples."""
        return {}

    @classmethod
    def reference_scores(cls, table: Perturbations, predictions: Callable[[], Mapping[int, tuple[int, int]]]) -> Scores:
        """Scores of a reference run's model that the run itself could not know.

        Args:
            table: perturbations of the model that is compared with it.
            predictions: reads what the reference says: label and prediction of each test sample, by its index.
        """
        return {}

    @abstractmethod
    def effect_note(self, scores: Scores, reference: Scores | None, *, past: bool, sample: str = "image") -> str | None:
        """That an attack did not reach as much as it must, to count; None where it did.

        Args:
            scores: of the poisoned model.
            reference: of a model without any poison; None where there is none.
            past: whether the note is on the model before unlearning.
            sample: what one of the samples is called.
        """

    # --- its crafting, where it is crafted

    def crafting_targets(self, model: nn.Module, attacked: Attacked, loader: Loader, seed: int) -> list[int]:
        """The test samples that the attack is to aim at, as positions in the test set; none where it has no targets.

        Args:
            model: of a training without S_m.
            attacked: the samples to choose from.
            loader: of these.
            seed: of the choice.

        Raises:
            DataError: there are too few.
        """
        return []

    def craft(self, job: CraftJob) -> CraftResult:
        """Craft the perturbations. An attack that is crafted has this method, and `Crafting`."""
        raise NotImplementedError(f"the attack {self.name!r} is not crafted")

    def crafting_aim(self, attacked: Attacked, count: int, names: Sequence[str]) -> str:
        """What its perturbations are crafted for, above their picture.

        Args:
            attacked: the samples that the attack is judged by.
            count: size of S_m.
            names: of the classes.
        """
        return f"{count:,} samples perturbed"

    @classmethod
    def took(cls, score: Callable[[str], float | None], effect: float | None) -> bool:
        """Whether an attack of this kind was in a model: else there was little to remove. Unknown counts as yes.

        Args:
            score: the model's scores by name; None for one that is not known.
            effect: what the second score is above that of a model without any poison; None where that is not known.
        """
        return effect is None or effect >= EFFECT

    @property
    @abstractmethod
    def captions(self) -> Captions:
        """What the attack is called in pictures."""


def check_target(target: int) -> None:
    """Check the label of a trigger.

    Raises:
        DataError: a negative label.
    """
    if target < 0:
        raise DataError(f"a poison needs target >= 0, not {target}")


def check_target_of_data(target: int, splits: Splits) -> None:
    """Check the label of a trigger against the data.

    Raises:
        DataError: the data do not have the label, or no test image has another one.
    """
    if target >= len(splits.classes):
        raise DataError(f"target {target} is out of range; the data has {len(splits.classes)} classes")
    if (splits.test.labels == target).all():
        raise DataError(f"all test images are of the target class {target}: an attack cannot be measured")
