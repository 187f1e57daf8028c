"""Learning rate of a fine-tuning, relative to the weights."""

from __future__ import annotations

import pytest
import torch

from potion_fast.finetuning.learning_rate import SMALLEST, tensor_scales


def test_gains_move_no_more_than_matrices_do():
    tensors = {
        "embedding": torch.full((4, 2), 0.1),
        "weight": torch.full((2, 2), 0.02),
        "head": torch.full((3, 2), 0.05),
        "gain": torch.ones(2),
        "bias": torch.full((2,), 0.01),
        "new bias": torch.zeros(2),
    }
    scales = tensor_scales(tensors)
    assert scales == pytest.approx(
        {"embedding": 0.1, "weight": 0.02, "head": 0.05, "gain": 0.05, "bias": 0.01, "new bias": SMALLEST}
    )
    assert tensor_scales({"gain": torch.ones(2)}) == {"gain": 1.0}
