"""Inputs of models by their own configuration: the same as by the transforms of timm, torchvision and transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor
from torchvision.models import ResNet18_Weights, ViT_B_16_Weights
from transformers import ConvNextImageProcessor, ViTImageProcessor

from potion_fast.errors import DataError, ModelError
from potion_fast.user.model_inputs import of_processor, of_timm, of_torchvision, plain_inputs


def photograph(height: int, width: int) -> Image.Image:
    """A smooth picture: of noise, resampled values differ by rounding in many places."""
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [128 + 100 * np.sin(rows / 17 + k) * np.cos(columns / (11 + k)) for k in range(3)]
    return Image.fromarray(np.stack(waves, axis=-1).astype(np.uint8))


def taken(inputs: Any, image: Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    result: Tensor = inputs.normalised(inputs.prepared(pixels)[None])[0]
    return result


def close(one: Tensor, other: Tensor) -> bool:
    """Equal up to the rounding of a pixel, which Pillow and torch do in another way."""
    return one.shape == other.shape and bool(((one - other).abs() < 2.5 / 255 / 0.2).all())


@pytest.mark.parametrize("name", ["resnet18.a1_in1k", "test_vit.r160_in1k", "vit_base_patch16_clip_224.openai"])
@pytest.mark.parametrize("size", [(300, 260), (100, 140)])
def test_images_are_those_of_timm(name: str, size: tuple[int, int]):
    configuration = timm.models.get_pretrained_cfg(name).to_dict()
    image = photograph(*size)
    transform = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=configuration))
    assert close(taken(of_timm(configuration, 3), image), transform(image))


@pytest.mark.parametrize(
    ("name", "weights"),
    [("resnet18", ResNet18_Weights.IMAGENET1K_V1), ("vit_b_16.IMAGENET1K_SWAG_E2E_V1", ViT_B_16_Weights.DEFAULT)],
)
def test_images_are_those_of_torchvision(name: str, weights: Any):
    image = photograph(420, 500)
    weights = type(weights)[name.partition(".")[2]] if "." in name else weights
    assert close(taken(of_torchvision(name), image), weights.transforms()(image))


@pytest.mark.parametrize(
    "processor",
    [
        ViTImageProcessor(size={"height": 40, "width": 48}),
        ViTImageProcessor(do_resize=False, do_normalize=False),
        ViTImageProcessor(size={"shortest_edge": 50}, do_center_crop=True, crop_size={"height": 32, "width": 32}),
        ConvNextImageProcessor(size={"shortest_edge": 64}),
        ConvNextImageProcessor(size={"shortest_edge": 384}),
    ],
)
def test_images_are_those_of_transformers(processor: Any):
    image = photograph(90, 120)
    wanted = processor(images=image, return_tensors="pt")["pixel_values"][0]
    assert close(taken(of_processor(processor, 3), image), wanted)


def test_processors_that_are_not_known_are_refused():
    with pytest.raises(ModelError, match=r"the image processor scales pixels by 1, not by 1/255"):
        of_processor(ViTImageProcessor(rescale_factor=1), 3)


def test_flags_take_the_place_of_the_configuration():
    configuration = timm.models.get_pretrained_cfg("resnet18.a1_in1k").to_dict()
    inputs = of_timm(configuration, 3).changed((0.5,) * 3, (0.25,) * 3, 32)
    image = photograph(32, 32)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    assert torch.equal(taken(inputs, image), (pixels / 255 - 0.5) / 0.25)
    assert taken(inputs, photograph(64, 80)).shape == (3, 32, 32)
    with pytest.raises(DataError, match="takes images of 3 channels, normalised .--mean and --std. by 1 means"):
        inputs.changed((0.5,), (0.5,), None)


@pytest.mark.parametrize(("channels", "given"), [(1, 3), (3, 1), (1, 1), (4, 4)])
def test_colours_become_grey_and_grey_colours(channels: int, given: int):
    pixels = torch.arange(given * 4, dtype=torch.uint8).view(given, 2, 2)
    prepared = plain_inputs(channels).prepared(pixels)
    assert prepared.shape == (channels, 2, 2) and prepared.dtype == torch.uint8
    if given == 1 or channels == given:
        assert torch.equal(prepared, pixels.expand(channels, 2, 2))


def test_a_folder_says_what_its_processor_does(tmp_path: Path):
    ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.5] * 3, image_std=[0.25] * 3).save_pretrained(
        tmp_path
    )
    inputs = of_processor(ViTImageProcessor.from_pretrained(tmp_path), 3)
    assert str(inputs).startswith(
        "images resized to 8x8 pixels; mean 0.5, 0.5, 0.5, standard deviation 0.25, 0.25, 0.25"
    )
