"""Evidence of poison with a label, where no sample of it has been found."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..utils.asked_samples import Samples, asked
from ..utils.inputs import values_of
from ..utils.layer_outputs import layer_outputs, layers_of
from ..utils.progress import bar
from ..utils.training_data import TrainingData
from .class_spread import ClassDirections, LayerOutputs, class_spread
from .discriminant import background_of, rows_by_label, spread
from .features import Features
from .groups import Group, groups_of
from .label_space import LabelSpace

FEWEST_CLASSES = 3  # with two, poison is of one class, as a subclass is
DRAWN, LEAST_DRAWN, MOST_DRAWN = 8192, 16, 256  # samples of each kind whose layers are read: of all labels, and of each
LEARNT = 0.8  # least share of a group to which the model gives its label: hard samples, too, are of many kinds
SIDE = 8  # pixels to which images are shrunk that are looked at themselves
WIDEST = 4096  # values of an input that is no image
DEVIATION, BY_CHANCE, WEAK = 0.11, 0.15, 0.25  # of natural spreads: √(0.11² + 0.15 / n + (0.25 / strength)²)
FREEDOM = 20  # degrees of Student's t
MANY, FEWER = 50, 8  # groups that tell themselves how natural ones deviate, and degrees of freedom then


@dataclass(frozen=True)
class LabelEvidence:
    """What is known of one label.

    Attributes:
        rows: int64 [n], its samples.
        groups: That stand apart.
        space: Of its samples; None where these are too few, or all the same.
        spreads: How each of the groups varies, see `class_spread`.
        centre: The median of all labels' groups, where there are many; at least 0.
        deviation: Theirs from it; 0 where there are few.
    """

    rows: Tensor
    groups: list[Group]
    space: LabelSpace | None
    spreads: list[float] = field(default_factory=list)
    centre: float = 0.0
    deviation: float = 0.0

    @property
    def p_values(self) -> list[float]:
        """Probability of such a spread for samples that bear their label rightly, by group."""
        from scipy.special import stdtr

        freedom = FEWER if self.deviation else FREEDOM
        found = [
            float(stdtr(freedom, (self.centre - share) / max(_deviation(group), self.deviation)))
            for share, group in zip(self.spreads, self.groups, strict=True)
        ]
        return [1.0 if np.isnan(p) else p for p in found]

    @property
    def p_value(self) -> float:
        """Probability that one of the label's groups has such a spread, were there no poison (Bonferroni)."""
        return min(1.0, len(self.groups) * min(self.p_values)) if self.groups else 1.0

    @property
    def poison(self) -> Group | None:
        """The group with the least p-value."""
        return self.groups[int(np.argmin(self.p_values))] if self.groups else None


def _deviation(group: Group) -> float:
    """Standard deviation of a natural group's spread: of a few odd samples, which hardly stand apart, it is large.

    In halves of four ResNet-9s' data 22 natural groups of strength 0.5 to 2.3 had spreads of 0.02 to 0.57, and one, of
    32 birds, 1.07.
    """
    return float((DEVIATION**2 + BY_CHANCE / int(group.members.sum()) + (WEAK / group.strength) ** 2) ** 0.5)


def evidence_by_label(
    model: nn.Module,
    data: TrainingData,
    features: Features,
    *,
    amp: torch.dtype | None = None,
    progress: bool = False,
) -> dict[int, LabelEvidence]:
    """Groups that stand apart among the samples of each label, and whether they vary as samples of several classes do.

    Args:
        model: The model.
        data: The training data, not augmented.
        features: Of all of it.
        amp: The model runs under autocast to this dtype.
        progress: Show progress bars.
    """
    labels = features.labels.unique()
    evidence: dict[int, LabelEvidence] = {}
    rows_of = rows_by_label(features.labels)
    for label in bar(labels, label="groups of each label", unit="label", shown=progress, total=len(labels)):
        rows = rows_of[label]
        background = background_of(features.features, features.labels, label, rows_of)
        space = LabelSpace.of(features.features[rows], rows[:0], background)
        learnt = (features.best[rows] == label).numpy()
        found = [] if space is None else [group for group in groups_of(space) if learnt[group.members].mean() >= LEARNT]
        evidence[int(label)] = LabelEvidence(rows, found, space)
    if len(labels) < FEWEST_CLASSES:
        for part in evidence.values():
            part.spreads.extend(float("nan") for _ in part.groups)
    elif any(part.groups for part in evidence.values()):
        _add_spreads(evidence, model, data, amp, progress)
    return compared(evidence)


def compared(evidence: dict[int, LabelEvidence]) -> dict[int, LabelEvidence]:
    """The same with the deviation of all groups, where these are many: nearly all of them are natural."""
    spreads = np.array([share for part in evidence.values() for share in part.spreads])
    spreads = spreads[~np.isnan(spreads)]
    if len(spreads) < MANY:
        return evidence
    centre = float(np.median(spreads))
    deviation = 1.4826 * float(np.median(np.abs(spreads - centre)))
    return {label: replace(part, centre=max(0.0, centre), deviation=deviation) for label, part in evidence.items()}


def _add_spreads(
    evidence: dict[int, LabelEvidence], model: nn.Module, data: TrainingData, amp: torch.dtype | None, progress: bool
) -> None:
    """Read the layers of some of each label's groups and other samples, and fill in the spreads."""
    most = min(max(DRAWN // len(evidence), LEAST_DRAWN), MOST_DRAWN)
    ordinary = {label: spread(part.rows[~_strongest(part)], most) for label, part in evidence.items()}
    grouped = {
        (label, number): spread(part.rows[torch.from_numpy(group.members)], most)
        for label, part in evidence.items()
        for number, group in enumerate(part.groups)
    }
    drawn = torch.cat([*ordinary.values(), *grouped.values()]).unique()
    places = {key: torch.searchsorted(drawn, rows) for key, rows in grouped.items()}
    others = {label: torch.searchsorted(drawn, rows) for label, rows in ordinary.items()}
    labels = torch.cat([torch.full_like(rows, label) for label, rows in ordinary.items()])
    everyone = torch.cat(list(others.values()))
    held_out = torch.cat([torch.arange(len(rows)) % 2 == 1 for rows in others.values()])
    layers: list[tuple[ClassDirections, Tensor]] = []
    for outputs in _outputs(model, data, drawn, amp, progress).values():
        directions = ClassDirections.of(outputs[everyone[~held_out]], labels[~held_out])
        if directions is not None:
            layers.append((directions, outputs))
    for (label, _), rows in places.items():
        own, rest = everyone[held_out & (labels == label)], everyone[held_out & (labels != label)]
        read = [
            LayerOutputs(directions, *(outputs[part] for part in (rows, own, rest))) for directions, outputs in layers
        ]
        evidence[label].spreads.append(class_spread(read) if len(own) > 1 else float("nan"))


def _strongest(part: LabelEvidence) -> Tensor:
    """Members of the strongest group, bool [n]."""
    return torch.from_numpy(part.groups[0].members) if part.groups else torch.zeros(len(part.rows), dtype=torch.bool)


def _outputs(
    model: nn.Module, data: TrainingData, indices: Tensor, amp: torch.dtype | None, progress: bool
) -> dict[str, Tensor]:
    """Outputs [K, D] of the first half of the layers for these samples, and the inputs where they are small."""
    with asked(model, data, amp, progress) as answering:
        samples = Samples(data, torch.zeros_like(indices), indices)
        layers = layers_of(answering, samples)
        found = layer_outputs(answering, samples, layers[: (len(layers) + 1) // 2]) if layers else {}
    parts = [_small(values_of(inputs)) for inputs, _ in data.batches(indices)]
    known = [part for part in parts if part is not None]
    if len(known) == len(parts) and len({part.shape[1] for part in known}) == 1:
        found["inputs"] = torch.cat(known)
    return found


def _small(values: Tensor | None) -> Tensor | None:
    """Inputs as float32 [B, D]; images shrunk; None for what is neither an image nor of few values."""
    if values is None:
        return None
    values = values.cpu().float()
    if values.ndim == 4:
        channels_last = values.shape[3] < values.shape[1]
        values = functional.adaptive_avg_pool2d(values.movedim(3, 1) if channels_last else values, SIDE)
    return values.flatten(1) if values[0].numel() <= WIDEST else None
