"""The two papers: which of them a sweep is of, and the settings at which both compare."""

from __future__ import annotations

from collections.abc import Iterable

from ..sweep.rows import Row

RHO, S_STEP = 0.2, 1.1  # of the searches that are compared: the paper's, and the defaults
PERTURBATIONS = {  # kinds of attack by perturbation -> in print
    "gaussian": "Gaussian poison",
    "targeted": "targeted poison",
    "indiscriminate": "indiscriminate poison",
}
PAWELCZYK_METHODS = (  # in that paper's order; the last two are not in it
    "retrain",
    "gd",
    "ngd",
    "ga",
    "cfk-pawelczyk",
    "euk-pawelczyk",
    "scrub-pawelczyk",
    "neggrad-plus",
    "scrub-kurmanji",
    "jit",
)


def perturbed(row: Row) -> bool:
    """Whether the attack is one by perturbation."""
    return row.kind in PERTURBATIONS


def has_pawelczyk_rows(rows: Iterable[Row]) -> bool:
    """Whether a sweep has an attack by perturbation, or a method of Pawelczyk et al.

    What has no row of Potion's is left out of such a sweep's report; any other sweep has all of Potion's tables and
    figures and nothing of Pawelczyk et al.'s.
    """
    return any(perturbed(row) or row.method in PAWELCZYK_METHODS for row in rows)
