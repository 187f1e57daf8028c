"""Detection of the rest of the poison in training data."""

from .detect import suspects, suspects_from
from .features import Features, features_of
from .label_errors import label_errors
from .suspect_list import LabelSummary, Suspects

__all__ = ["Features", "LabelSummary", "Suspects", "features_of", "label_errors", "suspects", "suspects_from"]
