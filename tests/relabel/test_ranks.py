"""Labels by several processes: each makes a part of the views, and all get those that one process gets."""

from __future__ import annotations

from typing import Any

import torch

from helpers.poisoned_digits import PoisonedDigits
from helpers.processes import in_processes
from potion_fast.relabel import ProposedLabels, propose_labels


def proposed(digits: PoisonedDigits, model: torch.nn.Module, group: Any = None) -> list[ProposedLabels]:
    """For many suspects, and for so few that a rank has none."""
    return [
        propose_labels(model, digits.train_set, digits.poisoned[:count], source="views", process_group=group)
        for count in (21, 1)
    ]


def test_all_ranks_get_what_one_process_gets(one_thread: None, tmp_path) -> None:
    digits = PoisonedDigits()
    alone = proposed(digits, digits.model, False)
    for answers in in_processes(2, proposed, digits, digits.model, folder=tmp_path):
        for one, other in zip(alone, answers, strict=True):
            assert torch.equal(one.indices, other.indices) and torch.equal(one.labels, other.labels)
            assert torch.equal(one.kept, other.kept) and one.source == other.source
            assert other.cost.forward == one.cost.forward + 1  # each rank asks for the number of classes
