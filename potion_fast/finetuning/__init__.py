"""Fine-tuning of a poisoned model on the suspects with other labels, for a fraction of an epoch."""

from .result import Evaluation, FineTuned
from .run import finetune

__all__ = ["Evaluation", "FineTuned", "finetune"]
