"""Which model of a fine-tuning is kept: by the poison that is left and the clean accuracy that went."""

from __future__ import annotations

from collections.abc import Sequence

from .predictions import Predictions
from .result import DAMAGED, DIVERGED, NO_STEP, NOTHING_NEW, STILL_POISONED, UNLEARNT, Evaluation

POISON_LEFT = 0.2  # share of the suspects that may keep the poison's label: a tenth bears it by nature (as PTN's ρ)
UNMEMORISED = 0.4  # change of test accuracy, as part of that on training data kept out
CONFIDENCE = 1.64  # standard errors
RUIN = 10.0  # points of clean accuracy: nobody wants a model without the poison that has lost more
TIE = 0.05  # shares of suspects that differ by no more are taken for the same: few are kept out


def clean_change(before: Predictions, after: Predictions, unseen: bool) -> tuple[float, float]:
    """Estimated change of clean test accuracy, and its standard error, in points; paired, sample by sample.

    On data that the model has never seen it is the change of accuracy. On training data that is kept out of the fine-
    tuning the accuracy falls further, as samples known by heart are forgotten: there it is `UNMEMORISED` times that
    change. Over fifteen evaluations of fine-tunings (three ResNet-9s and a vision transformer), whose test accuracy
    changed by −2.7 to 0.0 points, it misses that change by 0.4 points in the mean, and the change on the training data
    by 1.4. Poison that was not found counts as clean.

    Args:
        before: Of the given model, on clean samples that are kept out.
        after: Of the fine-tuned model, on the same.
        unseen: The model was not trained on them.
    """
    changes = (after.right.double() - before.right.double()) * (100.0 if unseen else 100.0 * UNMEMORISED)
    return changes.mean().item(), (changes.var(correction=0).item() / len(changes)) ** 0.5


def damage(entry: Evaluation) -> float:
    """Points of clean accuracy that are lost with a confidence of 95 %, one-sided."""
    return max(0.0, -entry.clean_change - CONFIDENCE * entry.clean_error)


def chosen(trace: Sequence[Evaluation], max_damage: float) -> tuple[int, str]:
    """The evaluation whose model is kept, a place in the trace, and the reason.

    Of those whose `damage` is at most `max_damage` and that leave at most `POISON_LEFT` of the suspects poisoned it is
    the last one with the least poison, up to `TIE`. Where there is none, it is that with the largest product of clean
    accuracy and of the suspects without poison (after REM, arXiv 2505.17730), of those that have not lost more than
    `RUIN` points; else the given model.

    Args:
        trace: Evaluations, the given model's first.
        max_damage: Points of clean accuracy.
    """
    within = [place for place, entry in enumerate(trace) if place and damage(entry) <= max_damage]
    unlearnt = [place for place in within if trace[place].poison_accuracy <= POISON_LEFT]
    if unlearnt:
        least = min(trace[place].poison_accuracy for place in unlearnt)
        return max(place for place in unlearnt if trace[place].poison_accuracy <= least + TIE), UNLEARNT
    accuracy = trace[0].clean_accuracy
    products = [
        (accuracy + entry.clean_change / 100) * (1 - max(entry.poison_accuracy, POISON_LEFT)) * (damage(entry) <= RUIN)
        for entry in trace
    ]
    kept = max(range(len(trace)), key=products.__getitem__)
    if not kept:
        return 0, NO_STEP
    return kept, STILL_POISONED if kept in within else DAMAGED


def verdict(trace: Sequence[Evaluation], kept: int, reason: str, max_damage: float, judged_by: str) -> list[str]:
    """What deserves a second look, as sentences.

    Args:
        trace: Evaluations, the given model's first.
        kept: The one whose model is given back.
        reason: Why that one.
        max_damage: Points of clean accuracy.
        judged_by: What clean accuracy was measured on.
    """
    before, after, texts = trace[0], trace[kept], []
    if reason == NOTHING_NEW:
        return [f"{NOTHING_NEW}; the given model is given back"]
    if before.poison_accuracy <= POISON_LEFT:
        texts.append(
            f"the given model gives no more than {before.poison_accuracy:.0%} of the suspects the label that they were "
            "trained with: it has not learnt it, and there was little to heal"
        )
    if reason == DIVERGED:
        texts.append(f"the fine-tuning ended early: {DIVERGED}; the model of step {after.step} is given back")
    if reason == NO_STEP:
        texts.append("no step of the fine-tuning made the model better; the given model is given back")
    elif kept and after.poison_accuracy > POISON_LEFT:
        texts.append(
            f"{after.poison_accuracy:.0%} of the suspects have kept the poison's label; the poison may not be gone"
        )
    if damage(after) > max_damage:
        texts.append(
            f"the model is estimated to have lost {-after.clean_change:.1f} ± {after.clean_error:.1f} points of clean "
            f"accuracy, more than {max_damage:g}, by {judged_by}"
        )
    return texts
