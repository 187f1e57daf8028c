"""Schemas: what they take, and how they refuse it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, field_validator, model_validator

from potion_fast.errors import DataError, PotionError
from potion_fast.user.flags import OrFactory, add_flags
from potion_fast.user.schema import SEEDS, Deviations, Integers, Schema, setting


class Settings(Schema):
    """One field of each kind."""

    source: str = setting(..., "folder to read", metavar="DIR")
    count: int | None = setting(None, "how many", metavar="N", default_text="all of 100 %", ge=1)
    size: Annotated[int, Field(ge=1)] | Literal["batch"] | None = setting(None, "of a group", metavar="N")
    rate: float = setting(0.5, "above 0", metavar="X", gt=0, le=2)
    seed: int = setting(0, "of all draws", metavar="N", ge=0, lt=SEEDS)
    fast: bool = setting(False, "go faster")
    checked: bool = setting(True, "check nothing")
    order: Literal["up", "down"] = setting("up", "of the samples")
    corner: Literal["left", "right"] = setting("left", "a name, read like any other text", metavar="NAME")
    data: str = setting("digits", "data set", metavar="NAME", choices=OrFactory(["digits", "folder"]))
    pair: Integers | None = setting(None, "two labels", metavar="A,B", left_out=True)
    seeds: Integers = setting((0,), "several", metavar="N", many=True)
    std: Deviations | None = setting(None, "per channel", metavar="X", many=True)
    hidden: int | None = setting(None, "of a file alone", metavar="N", flag=False)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="settings", exit_on_error=False)
    add_flags(parser, Settings)
    return parser


def parsed(*arguments: str) -> Settings:
    return Settings.from_flags(vars(parser().parse_args(["a", *arguments])))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "the configuration lacks the key 'source'"),
        ({"source": 3}, "source must be text, not 3"),
        ({"source": None}, "source must be text, not None"),
        ({"source": "a", "colour": 1}, "unknown key 'colour' in the configuration; known: source, count, size, rate"),
        ({"source": "a", 3: 1}, "unknown key 3 in the configuration"),
        ({"source": "a", "count": 0}, "count must be at least 1, not 0"),
        ({"source": "a", "count": 1.0}, "count must be a whole number, not 1.0"),
        ({"source": "a", "count": True}, "count must be a whole number, not True"),
        ({"source": "a", "count": "1"}, "count must be a whole number, not '1'"),
        ({"source": "a", "size": 0}, "size must be at least 1, not 0"),
        ({"source": "a", "size": "all"}, "size must be a whole number or 'batch', not 'all'"),
        ({"source": "a", "rate": 0}, "rate must be above 0, not 0"),
        ({"source": "a", "rate": 2.5}, "rate must be at most 2, not 2.5"),
        ({"source": "a", "rate": float("nan")}, "rate must be finite, not nan"),
        ({"source": "a", "rate": "0.5"}, "rate must be a number, not '0.5'"),
        ({"source": "a", "seed": 2**32}, "seed must be below 2^32, not 4294967296"),
        ({"source": "a", "fast": 1}, "fast must be true or false, not 1"),
        ({"source": "a", "order": "left"}, "order must be 'up' or 'down', not 'left'"),
        ({"source": "a", "pair": [1, "b"]}, "pair must be a list of numbers, not [1, 'b']"),
        ({"source": "a", "pair": 3}, "pair must be a list of numbers, not 3"),
        ({"source": "a", "std": [0.5, 0]}, "each of std must be above 0, not 0"),
        ({"source": "a", "std": [58.4]}, "each of std must be at most 1, not 58.4"),
        ({"source": "a", "std": 0.5}, "std must be a list of numbers, not 0.5"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(values: dict[Any, Any], words: str):
    with pytest.raises(PotionError) as refused:
        Settings.from_dict(values)
    assert type(refused.value) is PotionError
    assert str(refused.value).startswith(words) and "\n" not in str(refused.value)


def test_a_validators_own_error_comes_through_as_it_is():
    class Judged(Schema):
        error_type = DataError
        low: int = setting(0, "lower", metavar="N")
        high: int = setting(1, "higher", metavar="N")

        @model_validator(mode="after")
        def _ordered(self) -> Judged:
            if self.low > self.high:
                raise DataError(f"low {self.low} is above high {self.high}")
            return self

    with pytest.raises(DataError, match="^low 3 is above high 1$"):
        Judged(low=3)
    with pytest.raises(DataError, match="low must be a whole number"):
        Judged(low=0.5)  # type: ignore[arg-type]


def test_validators_may_raise_plain_value_errors():
    class Even(Schema):
        number: int = setting(0, "even", metavar="N")
        word: str = setting("a", "one letter", metavar="X")

        @field_validator("number")
        @classmethod
        def _is_even(cls, number: int) -> int:
            if number % 2:
                raise ValueError("it is odd")
            return number

        @model_validator(mode="after")
        def _fit(self) -> Even:
            if self.number > 8 and self.word == "a":
                raise ValueError("so large a number needs another word")
            return self

    for values, words in (
        ({"number": 3}, "number 3: it is odd"),
        ({"number": 10}, "so large a number needs another word"),
    ):
        with pytest.raises(PotionError) as refused:
            Even.from_dict(values)
        assert str(refused.value) == words


def test_settings_survive_their_file_and_are_changed_in_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings = Settings(source="a", pair=(3, 5), std=(0.5, 1), rate=1)
    plain = settings.to_dict()
    assert plain["pair"] == [3, 5] and plain["std"] == [0.5, 1.0] and "count" in plain
    assert "pair" not in Settings(source="a").to_dict()  # left out where it is None
    assert Settings.from_dict(plain) == settings

    changed = settings.updated(rate=2.0)
    assert (changed.rate, changed.pair, settings.rate) == (2.0, (3, 5), 1.0)
    assert set(changed.given()) == {"source", "pair", "std", "rate"}
    with pytest.raises(PotionError, match="rate must be above 0"):
        settings.updated(rate=0.0)
    with pytest.raises(Exception, match="frozen"):
        settings.rate = 1.0  # type: ignore[misc]

    monkeypatch.chdir(tmp_path)
    assert settings.absolute_paths() == {"source": str(tmp_path / "a")}


def test_flags_give_what_was_typed_and_leave_the_rest_to_the_defaults():
    assert parsed() == Settings(source="a")
    assert parsed().given() == {"source": "a"}
    flags = "--count 3 --size batch --rate 1e-3 --fast --no-checked --order down --pair 3,5 --seeds 2 1 --data my:set"
    assert parsed(*flags.split()) == Settings(
        source="a",
        count=3,
        size="batch",
        rate=1e-3,
        fast=True,
        checked=False,
        order="down",
        pair=(3, 5),
        seeds=(2, 1),
        data="my:set",
    )
    assert parsed("--size", "4").size == 4
    for flags in ("--std 0.5 0.25 1", "--std 0.5,0.25,1", "--std 0.5 0.25,1"):
        assert parsed(*flags.split()).std == (0.5, 0.25, 1.0)


@pytest.mark.parametrize(
    "flags",
    [
        "--count many",
        "--size all",
        "--order left",
        "--data mnist",
        "--pair 3;5",
        "--std a",
        "--hidden 1",
        "--colour red",
    ],
)
def test_flags_that_cannot_be_read_are_wrong_usage(flags: str):
    with pytest.raises((argparse.ArgumentError, SystemExit)):
        parsed(*flags.split())


def test_flags_that_can_be_read_are_judged_by_the_schema():
    for flags, words in (
        ("--count 0", "count must be at least 1"),
        ("--corner top", "corner must be 'left' or 'right'"),
        ("--std 0.5 -1", "each of std must be above 0, not -1"),
    ):
        with pytest.raises(PotionError, match=words):
            parsed(*flags.split())


def test_help_names_units_choices_and_defaults():
    text = " ".join(parser().format_help().split())
    for words in (
        "SOURCE folder to read",
        "--count N how many (default: all of 100 %)",
        "--no-checked check nothing",
        "--order {up,down} of the samples (default: up)",
        "--corner NAME a name, read like any other text (default: left)",
        "--pair A,B two labels",
        "--seeds N [N ...]",
    ):
        assert words in text
    assert "hidden" not in text
