"""The kinds of attack: the samples that an attack is judged by, its scores, and their texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ...errors import DataError
from ..metrics import (
    Evaluation,
    GaussianEvaluation,
    evaluate_gaussian,
    evaluate_indiscriminate,
    evaluate_poison,
    evaluate_swap,
    evaluate_targets,
)
from .evaluation import NO_LABEL, Attacked, Captions, EvaluationInputs, Scores
from .perturbation import Perturbation
from .poison import Poison

if TYPE_CHECKING:
    import numpy as np

    from ..data import Splits

LEARNT = 0.8  # attack success rate before from which "poison healed" counts; of a swap: rate of labels memorised
SEEN = 2.576  # of gus_z: noise that the model never saw exceeds it, with either sign, one time in a hundred
MOST_TARGETS = 0.5  # share of the targets that are given the intended label, from which a targeted attack took
LOST = 0.02  # of test accuracy, from which an indiscriminate attack counts

OWN_LABEL, POISON_LABEL = "their label", "the poison's label"  # what found samples are given


class Trigger(Poison):
    """A mark in the image; every poisoned sample gets the label `target`, unless an attack has several.

    It is judged by all test samples with the trigger on them: accuracy with their clean labels, and the share of those
    of other classes that are given the label that the attack wants.
    """

    kind = "trigger"
    has_trigger = True
    target: int | None
    score_names = ("triggered_accuracy", "attack_success_rate")
    gives_labels = True
    attack_word = "trigger"
    attacked_sample = "triggered test {sample}"

    def relabel(self, labels: Tensor, ids: Tensor) -> Tensor:
        """`target`, for every sample."""
        assert self.target is not None
        return torch.full_like(labels, self.target)

    def attacked_samples(self, splits: Splits, poisoned: list[int]) -> Attacked:
        """All test samples, with the trigger."""
        labels = splits.test.labels
        triggered = splits.dataset("test", poison=self, trigger_all=True)
        wanted = self.at_test().relabel(labels, torch.arange(len(labels)))
        return Attacked(triggered, list(range(len(labels))), labels, wanted)

    def evaluate(self, model: nn.Module, inputs: EvaluationInputs, progress: bool = False) -> Evaluation:
        """Evaluate a model, see `evaluate_poison`."""
        return evaluate_poison(model, inputs.clean, inputs.attacked, inputs.wanted, progress, sample=inputs.sample)

    def prediction_columns(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Columns of predictions.csv, with the predictions for triggered samples."""
        return {**super().prediction_columns(evaluation), "triggered": evaluation.attacked_logits.argmax(1)}

    def effect_note(self, scores: Scores, reference: Scores | None, *, past: bool, sample: str = "image") -> str | None:
        """That the trigger reaches too few test samples."""
        verb = "succeeded" if past else "succeeds"
        return too_few_note(
            f"the attack {verb} on fewer than {LEARNT:.0%} of the triggered test {sample}s",
            scores[self.score_names[1]],
            past,
        )

    @classmethod
    def took(cls, score: Callable[[str], float | None], effect: float | None) -> bool:
        """Whether it succeeded often enough."""
        reached = score(cls.score_names[1])
        return reached is None or reached >= LEARNT

    @property
    def captions(self) -> Captions:
        """What the attack is called in pictures."""
        return Captions(
            attacked="triggered test {sample}s",
            right="triggered {sample}s right",
            clean_right="clean {sample}s right",
            found=POISON_LABEL,
            shown="the poisoned model says “{target}”; the healed one:",
            none="the poisoned model gives no triggered test {sample}\nof another class “{target}”",
        )


class Swap(Poison):
    """Wrong labels on samples that stay as they are.

    It is judged by S_m itself: accuracy with the clean labels, and the share of the wrong ones that the model gives.
    """

    kind = "swap"
    target: None = None
    score_names = ("manipulated_accuracy", "memorised_rate")
    gives_labels = True
    judged_on_training = True
    attack_word = "swap"
    attacked_sample = "manipulated training {sample}"
    changes = "labels are swapped"
    attacked_file = "manipulated.csv"

    def __call__(self, images: Tensor, ids: Tensor) -> Tensor:
        """The same images: only labels are wrong."""
        return images

    @property
    def pair(self) -> tuple[int, ...] | None:
        """The two classes whose labels are swapped; None where those of all classes are permuted."""
        return None

    def check_chosen(self, splits: Splits, chosen: np.ndarray) -> None:
        """Check S_m before it is used.

        Raises:
            DataError: the swap changes no label.
        """
        labels = splits.train.labels[chosen]
        if torch.equal(self.relabel(labels, torch.from_numpy(chosen)), labels):
            raise DataError(
                f"the labels of all {len(labels)} manipulated samples stay what they are; draw more of them"
            )

    def attacked_samples(self, splits: Splits, poisoned: list[int]) -> Attacked:
        """S_m, with its clean labels."""
        ids = torch.tensor(poisoned)
        labels = splits.train.labels[ids]
        return Attacked(splits.dataset("train"), poisoned, labels, self.relabel(labels, ids))

    def evaluate(self, model: nn.Module, inputs: EvaluationInputs, progress: bool = False) -> Evaluation:
        """Evaluate a model, see `evaluate_swap`."""
        return evaluate_swap(
            model, inputs.clean, inputs.attacked, inputs.wanted, self.pair, progress, sample=inputs.sample
        )

    def attacked_columns(self, evaluation: Evaluation, attacked: Attacked) -> dict[str, Tensor]:
        """The clean label, the one that was given, and the prediction."""
        predicted = evaluation.attacked_logits.argmax(1)
        return {"label": attacked.labels, "given": attacked.wanted, "predicted": predicted}

    def effect_note(self, scores: Scores, reference: Scores | None, *, past: bool, sample: str = "image") -> str | None:
        """That the model repeats too few of the wrong labels."""
        verb = "gave" if past else "gives"
        return too_few_note(
            f"the model {verb} fewer than {LEARNT:.0%} of the mislabelled training {sample}s their wrong label",
            scores[self.score_names[1]],
            past,
        )

    @classmethod
    def took(cls, score: Callable[[str], float | None], effect: float | None) -> bool:
        """Whether enough of the wrong labels were memorised."""
        reached = score(cls.score_names[1])
        return reached is None or reached >= LEARNT

    @property
    def captions(self) -> Captions:
        """What the attack is called in pictures."""
        return Captions(
            attacked="mislabelled {sample}s",
            right="mislabelled right",
            clean_right="clean right",  # the longer words leave no room
            found=POISON_LABEL,
            shown="the poisoned model repeats the label; the healed one:",
            none="the poisoned model gives no mislabelled training {sample}\nits wrong label",
        )


class Noise(Perturbation):
    """Noise of each poisoned sample's own, drawn independently of all else; labels stay.

    It is judged by S_m without its noise: accuracy, and the Gaussian Unlearning Score (GUS), the mean over S_m of how
    far the noise shows in the model's input gradients, in standard deviations. It has no bounds.

    Attributes:
        variance: of each number's noise.
    """

    kind = "gaussian"
    variance: float
    score_names = ("base_accuracy", "gus")
    gives_labels = False
    unseen_score = 0.0
    judged_on_training = True
    attacked_file = "statistics.csv"
    has_noise = True

    def attacked_samples(self, splits: Splits, poisoned: list[int]) -> Attacked:
        """S_m without its noise."""
        labels = splits.train.labels[torch.tensor(poisoned)]
        return Attacked(splits.dataset("train"), poisoned, labels, torch.full_like(labels, NO_LABEL))

    def evaluate(self, model: nn.Module, inputs: EvaluationInputs, progress: bool = False) -> Evaluation:
        """Evaluate a model, see `evaluate_gaussian`."""
        return self._evaluate(model, inputs, progress)

    def attacked_outputs(self, model: nn.Module, inputs: EvaluationInputs, progress: bool = False) -> Tensor:
        """What the picture of a healing compares: the statistics float64 [P]."""
        return self._evaluate(model, inputs, progress).statistics

    def noise_statistics(self, evaluation: Evaluation) -> tuple[Tensor, Tensor] | None:
        """The statistic I of S_m's noise and of fresh noise, see `GaussianEvaluation`."""
        assert isinstance(evaluation, GaussianEvaluation)
        return evaluation.statistics, evaluation.fresh

    def attacked_columns(self, evaluation: Evaluation, attacked: Attacked) -> dict[str, Tensor]:
        """The label, the prediction, and the statistic I."""
        assert isinstance(evaluation, GaussianEvaluation)
        predicted = evaluation.attacked_logits.argmax(1)
        return {"label": attacked.labels, "predicted": predicted, "statistic": evaluation.statistics}

    def effect_note(self, scores: Scores, reference: Scores | None, *, past: bool, sample: str = "image") -> str | None:
        """A note that the noise cannot be distinguished from noise that the model never saw."""
        z, before = scores["gus_z"], " before" if past else ""
        trace = f"the noise left no trace{before} that can be told from chance"
        return None if abs(z) >= SEEN else f"{trace}: gus_z is {z:.2f}, within ±{SEEN}"

    @classmethod
    def took(cls, score: Callable[[str], float | None], effect: float | None) -> bool:
        """Whether the noise can be distinguished from noise that the model never saw."""
        z = score("gus_z")
        return z is None or z > SEEN

    @property
    def captions(self) -> Captions:
        """What the attack is called in pictures."""
        return Captions(
            attacked="base {sample}s",
            right="",
            clean_right="clean {sample}s right",
            found=OWN_LABEL,
            shown="",
            none="",
            score="GUS",
        )

    def _evaluate(self, model: nn.Module, inputs: EvaluationInputs, progress: bool) -> GaussianEvaluation:
        assert self.table is not None  # drawn where it is not read
        return evaluate_gaussian(
            model,
            inputs.clean,
            inputs.attacked,
            self.table.values,
            self.variance,
            seed=inputs.seed,
            progress=progress,
            sample=inputs.sample,
        )


class Targeted(Poison):
    """An attack on certain test samples, which it changes in nothing: they are to be taken for another class.

    It is judged by these targets: accuracy with their true labels, and the share of them given the intended label.
    """

    kind = "targeted"
    score_names = ("target_accuracy", "target_success")
    gives_labels = True
    attack_word = "attack"
    attacked_sample = "target {sample}"
    attacked_file = "targets.csv"

    def evaluate(self, model: nn.Module, inputs: EvaluationInputs, progress: bool = False) -> Evaluation:
        """Evaluate a model, see `evaluate_targets`."""
        return evaluate_targets(
            model,
            inputs.clean,
            inputs.attacked,
            inputs.wanted,
            progress,
            sample=inputs.sample,
            remark=inputs.remark,
        )

    def attacked_columns(self, evaluation: Evaluation, attacked: Attacked) -> dict[str, Tensor]:
        """The true label, the intended one, and the prediction."""
        predicted = evaluation.attacked_logits.argmax(1)
        return {"label": attacked.labels, "intended": attacked.wanted, "predicted": predicted}

    def effect_note(self, scores: Scores, reference: Scores | None, *, past: bool, sample: str = "image") -> str | None:
        """That no target is given the intended label."""
        if scores[self.score_names[1]]:
            return None
        verb, before, counts = ("was", " before", "does not count") if past else ("is", "", "will not count")
        return f"no target {verb} given the intended label{before}: poison healed {counts}"

    @classmethod
    def took(cls, score: Callable[[str], float | None], effect: float | None) -> bool:
        """Whether half of the targets were given the intended label."""
        return effect is None or effect >= MOST_TARGETS

    @property
    def captions(self) -> Captions:
        """What the attack is called in pictures."""
        return Captions(
            attacked="target {sample}s",
            right="target right",
            clean_right="clean {sample}s right",
            found=OWN_LABEL,
            shown="of a target the poisoned model says “{target}”; the healed one:",
            none="the poisoned model gives no target {sample}\nthe intended label “{target}”",
        )


class Indiscriminate(Poison):
    """An attack on the accuracy as a whole: the model is to be wrong wherever it can.

    It is judged by all test samples as they are: accuracy, and the rest to 1.
    """

    kind = "indiscriminate"
    score_names = ("clean_accuracy", "test_error")
    gives_labels = False

    def attacked_samples(self, splits: Splits, poisoned: list[int]) -> Attacked:
        """All test samples, as they are."""
        labels = splits.test.labels
        return Attacked(splits.dataset("test"), list(range(len(labels))), labels, torch.full_like(labels, NO_LABEL))

    def evaluate(self, model: nn.Module, inputs: EvaluationInputs, progress: bool = False) -> Evaluation:
        """Evaluate a model, see `evaluate_indiscriminate`."""
        return evaluate_indiscriminate(model, inputs.clean, progress, sample=inputs.sample)

    def effect_note(self, scores: Scores, reference: Scores | None, *, past: bool, sample: str = "image") -> str | None:
        """That the attack cost too little accuracy; nothing without a reference."""
        if reference is None:
            return None
        lost = scores["test_error"] - reference["test_error"]
        if lost >= LOST:
            return None
        before = " before" if past else ""
        return f"the attack cost {100 * lost:.1f} points of test accuracy{before}, fewer than {100 * LOST:g}"

    @property
    def captions(self) -> Captions:
        """What the attack is called in pictures."""
        return Captions(
            attacked="",
            right="",
            clean_right="test {sample}s right",
            found=OWN_LABEL,
            shown="the poisoned model gets these wrong; the healed one:",
            none="the poisoned model gets every test {sample} right",
        )


KINDS: dict[str, type[Poison]] = {kind.kind: kind for kind in (Trigger, Swap, Noise, Targeted, Indiscriminate)}


def too_few_note(text: str, reached: float, past: bool) -> str | None:
    """The text, and that "poison healed" does not count; None where the attack reached LEARNT or more."""
    before, counts = (" before", "does not count") if past else ("", "will not count")
    return f"{text}{before}: poison healed {counts}" if reached < LEARNT else None
