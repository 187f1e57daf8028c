"""Every kind of file that is read: valid examples, how they are mutated, and their readers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

import potion_fast as pf
from mutations import Mutator
from potion_fast.bench.attacks import GradientMatching, Perturbations
from potion_fast.bench.attacks.crafting.checkpoints import load_checkpoint, save_checkpoint
from potion_fast.bench.data import read_indices
from potion_fast.bench.models import create_model, load_model, load_weights, save_model
from potion_fast.bench.report.make import _earlier
from potion_fast.bench.report.results_csv import write_csv
from potion_fast.bench.runs import TrainConfig, UnlearnConfig
from potion_fast.bench.runs import inputs as earlier
from potion_fast.bench.sweep import load_sweep, make_plan
from potion_fast.bench.sweep.config import SweepConfig
from potion_fast.bench.sweep.rows import read_rows
from potion_fast.bench.sweep.sweep_folder import SweepFolder
from potion_fast.importances.checkpoints import PassCheckpoint, Position
from potion_fast.user.run_folder import RunFolder

IDENTITY = {"objectives": [["xlf"]], "group size": 1}
STARTED = {"name": "s", "poisoned": [4], "found": [1, 0.5], "methods": ["none", "ptn-xlf"]}
ARCHITECTURE: dict[str, Any] = {"num_classes": 3, "in_channels": 1, "classes": ["a", "b", "c"]}


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Attributes:
        file: Its path below a folder, where the reader expects it.
        make: Folder -> the bytes of valid files.
        broken: A method of `Mutator`.
        read: Folder -> the content to compare, or None.
        checksummed: A file with changed bytes is an error, or gives the same content.
    """

    file: str
    make: Callable[[Path], list[bytes]]
    broken: Callable[[Mutator, bytes, list[bytes]], bytes]
    read: Callable[[Path], Any]
    checksummed: bool = False


def _importance() -> pf.Importance:
    sums = torch.arange(12, dtype=torch.float32)
    return pf.Importance(sums, {"a.weight": (2, 4), "a.bias": (4,)}, 6, 6, "xlf", 1, "0123abcd", ("a.bias",))


def _importances(folder: Path) -> list[bytes]:
    importance = _importance()
    double = pf.Importance(importance.sums.double(), importance.shapes, 6, 3, "ssd", 2, "0123abcd")
    return [_saved(folder / "x.safetensors", saved.save) for saved in (importance, double)]


def _read_importance(folder: Path) -> Any:
    read = pf.Importance.load(folder / "x.safetensors")
    assert read.mean32.shape == read.sums.shape and (read.unusable is None or read.unusable in read.shapes)
    assert all(read[name].shape == shape for name, shape in read.shapes.items())
    read.to("cpu").save(folder / "again.safetensors")
    return [read.sums, {name: value for name, value in vars(read).items() if not name.startswith(("_", "sums"))}]


def _keeper(path: Path) -> PassCheckpoint:
    return PassCheckpoint(path, 300.0, [torch.ones(1, 5), torch.ones(2, 5)], IDENTITY, Position(4, 4, 7))


def _passes(folder: Path) -> list[bytes]:
    return [_saved(folder / "x.safetensors", lambda path: _keeper(path).save())]


def _read_pass(folder: Path) -> Any:
    keeper = _keeper(folder / "x.safetensors")
    before = [tensor.clone() for tensor in keeper.sums]
    try:
        position = keeper.load()
    except pf.PotionError:
        assert all(map(torch.equal, before, keeper.sums)), "half of a checkpoint was loaded"
        raise
    assert position.samples + position.terms + position.order >= 0
    return [*keeper.sums, asdict(position)]


def _craftings(folder: Path) -> list[bytes]:
    tensors = {"delta": torch.ones(2, 3), "adam.step": torch.tensor(3.0)}
    state = {"done": 3, "losses": [1.0, 0.5], "clean": [1.0]}
    return [_saved(folder / "x.safetensors", lambda path: save_checkpoint(path, IDENTITY, tensors, state))]


def _read_crafting(folder: Path) -> Any:
    found = load_checkpoint(folder / "x.safetensors", IDENTITY)
    assert found is not None
    return [*found[0].values(), found[1]]


def _perturbations(folder: Path) -> list[bytes]:
    ids, values = torch.tensor([2, 5]), torch.ones(2, 1, 4, 4)
    table = Perturbations(ids, values, torch.tensor([7]), torch.tensor([1]), {"poison": "gaussian"})
    return [_saved(folder / "x.safetensors", saved.save) for saved in (table, Perturbations(ids, values))]


def _read_perturbations(folder: Path) -> Any:
    table = Perturbations.load(folder / "x.safetensors")
    assert table.values.isfinite().all() and len(table.rows(table.ids)) == len(table.ids)
    return [table.ids, table.values, table.targets, table.intended, table.facts]


def _models(folder: Path) -> list[bytes]:
    options = {"width": 2, "depth": 1}
    metadata = {"architecture": "small_cnn", **ARCHITECTURE, "options": options}
    model = create_model("small_cnn", 3, 1, **options)
    factory = {**metadata, "architecture": "canary:make"}
    return [
        _saved(folder / "x.safetensors", lambda path, m=meta: save_model(path, model, m))
        for meta in (metadata, factory)
    ]


def _read_model(folder: Path) -> Any:
    model, metadata = load_model(folder / "x.safetensors")
    return [*model.state_dict().values(), metadata]


def _state_dicts(folder: Path) -> list[bytes]:
    model = create_model("small_cnn", 3, 1, width=2, depth=1)
    new = _saved(folder / "x.pth", lambda path: torch.save(model.state_dict(), path))
    old = _saved(folder / "x.pth", partial(_old_save, {"state_dict": model.state_dict()}))
    return [new, old]


def _old_save(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def _read_state_dict(folder: Path) -> None:
    load_weights(create_model("small_cnn", 3, 1, width=2, depth=1), folder / "x.pth")


def _sweeps(folder: Path) -> list[bytes]:
    sweep = {
        "train": {"train_size": 500, "width": 4, "device": "cpu"},
        "attacks": {"badnet": {"poison": "badnet", "patch_size": 3}},
        "poisoned": [32],
        "found": [1, 0.5],
        "methods": ["none", {"method": "ptn-xlf", "strategy": "bisect", "found": [0.5]}],
        "rho": [0.2],
    }
    short = {"poisoned": [4], "found": [1.0], "methods": ["none", {"method": "eu", "budget": [0.1, 0.2]}]}
    return [yaml.safe_dump(content, sort_keys=False).encode() for content in (sweep, short)]


def _read_sweep(folder: Path) -> None:
    whole = make_plan(load_sweep(folder / "x.yaml"))
    assert whole.tasks


def _started_sweeps(folder: Path) -> list[bytes]:
    content = {"command": "sweep", "config": SweepConfig.from_dict(STARTED).model_dump(), "versions": {"python": "3"}}
    return [yaml.safe_dump(content, sort_keys=False).encode()]


def _read_started(folder: Path) -> None:
    SweepFolder(folder).check(SweepConfig.from_dict(STARTED))


def _configs(folder: Path) -> list[bytes]:
    content = {"command": "train", "config": TrainConfig(device="cpu").resolved().to_dict(), "versions": {}}
    unlearn = {
        "command": "unlearn",
        "config": UnlearnConfig(run="r", device="cpu").resolved().to_dict(),
        "versions": {},
    }
    return [yaml.safe_dump(run, sort_keys=False).encode() for run in (content, unlearn)]


def _read_config(folder: Path) -> None:
    run = RunFolder.open(folder)
    command, config = run.read_config("train", "unlearn")
    (TrainConfig if command == "train" else UnlearnConfig).from_dict(config).resolved()


def _metrics(folder: Path) -> list[bytes]:
    metric = {"value": 0.5, "unit": "fraction", "n": 3, "ideal": 1.0, "denominator": "3 images"}
    names = ("clean_accuracy", "triggered_accuracy", "attack_success_rate")
    content = {"metrics": {name: {**metric, "name": name} for name in names}, "warnings": [], "seconds": 1.5}
    return [json.dumps(content).encode()]


def _read_metrics(folder: Path) -> None:
    found = earlier.metrics_of(RunFolder(folder), "badnet")
    assert all(abs(value) < float("inf") for value in found.values())


def _rows(folder: Path) -> list[bytes]:
    row: dict[str, object] = {
        "attack": "badnet",
        "data": "digits",
        "model": "small_cnn",
        "method": "ptn-xlf",
        "seed": 0,
        "poisoned": 8,
        "found": 2,
        "rho": 0.2,
        "seconds": {"search": 1.0, "total": 2.0},
        "warnings": ["w"],
        "trace": [[1, 0.1, 99.0, 1.5, 0.3, 12, 0.9, None]],
        "settings": {"b_start": 1.0},
    }
    earlier_one = {"rows": [{**row, "clean_accuracy": 0.9, "scores": {"a": 0.5}}], "measured": {"seconds": 1.0}}
    row |= {"attack_key": "badnet", "kind": "trigger", "score_names": ["a", "b"]}
    row |= {name: {"a": 0.5} for name in ("scores", "before_scores", "reference_scores")}
    content = {"format": 2, "rows": [row], "measured": {"seconds": 1.0}}
    return [json.dumps(each).encode() for each in (content, earlier_one)]


def _read_rows(folder: Path) -> None:
    rows = read_rows(folder / "results")
    assert all(row.phases is not None and row.scenario and row.share >= 0 for row in rows)  # 1 of 10^400 is 0.0
    assert all(1 <= row.found <= row.poisoned for row in rows)
    write_csv(folder / "rows.csv", rows)


def _manifests(folder: Path) -> list[bytes]:
    return [json.dumps({"files": ["report.json", "index.html", "tables/a.md", "figures/b.png"]}).encode()]


def _read_manifest(folder: Path) -> None:
    target = RunFolder(folder)
    assert all((target / name).resolve().is_relative_to(folder.resolve()) for name in _earlier(target))


def _predictions(folder: Path) -> list[bytes]:
    return [b"index,label,clean,triggered\n" + b"".join(b"%d,%d,%d,0\n" % (i, i % 3, i % 2) for i in range(9))]


def _read_predictions(folder: Path) -> None:
    table = Perturbations(torch.tensor([1]), torch.ones(1, 1, 2, 2), torch.tensor([7]), torch.tensor([1]))
    earlier._of_table(RunFolder(folder), GradientMatching, table)


def _indices(*texts: bytes) -> Callable[[Path], list[bytes]]:
    return lambda folder: list(texts)


def _arrays(folder: Path) -> list[bytes]:
    saved = [np.array([3, 1, 2]), np.arange(9, dtype=np.uint8)]
    return [_saved(folder / "x.npy", lambda path, a=array: np.save(path, a)) for array in saved] + [
        b"PK\x03\x04" + b"x" * 60
    ]


def _read_indices(name: str, folder: Path) -> None:
    found = read_indices(folder / name, 100)
    assert found and all(0 <= index < 100 for index in found)


def _saved(path: Path, save: Callable[[Path], Any]) -> bytes:
    save(path)
    content = path.read_bytes()
    path.unlink()
    return content


TEXT, YAML, JSON, TENSORS = Mutator.bytes_of, Mutator.yaml_of, Mutator.json_of, Mutator.safetensors_of
FORMATS = {
    "importances": Format("x.safetensors", _importances, TENSORS, _read_importance, checksummed=True),
    "pass": Format("x.safetensors", _passes, TENSORS, _read_pass, checksummed=True),
    "crafting": Format("x.safetensors", _craftings, TENSORS, _read_crafting, checksummed=True),
    "perturbations": Format("x.safetensors", _perturbations, TENSORS, _read_perturbations, checksummed=True),
    "model": Format("x.safetensors", _models, TENSORS, _read_model, checksummed=True),
    "state-dict": Format("x.pth", _state_dicts, TEXT, _read_state_dict),
    "sweep": Format("x.yaml", _sweeps, YAML, _read_sweep),
    "started-sweep": Format("sweep.yaml", _started_sweeps, YAML, _read_started),
    "config": Format("config.yaml", _configs, YAML, _read_config),
    "metrics": Format("metrics.json", _metrics, JSON, _read_metrics),
    "rows": Format("results/x.json", _rows, JSON, _read_rows),
    "manifest": Format("report.json", _manifests, JSON, _read_manifest),
    "predictions": Format("predictions.csv", _predictions, TEXT, _read_predictions),
    "indices-txt": Format("x.txt", _indices(b"3\n1 # a note\n\n2\n"), TEXT, partial(_read_indices, "x.txt")),
    "indices-csv": Format(
        "x.csv", _indices(b'index,why\n3,a\n1,"b,c"\n', b"7\n8\n"), TEXT, partial(_read_indices, "x.csv")
    ),
    "indices-json": Format("x.json", _indices(b"[3, 1, 2]"), JSON, partial(_read_indices, "x.json")),
    "indices-npy": Format("x.npy", _arrays, TEXT, partial(_read_indices, "x.npy")),
}
