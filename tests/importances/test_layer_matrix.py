"""Every layer of torch.nn over a grid of its options, against the loop over groups in float64: exact, or refused."""

from __future__ import annotations

import pytest
import torch

from helpers.layer_grid import CASES
from helpers.outcomes import GOOD, REFUSED, outcomes_in_half, outcomes_of_case, worst

pytestmark = pytest.mark.usefixtures("one_thread")
ONE_OF_EACH = {name.split("(")[0]: name for name in CASES}
# What is refused in some pass, and why; a refusal of anything else fails, and so does a pass where one is expected.
REFUSED_OPTIONS = {"scale_grad_by_freq=True": "scales its gradient by the frequency of tokens"}


@pytest.mark.parametrize("name", CASES)
def test_a_layer_equals_the_loop(name: str) -> None:
    result = worst(outcomes_of_case(CASES[name]))
    assert result.kind in GOOD, result.detail
    expected = [reason for option, reason in REFUSED_OPTIONS.items() if option in name]
    assert (result.kind == REFUSED) == bool(expected), result.detail
    assert all(reason in result.detail for reason in expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("name", ONE_OF_EACH.values(), ids=ONE_OF_EACH)
def test_a_layer_in_half_is_as_exact_as_the_loop_in_half(name: str, dtype: torch.dtype) -> None:
    result = worst(outcomes_in_half(CASES[name], dtype))
    assert result.kind in GOOD and result.kind != REFUSED, result.detail
