"""Search for poison in the data of a training run."""

from __future__ import annotations

import json
from pathlib import Path

from potion_fast.cli import main as cli
from potion_fast.cli import output
from potion_fast.detection import Suspects
from potion_fast.user.indices import read_indices


def test_poison_of_a_run_is_found_without_any_found_sample(tmp_path: Path):
    flags = ["--data", "digits", "--device", "cpu", "--quiet"]
    assert cli.main(["train", *flags, "--poisoned", "64", "--found", "16", "--out", str(tmp_path / "run")]) == 0
    for given, least in (([], 40), (["--found", str(tmp_path / "run" / "found.txt")], 60)):
        out = tmp_path / f"found{least}"
        assert cli.main(["find", str(tmp_path / "run"), *given, *flags[2:], "--out", str(out)]) == output.DONE
        poisoned = set(read_indices(tmp_path / "run" / "poisoned.txt", 1438))
        listed = set(Suspects.load(out / "suspects.csv").indices.tolist())
        assert len(listed & poisoned) >= least and len(listed - poisoned) < 8
        content = json.loads((out / "metrics.json").read_text())
        assert content["counts"]["suspects"] == len(listed) and content["samples"] == 1438
        assert (out / "suspects.png").is_file() and (out / "labels.csv").is_file()
