"""The report of a sweep: results as a tidy table, the paper's tables and figures, and a page with all of it."""

from .make import SAMPLES, report_sweep

__all__ = ["SAMPLES", "report_sweep"]
