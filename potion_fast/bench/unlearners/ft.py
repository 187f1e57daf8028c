"""FT: fine-tuning on clean samples, the simplest of the defences."""

from __future__ import annotations

from torch import nn
from typing_extensions import override

from ...utils.copies import copy_model
from .base import Loaders, Unlearned
from .clean_data import CleanFinetuning, clean_samples
from .registry import register_unlearner


@register_unlearner("ft")
class FT(CleanFinetuning):
    """Fine-tuning on the clean samples, by cross-entropy, with BackdoorBench's settings: SGD 0.01 for 100 epochs."""

    @override
    def unlearn(self, model: nn.Module, loaders: Loaders, progress: bool) -> Unlearned:
        return self.finetune(copy_model(model), clean_samples(loaders, self.name), loaders.validation, progress)
