from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from potion_fast.bench import configs as config
from potion_fast.bench.runs import demo as demo_module
from potion_fast.bench.runs.demo import demo
from potion_fast.errors import FileError, PotionError


def test_the_demo_of_one_seed_and_over_it_of_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, value in {"width": 4, "iterations": 30, "patch_size": 3}.items():
        monkeypatch.setitem(config.DATA_DEFAULTS["digits"], name, value)
    monkeypatch.setattr(demo_module, "LEARNT", 1.1)  # as if the attack had not worked
    lines: list[str] = []
    content = demo(tmp_path, say=lines.append)
    assert json.loads((tmp_path / "metrics.json").read_text()) == content
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "clean",
        "config.yaml",
        "dampened",
        "healed",
        "healing.png",
        "metrics.json",
        "poisoned",
        "suspects.png",
    ]
    for name in ("healing.png", "suspects.png"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "healed" / name).read_bytes()
    (result,) = content["seeds"]
    names = [line[:14].rstrip() for line in lines[0].splitlines() if "%" in line]
    assert names[:4] == ["poisoned", "dampened", "healed", "never poisoned"]
    suspects = result["after"]["suspects"]
    rest = f"found {suspects['hidden_suspects']} of 48 samples, and {suspects['clean']} that are clean"
    assert f"the rest of the poison: {rest}" in lines[0]
    assert f"{result['dampened']['metrics']['poison_healed']['value']:.1f}%" in lines[0]
    assert lines[-1].endswith("suspects.png")

    assert content["seeds_counted"] == []
    assert set(content["median"].values()) == {None}

    with pytest.raises(FileError, match="already there"):
        demo(tmp_path)
    monkeypatch.setattr(demo_module, "LEARNT", 0.0)  # and now with every seed
    lines.clear()
    content = demo(tmp_path, seeds=(3, 1), overwrite=True, say=lines.append)
    assert [seed["seed"] for seed in content["seeds"]] == content["seeds_counted"] == [3, 1]
    assert (tmp_path / "healing.png").read_bytes() == (tmp_path / "seed-3" / "healed" / "healing.png").read_bytes()
    damages = [seed["after"]["metrics"]["model_damage"]["value"] for seed in content["seeds"]]
    assert content["median"]["model_damage"] == pytest.approx(np.mean(damages))  # of two values
    assert any(f"model damage {np.mean(damages):+.2f} points" in line for line in lines)


def test_without_a_single_attack_that_works_there_is_no_median():
    line = demo_module._summary({"seeds": [{}, {}], "seeds_counted": [], "median": {"model_damage": None}})
    assert "none of 2 seeds" in line


@pytest.mark.parametrize("seeds", [(), (1, 1), (0, -1)])
def test_bad_seeds_are_refused_before_a_folder_is_made(tmp_path: Path, seeds: tuple[int, ...]):
    with pytest.raises(PotionError, match="seed"):
        demo(tmp_path / "out", seeds=seeds)
    assert not (tmp_path / "out").exists()
