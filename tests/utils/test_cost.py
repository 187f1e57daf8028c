"""Cost of healing."""

from __future__ import annotations

from potion_fast.utils.cost import Cost


def test_costs_add_up_to_epochs() -> None:
    cost = Cost(forward=100) + Cost(forward=200, backward=200)
    assert cost == Cost(300, 200)
    assert cost.epochs(100) == 700 / 300
    assert Cost(50, 50).epochs(50) == 1
