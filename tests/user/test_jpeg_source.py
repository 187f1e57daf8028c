"""What becomes of a photograph: decoding, random crops and the preprocessing of a model."""

from __future__ import annotations

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

from helpers.photographs import VIT, photograph, save, source
from potion_fast.bench.data import PoisonedDataset, Preprocessing, make_loader
from potion_fast.errors import DataError
from potion_fast.user.jpeg_source import crop_box, decode

SIZES = [(375, 500), (500, 333), (300, 300), (91, 260), (700, 401)]


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


def test_several_threads_read_within_inference_mode(tmp_path: Path):
    """Predictions are made in that mode, which belongs to a thread."""
    for index in range(2):
        save(tmp_path / f"{index}.JPEG", photograph(80, 70 + 9 * index, 100 + index))
    files = source(tmp_path, Preprocessing(size=32))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected = files.images([0, 1])
        with torch.inference_mode():
            assert torch.equal(files.images([0, 1]), expected)
    finally:
        torch.set_num_threads(before)
