"""Broken files: an error of the project's own, or what the file held; no crash, no hang, nothing run or written."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from campaign import FULL, note
from formats import FORMATS, Format
from mutations import Mutator, bomb
from potion_fast.errors import FileError, PotionError
from potion_fast.plain import parse_yaml, read_json
from watch import at_most, little_memory, watched

INPUTS = 100_000 if FULL else 200
SECONDS = 10.0  # for one input: the slowest that is right takes a hundredth of that
MEMORY = 1 << 30  # bytes for all of them


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Of a run, in memory where the system has a place there; a canary beside it sings when a file makes it run."""
    memory = Path("/dev/shm")
    above = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    (above / "run" / "results").mkdir(parents=True)
    (above / "canary.py").write_text(f"open({str(above / 'sang')!r}, 'w')\ndef make(**_): raise SystemExit\n")
    monkeypatch.chdir(above)
    monkeypatch.syspath_prepend(above)
    yield above / "run"
    sang = (above / "sang").exists() or sys.modules.pop("canary", None)
    shutil.rmtree(above)
    assert not sang, "a file made code run"


def outcome(kind: Format, folder: Path, content: bytes) -> Any:
    """What is read, or the project's own error. Whatever else is raised fails the test, with the file in its words."""
    (folder / kind.file).write_bytes(content)
    try:
        with at_most(SECONDS):
            return kind.read(folder)
    except PotionError as error:
        assert str(error), content
        return error
    except BaseException as error:
        raise AssertionError(f"{type(error).__name__}: {str(error)[:200]}, of the file {content[:2000]!r}") from error


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def campaign(name: str, folder: Path, broken: Callable[[Mutator, bytes, list[bytes]], bytes], sealed: bool) -> None:
    kind, draw = FORMATS[name], Mutator(f"{name} {sealed}")
    good = kind.make(folder)
    others = [*good, draw.randbytes(200)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = [outcome(kind, folder, each) for each in good]
        assert any(not isinstance(each, PotionError) for each in wanted), "no file is good"
        refused, start = 0, time.perf_counter()
        with little_memory(MEMORY), watched(folder):
            for _ in range(INPUTS):
                content = broken(draw, draw.choice(good), others)
                found = outcome(kind, folder, content)
                refused += isinstance(found, PotionError)
                if sealed and not isinstance(found, PotionError):
                    assert any(same(found, each) for each in wanted), f"read as something else: {content!r}"
    rate = INPUTS / (time.perf_counter() - start)
    note(f"fuzz {name}{', single changes' * sealed}: {INPUTS:,} inputs, {refused:,} refused, {rate:,.0f} a second")


@pytest.mark.parametrize("name", FORMATS)
def test_a_broken_file_is_a_clear_error(folder: Path, name: str):
    campaign(name, folder, FORMATS[name].broken, sealed=False)


@pytest.mark.parametrize("name", [name for name, kind in FORMATS.items() if kind.sealed])
def test_a_change_of_a_sealed_file_is_told(folder: Path, name: str):
    """Bits flipped, bytes lost, doubled or from elsewhere: an error, or the very same content."""
    campaign(name, folder, Mutator.changed, sealed=True)


@pytest.mark.parametrize(
    "content", [bomb(), bomb(40), b"&a [*a]", b"[" * 20_000, b"- " * 20_000, b"!!int ''", b"!!timestamp x"]
)
def test_yaml_that_is_more_than_it_looks_is_refused(content: bytes):
    with at_most(SECONDS), little_memory(MEMORY), pytest.raises(FileError, match="cannot be read as YAML"):
        parse_yaml(content.decode(), "x.yaml")


def test_yaml_may_use_anchors():
    assert parse_yaml("base: &b {lr: 1}\nmore: [*b, *b]\nown: {<<: *b, k: 2}", "x") == {
        "base": {"lr": 1},
        "more": [{"lr": 1}, {"lr": 1}],
        "own": {"lr": 1, "k": 2},
    }


def test_json_that_is_nested_too_deeply_is_refused(tmp_path: Path):
    (tmp_path / "x.json").write_text("[" * 100_000)
    with pytest.raises(FileError, match="nested too deeply"):
        read_json(tmp_path / "x.json")
