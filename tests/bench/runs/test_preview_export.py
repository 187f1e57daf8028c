"""Pictures and copies of poisoned data."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from torchvision.datasets import ImageFolder

from helpers.run_files import rows, stored
from potion_fast.bench.attacks import ATTACKS, Perturbations, shared_options
from potion_fast.bench.data import load_dataset, read_indices
from potion_fast.bench.figures import preview
from potion_fast.bench.runs import Scenario, TrainConfig, export, export_run, preview_run, train_run
from potion_fast.bench.runs.export import folder_names
from potion_fast.bench.runs.inputs import PERTURBATIONS
from potion_fast.cli import main as cli
from potion_fast.cli import output
from potion_fast.errors import DataError, FileError, PotionError

SMALL: dict[str, Any] = {"train_size": 200, "poisoned": 12, "found": 5, "device": "cpu"}
OF_IMAGES = [name for name in ATTACKS if name != "trigger-word"]
WITHOUT_TRIGGER = ("swap", "gaussian", "targeted", "indiscriminate")  # kinds


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder data set of small colour images whose class names are no numbers."""
    root = tmp_path_factory.mktemp("colour")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 3)):
        for name in ("ant", "bee_with_a_name_that_is_long", "cow$_{"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (16, 20, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


def in_colour(root: Path, **options: Any) -> TrainConfig:
    return TrainConfig(data="folder", root=str(root), poisoned=8, found=3, device="cpu", **options)


def with_perturbations(config: TrainConfig, folder: Path) -> TrainConfig:
    """For a poison that is crafted, some perturbations of a third of an image's range; else as it is."""
    if ATTACKS[config.poison].kind not in ("targeted", "indiscriminate"):
        return config
    scenario = Scenario.load(config.updated(leave_out_poisoned=True))
    shape = (len(scenario.poisoned), scenario.splits.channels, *scenario.splits.size)
    values = torch.rand(shape, generator=torch.Generator().manual_seed(0)) - 0.5
    targets, intended = torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
    if scenario.poison.kind == "targeted":
        targets, intended = torch.tensor(scenario.attacked.rows[:1]), scenario.attacked.wanted[:1]
    facts = {"bases": scenario.bases}
    Perturbations(torch.tensor(scenario.poisoned), values, targets, intended, facts).save(folder / "crafted")
    epsilon = 255.0 if scenario.poison.kind == "targeted" else None
    return config.updated(perturbations=str(folder / "crafted"), epsilon=epsilon)


# --- preview


@pytest.mark.parametrize("poison", OF_IMAGES)
@pytest.mark.parametrize("images", [1, 12])
def test_a_preview_shows_images_and_labels_before_and_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, poison: str, images: int
):
    drawn: list[Figure] = []

    class Kept(Figure):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            drawn.append(self)

    monkeypatch.setattr(preview, "Figure", Kept)
    config, out = with_perturbations(TrainConfig(**SMALL, poison=poison), tmp_path), tmp_path / "out"
    content = preview_run(config, out, images=images)
    scenario = Scenario.load(config)
    files = ["config.yaml", *["covers.txt"] * bool(scenario.covers), "found.txt", "poisoned.txt", "preview.png"]
    assert sorted(path.name for path in out.iterdir()) == files
    assert read_indices(out / "poisoned.txt", len(scenario.splits.train)) == scenario.poisoned
    shown = [row["index"] for row in content["shown"]]
    assert len(set(shown)) == images and set(shown) <= set(scenario.poisoned)

    (figure,) = drawn
    with Image.open(out / "preview.png") as image:
        assert image.format == "PNG"
        assert image.size == tuple(round(side * preview.DPI) for side in figure.get_size_inches())
    grid = np.array(figure.axes).reshape(-1, images)  # rows of Axes
    assert len(grid) == (2 if "swap" in poison else 3)  # where no pixel changes there is no difference to show
    clean, poisoned = scenario.splits.dataset("train"), scenario.train_set(augment=False)
    changed, summed = (1, 2) if scenario.table is not None else (2, 1)  # rows
    for column, row in enumerate(content["shown"]):
        before, label = clean[row["index"]]
        after, given = poisoned[row["index"]]
        assert (row["label"], row["given"]) == (int(label), int(given))
        assert grid[0, column].get_title() == str(int(label))
        assert grid[summed, column].get_title() == f"“{int(given)}”"
        assert grid[-1, column].get_xlabel() == f"image {row['index']}"
        for axes, image in zip(grid[[0, summed], column], (before, after), strict=True):
            assert np.array_equal(axes.images[0].get_array(), scenario.pixels(image)[0].numpy())
        if scenario.table is not None:
            drawn_change = grid[changed, column].images[0].get_array() - 0.5
            expected = scenario.table.values[scenario.poisoned.index(row["index"])][0].numpy()
            assert np.allclose(drawn_change / abs(drawn_change).max(), expected / abs(expected).max(), atol=1e-5)
        elif "swap" not in poison:
            change = grid[changed, column].images[0].get_array() - 0.5
            assert np.array_equal(change != 0, (scenario.pixels(after) != scenario.pixels(before))[0].numpy())
    ticks = {label for axes in figure.findobj(Axes) for label in (*axes.get_xticklabels(), *axes.get_yticklabels())}
    for text in set(figure.findobj(Text)) - ticks:
        box = text.get_window_extent()
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1


def test_a_preview_shortens_class_names_and_reads_no_mathematics(colour: Path, tmp_path: Path):
    content = preview_run(in_colour(colour, poison="sine-wave"), tmp_path, images=12)
    assert len(content["shown"]) == 8  # no more than there are


@pytest.mark.parametrize("images", [0, 13])
def test_a_preview_of_too_many_or_no_images_is_refused(tmp_path: Path, images: int):
    with pytest.raises(PotionError, match="images must be from 1 to 12"):
        preview_run(TrainConfig(**SMALL), tmp_path / "out", images=images)
    assert not (tmp_path / "out").exists()


# --- export


@pytest.mark.parametrize("poison", OF_IMAGES)
def test_exported_folders_hold_what_a_model_is_trained_and_tested_on(colour: Path, tmp_path: Path, poison: str):
    options = {"swap_classes": (0, 2)} if poison == "interclass-swap" else {}
    config = with_perturbations(in_colour(colour, poison=poison, **options), tmp_path)
    out = tmp_path / "out"
    content = export_run(config, out)
    scenario = Scenario.load(config)
    n = 44 if poison == "gradient-canceling" else 36  # with its copies
    triggered = scenario.poison.kind not in WITHOUT_TRIGGER
    assert content["images"] == {"train": n, "test": 9, **({"triggered": 9} if triggered else {})}
    assert (out / "triggered").exists() == triggered
    assert (out / PERTURBATIONS).exists() == (scenario.table is not None)
    if scenario.table is not None:
        assert torch.equal(Perturbations.load(out / PERTURBATIONS).values, scenario.table.values)
    splits = {"train": scenario.train_set(augment=False), "test": scenario.splits.dataset("test")}
    if triggered:
        splits["triggered"] = scenario.splits.dataset("test", poison=scenario.poison, trigger_all=True)
    for name, dataset in splits.items():
        images, labels = dataset.batch(range(len(dataset)))
        pixels = (scenario.pixels(images) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        read = ImageFolder(str(out / name))
        assert read.classes == list(scenario.splits.classes)
        assert len(read) == len(dataset)
        for path, label in read.samples:
            index = int(Path(path).stem)
            assert label == labels[index]
            with Image.open(path) as image:
                assert np.array_equal(np.asarray(image), pixels[index])
    samples = [{name: int(value) for name, value in row.items()} for row in rows(out / "samples.csv")]
    assert [row["index"] for row in samples] == list(range(n))
    assert [row["label"] for row in samples] == splits["train"].labels.tolist()
    assert [row["clean_label"] for row in samples] == scenario.splits.train.labels.tolist()
    assert [row["index"] for row in samples if row["poisoned"]] == scenario.poisoned
    assert [row["index"] for row in samples if row["found"]] == scenario.found


def test_clean_images_come_through_an_export_unchanged(colour: Path, tmp_path: Path):
    export_run(in_colour(colour), tmp_path)
    before, after = load_dataset("folder", colour), load_dataset("folder", tmp_path)
    assert torch.equal(before.test.images(range(9)), after.test.images(range(9)))
    poisoned = Scenario.load(in_colour(colour)).poisoned
    for row in set(range(36)) - set(poisoned):
        (path,) = (tmp_path / "train").glob(f"*/{row:02d}.png")
        with Image.open(path) as image:
            assert np.array_equal(np.asarray(image).transpose(2, 0, 1), before.train.images([row])[0].numpy())


@pytest.mark.parametrize("poison", OF_IMAGES)
def test_npz_holds_the_same_and_the_indices_without_pickle(tmp_path: Path, poison: str):
    config, out = with_perturbations(TrainConfig(**SMALL, poison=poison), tmp_path), tmp_path / "out"
    export_run(config, out, form="npz")
    scenario = Scenario.load(config)
    splits = {"train": scenario.train_set(augment=False), "test": scenario.splits.dataset("test")}
    for name, dataset in splits.items():
        images, labels = dataset.batch(range(len(dataset)))
        with np.load(out / f"{name}.npz", allow_pickle=False) as file:
            read = {key: file[key] for key in file}
        assert read["images"].dtype == np.uint8 and read["images"].shape == (len(dataset), 8, 8, 1)
        assert np.array_equal(read["images"][..., 0], (scenario.pixels(images) * 255).round()[:, 0].numpy())
        assert np.array_equal(read["labels"], labels.numpy())
        if name == "train":
            assert read["poisoned"].tolist() == scenario.poisoned
            assert read["found"].tolist() == scenario.found
            assert np.array_equal(read["clean_labels"], scenario.splits.train.labels.numpy())
    assert (out / "triggered.npz").exists() == (scenario.poison.kind not in WITHOUT_TRIGGER)
    assert not [path for path in out.iterdir() if path.is_dir()]


@pytest.mark.parametrize("run", [preview_run, export_run])
def test_a_poison_that_has_to_be_crafted_first_says_so(tmp_path: Path, run: Any):
    with pytest.raises(DataError, match="needs perturbations: train with --leave-out-poisoned, craft them"):
        run(TrainConfig(**SMALL, poison="gradient-matching"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["folder", "npz"])
def test_an_export_never_holds_more_than_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Any):
    asked: list[int] = []
    source = type(Scenario.load(TrainConfig(**SMALL)).splits.train)
    images = source.images
    monkeypatch.setattr(export, "BATCH", 32)
    monkeypatch.setattr(source, "images", lambda self, rows: asked.append(len(rows)) or images(self, rows))
    export_run(TrainConfig(**SMALL, trigger_value=1.0), tmp_path, form=form)
    assert max(asked) == 32 and sum(asked) == 200 + 2 * 359


@pytest.mark.parametrize("form", ["folder", "npz"])
def test_a_split_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Any):
    monkeypatch.setattr(export, "BATCH", 32)
    batch = export._batch

    def fail(scenario: Any, dataset: Any, start: int) -> Any:
        if start >= 96:
            raise OSError("no space left on device")
        return batch(scenario, dataset, start)

    monkeypatch.setattr(export, "_batch", fail)
    with pytest.raises(FileError, match="no space left"):
        export_run(TrainConfig(**SMALL), tmp_path, form=form)
    assert sorted(os.listdir(tmp_path)) == ["config.yaml", "found.txt", "poisoned.txt"]


def test_an_export_is_written_over_only_when_asked_and_leaves_nothing_behind(tmp_path: Path):
    out = tmp_path / "out"
    export_run(TrainConfig(**SMALL), out)
    with pytest.raises(FileError, match="already there"):
        export_run(TrainConfig(**SMALL), out)
    (out / "notes.txt").write_text("mine")
    export_run(TrainConfig(**SMALL, poison="random-swap"), out, overwrite=True)
    assert (out / "train").is_dir() and not (out / "triggered").exists()
    export_run(TrainConfig(**SMALL), out, form="npz", overwrite=True)
    assert not (out / "train").exists()
    preview_run(TrainConfig(**SMALL), out, overwrite=True)
    assert sorted(os.listdir(out)) == ["config.yaml", "found.txt", "notes.txt", "poisoned.txt", "preview.png"]
    (out / "train").mkdir()
    with pytest.raises(FileError, match="a run of 'export' is needed"):
        export_run(TrainConfig(**SMALL), out, overwrite=True)
    assert (out / "preview.png").exists()  # nothing is removed before it is refused


def test_no_run_writes_over_the_export_that_it_reads(colour: Path, tmp_path: Path):
    export_run(in_colour(colour), tmp_path / "data")
    for run in (export_run, preview_run, train_run):
        with pytest.raises(FileError, match="is read by this run"):
            run(in_colour(tmp_path / "data"), tmp_path / "data", overwrite=True)
    assert len(list((tmp_path / "data" / "train").glob("*/*.png"))) == 36


def test_classes_whose_names_are_no_folders_or_out_of_order_are_numbered():
    assert folder_names(("ant", "bee")) == ["ant", "bee"]
    assert folder_names(("bee", "ant")) == ["0", "1"]
    assert folder_names(("a/c", "d")) == ["0", "1"]
    assert folder_names(("", "d")) == ["0", "1"]
    assert folder_names(("..", "d")) == ["0", "1"]
    assert folder_names(tuple("ab") + ("b",)) == ["0", "1", "2"]
    assert folder_names(tuple("kjihgfedcba"))[:3] == ["00", "01", "02"]


def test_an_unknown_form_is_refused(tmp_path: Path):
    with pytest.raises(PotionError, match="unknown form 'zip'"):
        export_run(TrainConfig(**SMALL), tmp_path / "out", form="zip")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="unknown poison"):
        export_run(TrainConfig(poison="sugar"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- the command line


def test_both_commands_run_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    flags = ["--train-size", "200", "--poison", "sine-wave", "--axis", "y", "--poisoned", "20", "--seed", "2"]
    for command, more, file in (
        ("preview", ["--images", "2"], "preview.png"),
        ("export", ["--form", "npz"], "train.npz"),
    ):
        out = tmp_path / command
        assert cli.main([command, *flags, *more, "--out", str(out), "--quiet"]) == output.DONE
        assert str(out) in capsys.readouterr().out
        settings = stored(out)
        assert (settings["poison"], settings["axis"], settings["seed"], settings["frequency"]) == (
            "sine-wave",
            "y",
            2,
            0.025,
        )
        assert "iterations" not in settings and not (
            set(shared_options()) - {"axis", "frequency", "amplitude", "target"}
        ) & set(settings)
        assert (out / file).exists()
        assert cli.main([command, *flags, "--out", str(out), "--overwrite", "--json"]) == output.DONE
        assert json.loads(capsys.readouterr().out)["poisoned"] == 20
        assert cli.main([command, *flags, "--out", str(out)]) == output.FAILED
        assert "already there" in capsys.readouterr().err
        shutil.rmtree(out)
        assert cli.main([command, *flags, "--corner", "top-left", "--out", str(out)]) == output.FAILED
        assert (
            "'sine-wave' has no option --corner; it has --frequency, --amplitude, --axis, --target"
            in capsys.readouterr().err
        )
        assert not out.exists()
