"""Settings for every test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

# Without a GPU the Triton kernels run in Triton's interpreter, which must be chosen before they are imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from helpers.backends import pytest_generate_tests  # noqa: F401
from helpers.toys import Blobs


@pytest.fixture(autouse=True)
def _no_backend_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POTION_FAST_BACKEND", raising=False)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Bits do not depend on how many cores are free, and other processes have one thread too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def blobs() -> Blobs:
    return Blobs()
