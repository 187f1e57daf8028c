from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from potion_fast.errors import ModelError, PotionError
from potion_fast.experiments import EvaluateConfig, TrainConfig, UnlearnConfig
from potion_fast.experiments.config import from_dict, resolved_device, to_dict


def test_configurations_survive_their_file(tmp_path: Path):
    for told in (
        TrainConfig(mean=(0.1,), std=(1e-5,), lr=1, trigger_value=1.5),
        UnlearnConfig(run="a", group_size="batch", w=2.0),
        UnlearnConfig(run="a", group_size=3),
        EvaluateConfig(run="a", reference="b"),
    ):
        read = from_dict(type(told), yaml.safe_load(yaml.safe_dump(to_dict(told))))
        assert read == told


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        (TrainConfig, {"learning_rate": 1.0}, "unknown key 'learning_rate'"),
        (TrainConfig, {3: 1.0}, "unknown key 3"),
        (UnlearnConfig, {}, "lacks the key 'run'"),
        (UnlearnConfig, {"run": 3}, "run must be text, not 3"),
        (UnlearnConfig, {"run": "a", "group_size": "all"}, "group_size must be a whole number or 'batch', not 'all'"),
        (UnlearnConfig, {"run": "a", "group_size": 0}, "group_size must be at least 1"),
        (UnlearnConfig, {"run": "a", "rho": "0.2"}, "rho must be a number"),
        (UnlearnConfig, {"run": "a", "max_steps": 0}, "max_steps must be at least 1"),
        (TrainConfig, {"seed": -1}, "seed must be at least 0"),
        (TrainConfig, {"seed": 2**32}, "seed must be below"),
        (TrainConfig, {"seed": True}, "seed must be a whole number, not True"),
        (TrainConfig, {"batch_size": 0}, "batch_size must be at least 1"),
        (TrainConfig, {"iterations": 2.5}, "iterations must be a whole number"),
        (TrainConfig, {"lr": 0}, "lr must be above 0"),
        (TrainConfig, {"momentum": -0.1}, "momentum must be at least 0"),
        (TrainConfig, {"weight_decay": float("inf")}, "weight_decay must be finite"),
        (TrainConfig, {"trigger_value": float("nan")}, "trigger_value must be finite"),
    ],
)
def test_a_wrong_value_is_named(kind: Any, values: dict[Any, Any], words: str):
    with pytest.raises(PotionError, match=words):
        from_dict(kind, values)


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    resolved = UnlearnConfig(run="a", root="~/data", forget="b/../c.txt", device="cpu").resolved()
    assert resolved.run == str(tmp_path / "a")
    assert resolved.root == "/home/me/data"
    assert resolved.forget == str(tmp_path / "c.txt")
    assert resolved.reference is None


def test_w_takes_the_place_of_the_objective():
    assert UnlearnConfig(run="a", device="cpu").resolved().objective == "xlf"
    assert UnlearnConfig(run="a", w=0.5, device="cpu").resolved().objective is None


def test_a_device_that_is_missing_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [resolved_device(name) for name in ("auto", "cuda", "cuda:1", "cpu")] == ["cuda", "cuda", "cuda:1", "cpu"]
    with pytest.raises(ModelError, match="2 CUDA GPUs"):
        resolved_device("cuda:2")
