"""Features of a training set of which is known which samples are poison."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from potion_fast.detection import Features

WIDTH = 48


@dataclass
class PoisonedFeatures:
    """Features, and the poison among their samples.

    Attributes:
        features: As `features_of` gives them.
        poison: bool [N].
        kind: int64 [N], number of the trigger; -1 for clean samples.
    """

    features: Features
    poison: Tensor
    kind: Tensor

    def draw(self, found: int, seed: int, kind: int | None = None) -> Tensor:
        """Indices of found poison, int64 [found]."""
        pool = (self.poison if kind is None else self.kind == kind).nonzero().flatten()
        return pool[torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))[:found]]

    def false_share(self, suspects) -> float:
        """Share of clean samples among the suspects that were not found."""
        rest = self.beyond(suspects)
        return (~self.poison[rest]).double().mean().item() if len(rest) else 0.0

    def recall(self, suspects) -> float:
        """Share of the poison with a label of S_f, not found, that is suspected."""
        sought = self.poison & torch.isin(self.features.labels, self.features.labels[suspects.found])
        sought[suspects.found] = False
        return torch.isin(sought.nonzero().flatten(), suspects.indices).double().mean().item()

    @staticmethod
    def beyond(suspects) -> Tensor:
        return suspects.indices[~torch.isin(suspects.indices, suspects.found)]


def poisoned_features(
    seed: int,
    *,
    classes: int = 8,
    per_class: int = 200,
    poison: int = 40,
    targets: tuple[int, ...] = (0,),
    triggers: int = 1,
    apart: float = 9.0,
    freedom: float = 12.0,
) -> PoisonedFeatures:
    """Classes with correlated features of heavy tails, and poison that is shifted along a direction of its trigger.

    Args:
        seed: Of everything.
        classes: Number of labels.
        per_class: Natural samples of each.
        poison: Samples of each target and trigger, of any true class, which their features show somewhat.
        targets: Labels of the poison.
        triggers: For each target.
        apart: Their shift, in the natural samples' standard deviations in that direction.
        freedom: Degrees of the features' Student's t.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    means = 2 * normal(classes, WIDTH)
    spread = normal(WIDTH, WIDTH) / WIDTH**0.5 * torch.arange(1, WIDTH + 1).double().pow(-0.3)

    def natural(label: Tensor) -> Tensor:
        heavy = (normal(len(label), int(freedom)).square().mean(1)).rsqrt()[:, None]
        return means[label] + heavy * normal(len(label), WIDTH) @ spread.T

    labels = torch.arange(classes).repeat_interleave(per_class)
    parts, given, kinds = [natural(labels)], [labels], [torch.full_like(labels, -1)]
    for number, (target, _) in enumerate((target, trigger) for target in targets for trigger in range(triggers)):
        true = torch.randint(classes, (poison,), generator=generator)
        way = normal(WIDTH)
        way /= way.norm()
        deviation = (spread.T @ way).norm()
        shift = deviation * (apart + normal(poison, 1))
        parts.append(means[target] + 0.1 * (natural(true) - means[target]) + shift * way)
        given.append(torch.full((poison,), target))
        kinds.append(torch.full((poison,), number))
    everything = torch.randperm(sum(map(len, given)), generator=generator)
    labels, kind = torch.cat(given)[everything], torch.cat(kinds)[everything]
    features = Features(
        features=torch.cat(parts)[everything].float(),
        labels=labels,
        log_p=torch.zeros(len(labels)),
        best=labels,
        second=(labels + 1) % classes,
        classes=classes,
        layer="fc",
    )
    return PoisonedFeatures(features, kind >= 0, kind)
