"""Candidate edits of a model, in place and undone to the bit."""

from .plan import EditPlan
from .ranked import RankedPlan

__all__ = ["EditPlan", "RankedPlan"]
