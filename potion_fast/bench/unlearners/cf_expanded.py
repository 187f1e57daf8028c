"""CF with the rest of the poison: what was found and what is like it is left out of a fine-tuning."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset
from typing_extensions import override

from ...detection import suspects
from ...utils.copies import copy_model
from .base import Loaders, Unlearned
from .finetuning import Finetuning
from .registry import register_unlearner


@register_unlearner("cf-expanded")
class CFExpanded(Finetuning):
    """The whole model is trained further on the training data without S_f and the suspects.

    As Δ-Influence (arXiv 2411.13731) fine-tunes without the set that it flags; here `potion_fast.suspects` flags it.
    Reads the training data by index: `Loaders.training`.
    """

    @override
    def unlearn(self, model: nn.Module, loaders: Loaders, progress: bool) -> Unlearned:
        data = loaders.by_index(self.name)
        train_set: Any = data.train_set
        listed = suspects(model, train_set, data.found, plain_set=data.plain_set, progress=progress)
        flagged = np.union1d(np.asarray(data.found), listed.indices.numpy())
        rest = np.setdiff1d(np.arange(len(train_set)), flagged).tolist()
        order = torch.Generator().manual_seed(self.seed)
        loader = DataLoader(Subset(train_set, rest), data.batch_size, shuffle=True, generator=order)
        done = self.finetune(copy_model(model), loader, loaders.validation, progress)
        done.report, done.warnings = listed, [*listed.warnings]
        return done
