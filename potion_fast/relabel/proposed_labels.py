"""Proposed labels of suspects."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ..utils.cost import Cost


@dataclass(frozen=True)
class ProposedLabels:
    """The labels that suspects should have.

    Attributes:
        indices: int64 [K], of the training set: all suspects, in their order.
        labels: int64 [K], the proposal; the given label where that is kept.
        kept: bool [K], whether the sample is taken to bear its label by nature.
        source: Where the labels come from: "views", "pattern", "probe", "second-best", "unlearned" or "swap".
        why: Why it was chosen, in one sentence.
        right: By source, the share of right labels that simulated poison promises, where it was measured. The model
            knows the labels of the samples that it is simulated on, so it ranks sources rightly and promises too much:
            94, 87, 76 and 72 % where 76, 72, 63 and 54 % were right (ResNet-9, 200 of 12,800 CIFAR-10 images poisoned).
        cost: Samples that went through the model, of measurements too.
        warnings: What deserves a second look.
    """

    indices: Tensor
    labels: Tensor
    kept: Tensor
    source: str
    why: str
    right: dict[str, float] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)
    warnings: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.labels)
