"""The report of `potion-fast doctor`."""

from __future__ import annotations

import json

import pytest
import torch

from potion_fast import ops
from potion_fast.cli.doctor import doctor, format_report
from potion_fast.ops import _dispatch


def test_the_report_is_json_and_names_every_operation() -> None:
    report = json.loads(json.dumps(doctor()))
    assert set(report["backends"]) == set(ops.OPS)
    assert report["versions"]["torch"] == torch.__version__
    for choices in report["backends"].values():
        assert set(choices) == {"cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))}
        assert all(choice["backend"] and choice["reason"] for choice in choices.values())


def test_the_text_shows_the_choice_and_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POTION_FAST_BACKEND", "reference")
    lines = format_report(doctor()).splitlines()
    words = [line.split(maxsplit=3) for line in lines]
    assert all([op, "cpu", "reference", "POTION_FAST_BACKEND asks for it"] in words for op in ops.OPS)
    assert "  POTION_FAST_BACKEND=reference" in lines


def test_a_backend_that_is_not_there_is_reported_and_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POTION_FAST_BACKEND", "cuda")
    report = doctor()
    assert report["backends"]["dampen"]["cpu"]["backend"] is None
    assert "CUDA tensors" in report["backends"]["dampen"]["cpu"]["reason"]
    assert report["backends"]["row_sums"]["cpu"]["backend"] in ("cpu", "reference")  # there is no such kernel in CUDA
    assert any(line.split()[:3] == ["dampen", "cpu", "none"] for line in format_report(report).splitlines())


def test_an_installation_without_native_code_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (ops, _dispatch):
        monkeypatch.setattr(module, "native", None)
        monkeypatch.setattr(module, "native_problem", "the native module was not built")
    ops.missing.cache_clear()
    text = format_report(doctor())
    ops.missing.cache_clear()
    assert "native module\n  the native module was not built\n" in text
    assert "no cpu: the native module was not built" in text
