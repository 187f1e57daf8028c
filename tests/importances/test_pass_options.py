"""Options of a pass: one object or keywords, checked in one place."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

import potion_fast as pf
from helpers.toys import batches, net, samples
from potion_fast.errors import ImportanceError
from potion_fast.importances import PassKeywords


def test_the_keywords_are_the_fields_of_the_options():
    keywords = {name: hint.__forward_arg__ for name, hint in PassKeywords.__annotations__.items()}
    assert keywords == {field.name: field.type for field in dataclasses.fields(pf.PassOptions)}
    assert not PassKeywords.__required_keys__


def test_a_keyword_takes_the_place_of_the_options_field():
    loader, options = batches(*samples(4), 2), pf.PassOptions(dtype=torch.float64, amp=torch.bfloat16)
    by_options = pf.importance(net(), loader, group_size=1, options=options)
    assert by_options.sums.dtype == torch.float64
    by_keywords = pf.importance(net(), loader, group_size=1, dtype=torch.float64, amp=torch.bfloat16)
    assert torch.equal(by_options.sums, by_keywords.sums)
    both = pf.importance(net(), loader, group_size=1, options=options, dtype=torch.float32)
    assert both.sums.dtype == torch.float32 and options.dtype == torch.float64


def test_a_keyword_that_is_no_option_is_a_type_error():
    keywords: dict[str, Any] = {"checkpiont": "pass"}
    with pytest.raises(TypeError, match=r"^importance\(\) got an unexpected keyword argument 'checkpiont'"):
        pf.importance(net(), batches(*samples(4), 2), group_size=1, **keywords)


def test_the_group_size_has_no_default():
    with pytest.raises(TypeError, match="group_size"):
        pf.importance(net(), batches(*samples(4), 2))  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("option", "match"),
    [
        ({"dtype": torch.float16}, "float16"),
        ({"amp": torch.float64}, "float64"),
        ({"checkpoint_seconds": float("nan")}, "checkpoint_seconds"),
        ({"checkpoint_seconds": -1.0}, "checkpoint_seconds"),
        ({"resume": True}, "checkpoint=PATH"),
    ],
)
def test_options_out_of_range_are_named(option: dict[str, Any], match: str):
    with pytest.raises(ImportanceError, match=match):
        pf.PassOptions(**option)
    with pytest.raises(ImportanceError, match=match):
        dataclasses.replace(pf.PassOptions(), **option)
