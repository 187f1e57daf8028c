"""How far a student's answers are from its teacher's: what the three forms of SCRUB share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def divergence(
    logits: Tensor,  # [B, C]
    teacher: nn.Module,
    inputs: Tensor,  # [B, ...]
    temperature: float = 1.0,
) -> Tensor:  # []
    """KL(softmax(teacher / T) ‖ softmax(student / T)), a mean over the batch; T² is the caller's."""
    with torch.no_grad():
        target = F.softmax(teacher(inputs) / temperature, dim=1)  # [B, C]
    return F.kl_div(F.log_softmax(logits / temperature, dim=1), target, reduction="batchmean")
