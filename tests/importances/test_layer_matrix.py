"""Every layer of torch.nn over a grid of its options, against the loop over groups in float64: exact, or refused."""

from __future__ import annotations

import pytest

from helpers.layer_grid import CASES
from helpers.outcomes import GOOD, REFUSED, outcomes_of_case, worst

# Cases that are refused, and why; a refusal that is not listed fails.
REFUSALS: dict[str, str] = {}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", CASES)
def test_a_layer_equals_the_loop(name: str) -> None:
    result = worst(outcomes_of_case(CASES[name]))
    assert result.kind in GOOD, result.detail
    if name in REFUSALS:
        assert result.kind == REFUSED and REFUSALS[name] in result.detail
    else:
        assert result.kind != REFUSED, result.detail
