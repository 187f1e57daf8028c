"""The second exam, of *Machine Unlearning Fails to Remove Data Poisoning Attacks*: tables, figures and the matrix."""

from .make import Exam, exam, sections
from .sheet import sheet_texts

__all__ = ["Exam", "exam", "sections", "sheet_texts"]
