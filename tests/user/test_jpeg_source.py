"""ImageNet and Imagenette in their published folders, and what becomes of a photograph."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as on_pillow

from potion_fast.bench.attacks import BadNet
from potion_fast.bench.configs import DATA_DEFAULTS, TrainConfig
from potion_fast.bench.data import JpegSource, PoisonedDataset, Preprocessing, load_dataset, make_loader, max_value
from potion_fast.bench.data.imagenet import class_names
from potion_fast.bench.runs.scenario import Scenario
from potion_fast.errors import DataError
from potion_fast.user.jpeg_source import crop_box, decode

VIT = "timm:vit_base_patch16_224.augreg_in21k_ft_in1k"
IMAGENETTE = ("n01440764", "n02102040", "n02979186")  # of its ten
SIZES = [(375, 500), (500, 333), (300, 300), (91, 260), (700, 401)]


def photograph(height: int, width: int, seed: int = 0) -> Image.Image:
    """Smooth structure with fine noise: resizing it badly shows."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    noise = rng.normal(0, 25, (height, width, 3))
    return Image.fromarray((np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8))


def save(path: Path, image: Image.Image, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "JPEG", **options)
    return path


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


def source(folder: Path, preprocessing: Preprocessing) -> JpegSource:
    names = sorted(path.name for path in folder.iterdir())
    return JpegSource(folder, names, torch.zeros(len(names)), preprocessing)


# What a model of timm is shown


@pytest.mark.parametrize(
    "name", ["vit_base_patch16_224.augreg_in21k_ft_in1k", "resnet50.a1_in1k", "vit_tiny_patch16_224"]
)
def test_preprocessing_is_what_timm_resolves_for_the_model(name: str):
    with torch.device("meta"):
        model = timm.create_model(name)
    expected = timm.data.resolve_model_data_config(model)
    found = Preprocessing.of_model(f"timm:{name}")
    assert (3, found.size, found.size) == expected["input_size"]
    for key in ("mean", "std", "crop_pct", "interpolation", "crop_mode"):
        assert getattr(found, key) == expected[key]


def test_the_paper_s_vit_is_not_normalised_by_the_statistics_of_imagenet():
    found = Preprocessing.of_model(VIT)
    assert (found.mean, found.std, found.crop_pct, found.interpolation) == ((0.5,) * 3, (0.5,) * 3, 0.9, "bicubic")


@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing(),
        Preprocessing.of_model(VIT),
        Preprocessing(size=96, crop_pct=1.0, interpolation="bicubic"),
        Preprocessing(size=128, crop_pct=0.95, interpolation="bicubic", crop_mode="squash"),
    ],
)
def test_evaluation_is_timm_s_but_for_a_few_steps_of_255(tmp_path: Path, preprocessing: Preprocessing):
    """timm resizes with Pillow; torch's resize of uint8 rounds a few values to the other side."""
    transform = timm.data.create_transform(
        (3, preprocessing.size, preprocessing.size),
        is_training=False,
        interpolation=preprocessing.interpolation,
        mean=preprocessing.mean,
        std=preprocessing.std,
        crop_pct=preprocessing.crop_pct,
        crop_mode=preprocessing.crop_mode,
        normalize=False,
    )
    for number, (height, width) in enumerate(SIZES):
        save(tmp_path / f"{number}.jpg", photograph(height, width, number))
    pixels = source(tmp_path, preprocessing).images(range(len(SIZES)))
    for number in range(len(SIZES)):
        with Image.open(tmp_path / f"{number}.jpg") as image:
            expected = transform(image.convert("RGB"))
        step = (pixels[number].int() - expected.int()).abs()
        assert expected.dtype == torch.uint8
        unlucky = (number, preprocessing.crop_mode) == (4, "squash")  # its weights round badly
        assert (step > 0).float().mean() < (0.2 if unlucky else 0.01)
        assert (step > 1).float().mean() < 1e-4 and step.max() <= 2


def test_a_random_crop_is_timm_s_within_one_step_of_255(tmp_path: Path):
    preprocessing = Preprocessing(size=96, interpolation="bicubic")
    path = save(tmp_path / "a.jpg", photograph(300, 400))
    for seed in range(8):
        top, left, height, width = box = crop_box(300, 400, random.Random(seed))
        with Image.open(path) as image:
            expected = on_pillow.resized_crop(image, top, left, height, width, [96, 96], InterpolationMode.BICUBIC)
        found = preprocessing.cropped(decode(str(path)), box)
        assert (found.int() - on_pillow.pil_to_tensor(expected).int()).abs().max() <= 1


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 20), (20, 500), (3, 3), (1, 1)])
def test_boxes_are_the_draws_of_timm_s_random_crop(height: int, width: int):
    image = Image.new("RGB", (width, height))
    before = random.getstate()
    for seed in range(200):
        random.seed(seed)
        expected = RandomResizedCropAndInterpolation.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3))
        assert crop_box(height, width, random.Random(seed)) == expected
    random.setstate(before)


def test_half_of_the_random_crops_are_mirrored(tmp_path: Path):
    ramp = np.tile(np.linspace(0, 255, 120, dtype=np.uint8), (100, 1))
    save(tmp_path / "a.jpg", Image.fromarray(ramp))
    photographs = source(tmp_path, Preprocessing(size=16))
    mirrored = []
    for visit in range(200):
        crop = photographs.augmented([0], visit)[0, 0].float()
        mirrored.append(bool(crop[:, 0].mean() > crop[:, -1].mean()))
    assert 70 < sum(mirrored) < 130  # 100 of 200, four standard deviations


def test_a_model_that_timm_does_not_know_is_refused():
    with pytest.raises(DataError, match="timm has no model 'vit_gigantic_nothing'"):
        Preprocessing.of_model("timm:vit_gigantic_nothing")


@pytest.mark.parametrize(
    "options", [{"size": 0}, {"crop_pct": 0.0}, {"crop_pct": 1.1}, {"interpolation": "random"}, {"crop_mode": "border"}]
)
def test_preprocessing_out_of_range_is_refused(options: dict[str, object]):
    with pytest.raises(DataError):
        Preprocessing(**options)


# Files


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"quality": 20, "subsampling": 2}, {"subsampling": 1}, {"keep_rgb": True}]
)
@pytest.mark.parametrize("by_pillow", [False, True])
def test_jpeg_files_of_every_kind_are_decoded_as_by_pillow(
    tmp_path: Path, mode: str, options: dict[str, object], by_pillow: bool, monkeypatch: pytest.MonkeyPatch
):
    if by_pillow:  # a torchvision that decodes no JPEG
        monkeypatch.setattr(torch.ops, "image", object())
    path = save(tmp_path / "a.JPEG", photograph(75, 101).convert(mode), **options)
    with Image.open(path) as image:
        expected = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    assert torch.equal(decode(str(path)), expected)


def test_a_png_file_by_another_name_is_read(tmp_path: Path):
    image = photograph(20, 30)
    image.save(tmp_path / "a.JPEG", "PNG")
    assert torch.equal(decode(str(tmp_path / "a.JPEG")), on_pillow.pil_to_tensor(image))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_a_broken_file_is_named(tmp_path: Path, damage: str, workers: int):
    path = save(tmp_path / "broken.jpg", photograph(90, 120))
    content = {"truncated": path.read_bytes()[:-200], "empty": b"", "text": b"no image"}[damage]
    path.write_bytes(content)
    dataset = PoisonedDataset(source(tmp_path, Preprocessing()), (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(DataError, match=r"^\S*broken\.jpg cannot be read as an image"):
        list(make_loader(dataset, batch_size=2, shuffle=False, seed=0, workers=workers))


# Layouts


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
    with pytest.raises(DataError, match=r"val/n01440764 holds no \.jpeg"):
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


def test_several_threads_read_within_inference_mode(root: Path):
    """Predictions are made in that mode, which belongs to a thread."""
    folder = root / "val" / IMAGENETTE[0]
    files = source(folder, Preprocessing(size=32))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected = files.images([0, 1])
        with torch.inference_mode():
            assert torch.equal(files.images([0, 1]), expected)
    finally:
        torch.set_num_threads(before)
