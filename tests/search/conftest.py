"""Importances that several tests of searches share."""

import pytest

import potion_fast as pf
from helpers.toys import Blobs
from potion_fast import Importance


@pytest.fixture(scope="module")
def both(blobs: Blobs) -> tuple[Importance, Importance]:
    """Importances of S_f and of the retain set, exact per sample."""
    return (
        pf.importance(blobs.model, blobs.forget(), group_size=1),
        pf.importance(blobs.model, blobs.retain(), group_size=1),
    )
