"""Broken files: one of the project's own errors, or the file's content; no crash, no hang, nothing run or written."""

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
from potion_fast.user.read_data import parse_yaml, read_json
from watch import at_most, little_memory, watched

INPUTS = 100_000 if FULL else 200
SECONDS = 10.0  # for one input: the slowest valid one takes a hundredth of that
MEMORY = 1 << 30  # bytes for all of them


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a run, in memory if possible; a canary next to it sings if a file causes it to be imported."""
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
    """The content read, or the project's own error; any other exception fails the test and shows the file."""
    (folder / kind.file).write_bytes(content)
    try:
        with at_most(SECONDS):
            return kind.read(folder)
    except PotionError as error:
        assert str(error), content
        return error
    except BaseException as error:
        raise AssertionError(f"{type(error).__name__}: {str(error)[:200]}, of the file {content[:2000]!r}") from error


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def campaign(
    name: str, folder: Path, broken: Callable[[Mutator, bytes, list[bytes]], bytes], unchanged_or_refused: bool
) -> None:
    kind, draw = FORMATS[name], Mutator(f"{name} {unchanged_or_refused}")
    good = kind.make(folder)
    others = [*good, draw.randbytes(200)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = [outcome(kind, folder, content) for content in good]
        assert any(not isinstance(value, PotionError) for value in wanted), "no file is good"
        refused, start = 0, time.perf_counter()
        with little_memory(MEMORY), watched(folder):
            for _ in range(INPUTS):
                content = broken(draw, draw.choice(good), others)
                found = outcome(kind, folder, content)
                refused += isinstance(found, PotionError)
                if unchanged_or_refused and not isinstance(found, PotionError):
                    assert any(same(found, value) for value in wanted), f"read with other content: {content!r}"
    rate = INPUTS / (time.perf_counter() - start)
    title = f"{name}, single changes" if unchanged_or_refused else name
    note(f"fuzz {title}: {INPUTS:,} inputs, {refused:,} refused, {rate:,.0f} a second")


@pytest.mark.parametrize("name", FORMATS)
def test_a_broken_file_is_a_clear_error(folder: Path, name: str):
    campaign(name, folder, FORMATS[name].broken, unchanged_or_refused=False)


@pytest.mark.parametrize("name", [name for name, kind in FORMATS.items() if kind.checksummed])
def test_a_change_of_a_file_with_a_checksum_is_detected(folder: Path, name: str):
    """Bits flipped, bytes lost, doubled or from elsewhere: an error, or the same content."""
    campaign(name, folder, Mutator.changed, unchanged_or_refused=True)


@pytest.mark.parametrize(
    "content",
    [
        bomb(),
        bomb(40),
        b"&a [*a]",
        b"[" * 20_000,
        b"[\n" * 20_000,
        b"- " * 2_000,
        b"- " * 20_000,
        b"!!int ''",
        b"!!timestamp x",
    ],
)
def test_yaml_that_expands_without_bound_is_refused(content: bytes):
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


def altered(name: str, **changes: Any) -> bytes:
    """The first good file of a kind with a checksum, with other fields and a correct checksum."""
    with tempfile.TemporaryDirectory() as folder:
        good = FORMATS[name].make(Path(folder))[0]
    return Mutator.resealed(good, lambda content, tensors: (content | changes, tensors))


METHOD = b"{poisoned: [4], found: [1], methods: [{method: ptn-xlf, %s}]}"
ONCE: dict[str, tuple[str, Callable[[], bytes]]] = {  # what once broke a reader, or was read without an error
    "a metric that is infinite": ("metrics", lambda: metrics("1e999")),
    "a metric that is no number": ("metrics", lambda: metrics("NaN")),
    "a metric too large for a float": ("metrics", lambda: metrics("1" + "0" * 400)),
    "seconds that are text": ("rows", lambda: rows(b'"seconds": {"search": "x"}')),
    "seconds too large for a float": ("rows", lambda: rows(b'"seconds": {"search": 1' + b"0" * 400 + b"}")),
    "a report's file that is a number": ("manifest", lambda: b'{"files": [1]}'),
    "a report's file in the root": ("manifest", lambda: b'{"files": ["/report.json"]}'),
    "a report's file elsewhere": ("manifest", lambda: b'{"files": ["tables/../../x.csv"]}'),
    "a field that is too long": ("predictions", lambda: b"index,label,clean\n" + b"1" * 200_000),
    "an array that is a zip": ("indices-npy", lambda: b"PK\x03\x04" + bytes(60)),
    "an array of eight terabytes": ("indices-npy", lambda: array("(1000000000000,)")),
    "an array of objects": ("indices-npy", lambda: array("(1,)", "|O")),
    "a list nested too deeply": ("indices-json", lambda: b"[" * 100_000),
    "a ratio that is text": ("sweep", lambda: b"{poisoned: [4], found: [1], methods: [none], rho: ['0.2']}"),
    "an attack that is no mapping": ("sweep", lambda: b"{poisoned: [4], found: [1], methods: [none], attacks: {a: 1}}"),
    "a sample count of 400 digits": ("sweep", lambda: b"{poisoned: [1%s], found: [1], methods: [none]}" % (b"0" * 400)),
    "a grid of a trillion": (
        "sweep",
        lambda: b"{poisoned: &a [%s], seeds: *a, found: *a, methods: [none]}" % (b"1, " * 10_000),
    ),
    "a method's setting without a name": ("sweep", lambda: METHOD % b"2: 3"),
    "a method that is named twice": ("sweep", lambda: METHOD % b"name: x"),
    "a strategy that is a list": ("sweep", lambda: METHOD % b"strategy: []"),
    "a start that is text": ("sweep", lambda: METHOD % b"b_start: x"),
    "a mode that is a list": ("sweep", lambda: METHOD % b"mode: [default]"),
    "importances of no group": ("importances", lambda: altered("importances", terms=0)),
    "importances of half a sample": ("importances", lambda: altered("importances", samples=6.5)),
    "importances of a shape below 0": ("importances", lambda: altered("importances", shapes=[["a", [-3, -4]]])),
    "importances whose names are numbers": ("importances", lambda: altered("importances", fallback=[1])),
    "a pass that has come to no number": ("pass", lambda: altered("pass", position={"samples": "x"})),
    "a crafting whose state is a list": ("crafting", lambda: altered("crafting", state=[])),
    "a model of a billion layers": ("model", lambda: altered("model", options={"depth": 10**9})),
    "a model that is named twice": ("model", lambda: altered("model", options={"num_classes": 3})),
}


def metrics(value: str) -> bytes:
    names = ("clean_accuracy", "triggered_accuracy", "attack_success_rate")
    inner = ", ".join(f'"{name}": {{"value": {value}}}' for name in names)
    return f'{{"metrics": {{{inner}}}}}'.encode()


def rows(more: bytes) -> bytes:
    row = b'"attack": "badnet", "data": "d", "model": "m", "method": "none", "seed": 0, "poisoned": 2, "found": 1, '
    return b'{"rows": [{' + row + more + b"}]}"


def array(shape: str, kind: str = "<i8") -> bytes:
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64)


@pytest.mark.parametrize("name", ONCE)
def test_what_once_broke_a_reader_is_refused(folder: Path, name: str):
    kind, make = ONCE[name]
    content = make()
    with little_memory(MEMORY), watched(folder):
        assert isinstance(outcome(FORMATS[kind], folder, content), PotionError)


def test_a_pass_of_another_shape_is_not_taken_over(folder: Path):
    """One number would have been broadcast to all elements."""
    good = FORMATS["pass"].make(folder)[0]
    ones = {"sums.0": torch.ones(1, 1), "sums.1": torch.ones(1, 1)}
    content = Mutator.resealed(good, lambda content, tensors: (content, ones))
    assert isinstance(outcome(FORMATS["pass"], folder, content), FileError)
