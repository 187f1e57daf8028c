"""Members of S_f that are not like the poison that the others show, by samples of the training data beside them."""

from __future__ import annotations

import torch
from torch import Tensor

from .detect import RATE
from .discriminant import background_of
from .features import TENSORS, Features
from .label_part import LabelPart
from .label_space import FAR_APART, FEW_FOUND

FEWEST = 5  # samples of a label beside S_f's, below which nothing is said of the label


def wrong_members(found: Features, others: Features) -> Tensor:
    """Members of S_f that look like natural samples of their label where the other members do not.

    Within a label they are those that `examine` does not call poison, as for `suspects`. Labels of which no member
    stands apart are wrong as a whole where another label's members do.

    Args:
        found: Of S_f, [F].
        others: Of samples of the training data without S_f, S_f's labels among them.

    Returns:
        int64 [W], their places in S_f, ascending; none where no member stands apart, as nothing can be told then.
    """
    columns = {name: torch.cat([getattr(found, name), getattr(others, name)]) for name in TENSORS}
    joint = Features(**columns, classes=found.classes, layer=found.layer)
    members, labels = torch.arange(len(found)), found.labels.unique()
    background = background_of(joint.features, joint.labels, labels)
    known = [label for label in labels if int((others.labels == label).sum()) >= FEWEST]
    parts = [LabelPart.of(joint, members, label, background, RATE, None) for label in known]
    apart = [part for part in parts if not part.result.doubtful]
    if any(len(part.found) >= FEW_FOUND for part in apart):  # one sample that stands alone may be any outlier
        apart = [part for part in apart if len(part.found) >= FEW_FOUND or part.result.separation >= FAR_APART]
    wrong = [part.rows[part.found[~torch.from_numpy(part.result.called)[part.found]]] for part in apart]
    if apart:
        wrong += [part.rows[part.found] for part in parts if part not in apart]
    return torch.cat(wrong).sort().values if wrong else torch.empty(0, dtype=torch.int64)
