"""ImageNet and Imagenette in their published folders, and poisoned photographs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.photographs import VIT, photograph, save, source
from potion_fast.bench.attacks import BadNet
from potion_fast.bench.configs import DATA_DEFAULTS, TrainConfig
from potion_fast.bench.data import Preprocessing, load_dataset, max_value
from potion_fast.bench.data.imagenet import class_names
from potion_fast.bench.runs.scenario import Scenario
from potion_fast.errors import DataError
from potion_fast.user.jpeg_source import decode

IMAGENETTE = ("n01440764", "n02102040", "n02979186")  # of its ten


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes, named as published; files of several sizes."""
    folder = tmp_path_factory.mktemp("imagenet")
    for label, wnid in enumerate(IMAGENETTE):
        for index in range(4):
            name = f"{wnid}_{index}.JPEG"
            save(folder / "train" / wnid / name, photograph(60 + 10 * index, 90 - 5 * label, 10 * label + index))
        for index in range(2):
            name = f"ILSVRC2012_val_{10 * label + index:08}.JPEG"
            save(folder / "val" / wnid / name, photograph(80, 70 + 9 * index, 100 + 10 * label + index))
    return folder


@pytest.mark.parametrize("name", ["imagenet", "imagenette"])
def test_classes_are_the_sorted_folders_under_imagenet_s_words(root: Path, name: str):
    splits = load_dataset(name, root)
    assert splits.classes == ("tench, Tinca tinca", "English springer, English springer spaniel", "cassette player")
    assert splits.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert splits.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert (splits.size, splits.mean) == ((224, 224), (0.485, 0.456, 0.406))
    expected = Preprocessing().evaluated(decode(str(root / "val" / IMAGENETTE[1] / "ILSVRC2012_val_00000011.JPEG")))
    assert torch.equal(splits.test.images([3])[0], expected)


def test_words_that_two_classes_share_have_their_ids_behind_them():
    assert class_names(("n02012849", "n03126707", "n01440764", "n99999999")) == (
        "crane (n02012849)",
        "crane (n03126707)",
        "tench, Tinca tinca",
        "n99999999",
    )
    assert class_names(("cat", "dog")) == ("cat", "dog")


def test_the_model_and_the_options_decide_on_the_preprocessing(root: Path):
    splits = load_dataset("imagenet", root, model=VIT)
    assert (splits.mean, splits.size) == ((0.5,) * 3, (224, 224))
    splits = load_dataset("imagenet", root, model=VIT, image_size=32, mean=(0.1, 0.2, 0.3))
    assert (splits.mean, splits.std, splits.size) == ((0.1, 0.2, 0.3), (0.5,) * 3, (32, 32))
    assert splits.train.images([0]).shape == (1, 3, 32, 32)


def test_imagenette_is_found_under_the_folder_of_its_archive(root: Path, tmp_path: Path):
    (tmp_path / "imagenette2-320").symlink_to(root)
    assert len(load_dataset("imagenette", tmp_path).train) == 12
    (tmp_path / "imagenette2").symlink_to(root)
    with pytest.raises(DataError, match="not imagenette2, imagenette2-320"):
        load_dataset("imagenette", tmp_path)
    with pytest.raises(DataError, match="not none"):
        load_dataset("imagenette", tmp_path / "imagenette2" / "val")


def test_train_size_keeps_a_part_and_crops_it_by_the_same_draws(root: Path):
    whole = load_dataset("imagenet", root, image_size=32).train
    part = load_dataset("imagenet", root, image_size=32, train_size=5, seed=1).train
    keep = np.sort(np.random.default_rng(1).choice(12, 5, replace=False))
    assert torch.equal(part.labels, whole.labels[keep])
    assert torch.equal(part.images(range(5)), whole.images(keep))
    assert torch.equal(part.augmented([4, 0], 7), whole.augmented(keep[[4, 0]], 7))


def copy_of(root: Path, to: Path) -> Path:
    for path in root.rglob("*.JPEG"):
        target = to / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path)
    return to


def test_a_flat_val_says_what_to_do(root: Path, tmp_path: Path):
    copy_of(root, tmp_path)
    for path in list((tmp_path / "val").rglob("*.JPEG")):
        path.rename(tmp_path / "val" / path.name)
    for folder in list((tmp_path / "val").iterdir()):
        if folder.is_dir():
            folder.rmdir()
    with pytest.raises(DataError, match=r"val is flat: 6 images and no folder per class.*parse_val_archive"):
        load_dataset("imagenet", tmp_path)


def test_missing_packed_and_empty_splits_are_named(root: Path, tmp_path: Path):
    copy_of(root, tmp_path)
    (tmp_path / "val").rename(tmp_path / "test")
    with pytest.raises(DataError, match=r"val is missing: .* must hold train/ and val/"):
        load_dataset("imagenet", tmp_path)
    (tmp_path / "val").mkdir()
    with pytest.raises(DataError, match="val is empty"):
        load_dataset("imagenet", tmp_path)
    (tmp_path / "val" / "n01440764.tar").touch()
    with pytest.raises(DataError, match=r"val holds archives.*parse_train_archive"):
        load_dataset("imagenet", tmp_path)
    (tmp_path / "val" / "n01440764").mkdir()
    with pytest.raises(DataError, match="val/n01440764 holds no image"):
        load_dataset("imagenet", tmp_path)


def test_classes_of_one_split_only_are_named(root: Path, tmp_path: Path):
    copy_of(root, tmp_path)
    save(tmp_path / "val" / "n03000684" / "a.JPEG", photograph(20, 20))
    with pytest.raises(DataError, match="different classes.*n03000684"):
        load_dataset("imagenet", tmp_path)


# Poisoned photographs


def test_a_poisoned_photograph_is_the_same_at_every_visit_and_its_trigger_is_never_cropped(root: Path):
    splits = load_dataset("imagenet", root, image_size=48)
    poison = BadNet(value=9.0, size=5, target=2)
    stored = splits.dataset("train", poison=poison, poisoned=[3, 8])
    augmented = splits.dataset("train", augment=True, poison=poison, poisoned=[3, 8])
    first, labels = stored.batch(range(12))
    again = torch.cat([stored.batch([index])[0] for index in range(12)])
    assert torch.equal(first, again)
    assert labels.tolist() == [0, 0, 0, 2, 1, 1, 1, 1, 2, 2, 2, 2]
    for images in (first, augmented.batch(range(12))[0]):
        triggered = (images[..., -5:, -5:] == 9.0).flatten(1).all(dim=1)
        assert triggered.nonzero().flatten().tolist() == [3, 8]
    assert not torch.equal(augmented.batch([0])[0], augmented.batch([0])[0])


def test_the_largest_value_is_known_once_every_channel_is_at_255(tmp_path: Path):
    save(tmp_path / "a.jpg", Image.new("RGB", (40, 40), (255, 255, 255)))
    save(tmp_path / "b.jpg", photograph(40, 40)).write_bytes(b"never read")
    assert max_value(source(tmp_path, Preprocessing(size=4000)), (0.5,) * 3, (0.5, 0.25, 0.5)) == 2.0


@pytest.mark.parametrize("name", ["imagenet", "imagenette"])
def test_the_preset_makes_a_scenario_of_the_published_folders(root: Path, name: str):
    config = TrainConfig(data=name, root=str(root), poisoned=4, found=2, batch_size=5, device="cpu", image_size=64)
    scenario = Scenario.load(config)
    assert scenario.config.model == DATA_DEFAULTS[name]["model"] == VIT
    assert scenario.config.mean == (0.5,) * 3
    assert scenario.config.attack.trigger_value == pytest.approx(1.0)  # white pixels under the statistics of this model
    torch.manual_seed(0)
    batches = list(scenario.train_loader())
    assert [tuple(images.shape) for images, _ in batches] == [(5, 3, 64, 64), (5, 3, 64, 64), (2, 3, 64, 64)]
    images, labels = next(iter(scenario.test_loader(True)))
    assert (images[..., -21:, -21:] == scenario.config.attack.trigger_value).all() and labels.tolist() == [
        0,
        0,
        1,
        1,
        2,
        2,
    ]
    assert math.isclose(images.max().item(), 1.0, abs_tol=1e-6)
