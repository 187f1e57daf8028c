"""The examples of the README that heal a model run as they are printed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from helpers.poisoned_digits import PoisonedDigits
from potion_fast import HealResult, Suspects

ROOT = Path(__file__).resolve().parents[1]


def examples(page: str, heading: str) -> list[str]:
    """The code blocks of a page after a heading."""
    text = (ROOT / page).read_text(encoding="utf-8").partition(heading)[2]
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.mark.filterwarnings("ignore::potion_fast.PotionWarning")  # a few hundred images measure accuracy coarsely
def test_the_example_heals_and_hands_the_suspects_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    digits = PoisonedDigits()
    names: dict[str, Any] = {"model": digits.model, "train_set": digits.train_set, "found": digits.poisoned[:10]}
    exec(examples("README.md", "## On your own model")[0], names)
    result = names["result"]
    assert isinstance(result, HealResult) and isinstance(names["edited"], Suspects)
    assert capsys.readouterr().out.splitlines()[0].startswith(("healed", "not healed"))
    assert set(names["edited"].indices.tolist()) == set(result.suspects.indices.tolist())
    assert digits.attack_success(names["healed"]) < 0.5 * digits.attack_success(digits.model)
