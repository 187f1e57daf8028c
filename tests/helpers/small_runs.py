"""Runs that are trained once for all tests that read them: digits, a tiny network, in seconds."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from potion_fast.bench.runs import TrainConfig, UnlearnConfig, train_run, unlearn_run

# Few samples and a large patch, so that the trigger is learnt and unlearnt in a second.
TINY: dict[str, Any] = {"train_size": 500, "width": 4, "iterations": 60, "patch_size": 3, "device": "cpu"}


@pytest.fixture(scope="session")
def tiny() -> dict[str, Any]:
    """Settings of a training of one second."""
    return TINY


@pytest.fixture(scope="session")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "poisoned"
    train_run(TrainConfig(**TINY), path)
    return path


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "clean"
    train_run(TrainConfig(**TINY, leave_out_poisoned=True), path)
    return path


@pytest.fixture(scope="session")
def healed(tmp_path_factory: pytest.TempPathFactory, poisoned: Path, clean: Path) -> Path:
    path = tmp_path_factory.mktemp("runs") / "healed"
    unlearn_run(UnlearnConfig(run=str(poisoned), reference=str(clean), curve=True, device="cpu"), path)
    return path


@pytest.fixture
def copied(poisoned: Path, tmp_path: Path) -> Path:
    """A training run for a test to damage."""
    return Path(shutil.copytree(poisoned, tmp_path / "copied"))
