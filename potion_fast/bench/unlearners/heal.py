"""Heal: find the rest of the poison, give it other labels, and fine-tune the poisoned model on them."""

from __future__ import annotations

from typing import Literal

from torch import nn
from typing_extensions import override

from ...healing import heal
from .base import Loaders, Unlearned, Unlearner
from .dampening import PRECISIONS
from .registry import register_unlearner


@register_unlearner("heal")
class Heal(Unlearner):
    """`potion_fast.heal` with its defaults. It reads the training data by index: `Loaders.training`.

    Its gradient steps are the samples of all backward passes, in batches of the training.

    Attributes:
        amp: None, "bfloat16" or "float16": the precision of the passes.
    """

    amp: Literal["bfloat16", "float16"] | None = None

    @override
    def unlearn(self, model: nn.Module, loaders: Loaders, progress: bool) -> Unlearned:
        data = loaders.by_index(self.name)
        result = heal(
            model,
            data.train_set,
            data.found,
            plain_set=data.plain_set,
            validation=data.held_out,
            batch_size=data.batch_size,
            amp=PRECISIONS[self.amp],
            seed=self.seed,
            progress=progress,
        )
        result.model.eval()
        return Unlearned(
            model=result.model,
            method=self.name,
            trace=result.trace,
            kept=result.finetuning.after,
            gradient_steps=-(-result.cost.backward // data.batch_size),
            seconds={"search": result.seconds["suspects and labels"], "training": result.seconds["fine-tuning"]},
            report=result,
            warnings=result.warnings,
        )
