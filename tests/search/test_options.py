from __future__ import annotations

from dataclasses import fields

import pytest

import potion_fast as pf
from helpers.toys import assert_same_weights, weights
from potion_fast.errors import ImportanceError, SearchError
from potion_fast.importances import PassKeywords, PassOptions
from potion_fast.search import SearchKeywords, SearchOptions
from potion_fast.unlearning import UnlearnKeywords


def test_every_option_may_be_given_as_a_keyword_of_the_same_type():
    assert SearchKeywords.__annotations__.keys() == {field.name for field in fields(SearchOptions)}
    annotations = {name: kind.__forward_arg__ for name, kind in SearchKeywords.__annotations__.items()}
    assert annotations == {field.name: field.type for field in fields(SearchOptions)}


def test_no_option_of_a_search_has_the_name_of_an_option_of_a_pass():
    assert not SearchKeywords.__annotations__.keys() & PassKeywords.__annotations__.keys()
    both = SearchKeywords.__annotations__.keys() | PassKeywords.__annotations__.keys()
    assert UnlearnKeywords.__annotations__.keys() == both


def test_a_keyword_wins_over_the_options(blobs):
    forget, retain = (pf.importance(blobs.model, loader, group_size=1) for loader in (blobs.forget(), blobs.retain()))
    want = pf.ptn_search(blobs.model, forget, retain, blobs.forget(), strategy="bisect", rho=0.5)
    options = SearchOptions(strategy="bisect", rho=0.1)
    got = pf.ptn_search(blobs.model, forget, retain, blobs.forget(), options=options, rho=0.5)
    assert (got.strategy, got.rho) == ("bisect", 0.5)
    assert_same_weights(got.model, weights(want.model))


def test_options_of_passes_and_search_may_be_given_as_objects_or_as_keywords(blobs):
    loaders = blobs.retain(), blobs.forget()
    want = pf.unlearn(blobs.model, *loaders, amp=None, rho=0.5, mode="paper", strategy="minimal")
    passes, search = PassOptions(progress=True), SearchOptions(rho=0.5, mode="paper", strategy="minimal")
    got = pf.unlearn(blobs.model, *loaders, passes=passes, search=search, progress=False)
    assert (got.rho, got.mode, got.strategy, got.group_size) == (0.5, "paper", "minimal", 1)
    assert_same_weights(got.model, weights(want.model))


def test_an_unknown_keyword_is_a_type_error(blobs):
    for name in ("ratio", "RHO"):
        with pytest.raises(TypeError, match=rf"^unlearn\(\) got an unexpected keyword argument '{name}'"):
            pf.unlearn(blobs.model, None, None, **{name: 0.1})
        with pytest.raises(TypeError, match=rf"^ptn_search\(\) got an unexpected keyword argument '{name}'"):
            pf.ptn_search(blobs.model, None, None, None, **{name: 0.1})


def test_an_option_out_of_range_is_refused_where_it_is_written():
    with pytest.raises(SearchError, match="rho must be in"):
        SearchOptions(rho=2)
    with pytest.raises(ImportanceError, match="checkpoint=PATH"):
        pf.unlearn(None, None, None, resume=True)


def test_the_mode_fills_in_what_is_left_out_and_steps_stay_out_where_there_are_none():
    want = SearchOptions(mode="paper", b_start=25.0, s_step=1.5, strict=True, retain_holds_forget=True)
    assert SearchOptions(mode="paper", s_step=1.5).resolved() == want.resolved() == want
    want = SearchOptions(mode="paper", strategy="minimal", strict=True)
    assert SearchOptions(mode="paper", strategy="minimal").resolved() == want.resolved() == want
