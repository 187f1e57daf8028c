"""Result of healing: the model, the rest of the poison, and how it came about."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from .attack_success import AttackEstimate
from .detection import Suspects
from .detection.suspect_list import SWAP
from .finetuning import Evaluation, FineTuned
from .finetuning.keeping import POISON_LEFT
from .relabel import ProposedLabels
from .search.result import OTHER_POISON
from .utils.cost import Cost

STILL_WORKS = 0.1  # attack success beyond what is so by nature, from which on a model is not called healed
TURNED = 0.3  # lower end of the share of the poison's own label's samples that lose it by the trigger, likewise
ONE_LABEL = 0.75  # share of the suspects with one new label, from which on their trigger may come to tell that one
NOT_LEARNT = "the given model did not give the suspects the poison's labels, so there was nothing to heal"
TRIGGER_LEFT = "the suspects have lost the poison's labels, but their trigger still works on other samples"
TRIGGER_TURNED = "the suspects have lost the poison's labels, but their trigger takes these from other samples now"


@dataclass(repr=False)
class HealResult:
    """What healing gives back.

    Attributes:
        model: The healed model, in the mode that it was given in.
        suspects: The rest of the poison, S_f's fitting members among it.
        labels: The labels that it was given, and where they come from.
        finetuning: Every evaluation, which one the model is of, and why.
        attack: Estimated success of the attack before and after, on clean samples with the suspects' trigger.
        samples: Of the training data, N.
        seconds: Wall-clock time, by step.
    """

    model: nn.Module = field(repr=False)
    suspects: Suspects
    labels: ProposedLabels
    finetuning: FineTuned
    attack: AttackEstimate
    samples: int
    seconds: dict[str, float]

    @property
    def healed(self) -> bool:
        """Whether the suspects have lost the poison's labels, their trigger works no more, and accuracy was kept.

        A model that did not give the suspects the poison's labels in the first place was not healed of them.
        The trigger may not take the poison's label from samples that bear it rightly either. Where the attack could not
        be simulated, nothing is known of the trigger (`unmeasured_warning`).
        """
        return self.finetuning.healthy and self._had_learnt and self.attack_warning is None

    @property
    def verdict(self) -> str:
        """What came of it, in a sentence, by what was measured."""
        before, after = self.finetuning.before, self.finetuning.after
        poison = f"{before.poison_accuracy:.1%} -> {after.poison_accuracy:.1%} of the suspects get the poison's label"
        clean = f"clean accuracy changed by {after.clean_change:+.1f} ± {after.clean_error:.1f} points"
        return f"healed: {poison}, {clean}" if self.healed else f"not healed, {self.reason}: {poison}, {clean}"

    @property
    def reason(self) -> str:
        """Why it ended as it did."""
        if self.healed or not self.finetuning.healthy:
            return self.finetuning.reason
        if not self._had_learnt:
            return NOT_LEARNT
        return TRIGGER_LEFT if self._still_works else TRIGGER_TURNED

    @property
    def _had_learnt(self) -> bool:
        """Whether the given model had learnt the suspects' labels; of swapped ones it need not have."""
        return self.suspects.kind == SWAP or self.finetuning.before.poison_accuracy > POISON_LEFT

    @property
    def attack_warning(self) -> str | None:
        """What speaks against the model in the estimated success of the attack; None where nothing does."""
        after = self.attack.after
        if after is not None and self._still_works:
            return f"clean samples with the suspects' trigger still get its label: {after}, {self.attack.why}"
        if after is not None and after.lost_low > TURNED:
            return (
                f"of the clean samples that bear the poison's label rightly, {after.lost:.0%} lose it by the suspects' "
                "trigger: it may have come to tell another label"
            )
        return None

    @property
    def _still_works(self) -> bool:
        after = self.attack.after
        return after is not None and after.low - after.without > STILL_WORKS

    @property
    def unmeasured_warning(self) -> str | None:
        """What could not be measured and matters here; None where nothing does."""
        new = self.labels.labels[~self.labels.kept]
        if self.attack.after is not None or self.suspects.kind == SWAP or not len(new):
            return None
        label = int(new.mode().values)
        share = (new == label).double().mean().item()
        if share < ONE_LABEL:
            return None
        return (
            f"{share:.0%} of the suspects got the label {label}, which their trigger may tell now; that could not be "
            f"measured: {self.attack.why}"
        )

    @property
    def trace(self) -> list[Evaluation]:
        """Every evaluation, from the given model's to that after the last step."""
        return self.finetuning.trace

    @property
    def warnings(self) -> list[str]:
        """What deserves a second look, as sentences."""
        own = [text for text in (self.attack_warning, self.unmeasured_warning) if text is not None]
        return [*self.suspects.warnings, *self.labels.warnings, *self.finetuning.warnings, *own]

    @property
    def cost(self) -> Cost:
        """Samples that went through the model, in all steps."""
        return self.labels.cost + self.finetuning.cost + self.attack.cost

    @property
    def epochs(self) -> float:
        """The cost in epochs of training: N samples forward and backward."""
        return self.cost.epochs(self.samples)

    def summary(self) -> dict[str, Any]:
        """Everything but the model and the lists, as plain values for JSON."""
        before, after = self.finetuning.before, self.finetuning.after
        return {
            "verdict": self.verdict,
            "healed": self.healed,
            "reason": self.reason,
            "kind": self.suspects.kind,
            "why": self.suspects.why,
            "suspects": len(self.suspects),
            "found": len(self.suspects.found),
            "found_that_fit": int(self.suspects.fits.sum()),
            "rate": _known(self.suspects.rate),
            "labels": self.labels.source,
            "why_labels": self.labels.why,
            "labels_kept": int(self.labels.kept.sum()),
            "before": {name: _known(value) for name, value in asdict(before).items()},
            "after": {name: _known(value) for name, value in asdict(after).items()},
            "judged_by": self.finetuning.judged_by,
            "by_class": [asdict(entry) for entry in self.finetuning.by_class],
            "attack_success": self.attack.summary(),
            "plan": self.finetuning.plan,
            "epochs": self.epochs,
            "forward": self.cost.forward,
            "backward": self.cost.backward,
            "seconds": self.seconds,
            "warnings": self.warnings,
        }

    def __str__(self) -> str:
        listed = self.suspects
        fitting, strangers = int(listed.fits.sum()), listed.found[~listed.fits].tolist()
        worst = self.finetuning.worst_class
        known = f"{fitting} of {len(listed.found)} found"
        lines = [
            self.verdict,
            f"judged by: the suspects with other labels, and {self.finetuning.judged_by}",
            *([] if worst is None else [f"worst class: {worst}"]),
            f"attack success: {self.attack}",
            f"not known: {OTHER_POISON}",
            f"suspects: {len(listed) - fitting} beside {known} ({listed.kind}); {listed.why}",
            *([f"found, but not like the others: {', '.join(map(str, strangers[:20]))}"] if strangers else []),
            f"labels: {self.labels.source}; {self.labels.why}",
            f"cost: {self.epochs:.2f} epochs, {sum(self.seconds.values()):.0f} s",
            *(f"warning: {text}" for text in self.warnings),
        ]
        return "\n".join(lines)

    __repr__ = __str__


def _known(value: float) -> float | None:
    """A number for JSON, which has no NaN."""
    return None if math.isnan(value) else value
