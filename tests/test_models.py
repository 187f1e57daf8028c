"""Architectures, their registry and their files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from potion_fast.errors import FileError, ModelError
from potion_fast.models import create_model, load_model, save_model

METADATA = {
    "architecture": "small_cnn",
    "num_classes": 4,
    "in_channels": 1,
    "options": {"width": 2},
    "classes": ["a", "b", "c", "d"],
}


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_model(tmp_path / "model.safetensors", create_model("small_cnn", 4, 1, width=2), METADATA)
    return tmp_path / "model.safetensors"


def test_resnet9_has_the_parameters_counted_by_hand():
    def block(before: int, after: int, kernel: int) -> int:  # weights, bias, batch norm's scale and shift
        return before * after * kernel**2 + after + 2 * after

    by_hand = (
        block(3, 64, 3)
        + block(64, 128, 5)
        + 2 * block(128, 128, 3)
        + block(128, 256, 3)
        + 2 * block(256, 256, 3)
        + block(256, 128, 3)
        + 128 * 10
    )
    assert by_hand == 2_276_224
    assert count(create_model("resnet9", 10)) == by_hand


def test_resnet9_halves_the_image_where_the_reference_does():
    model = create_model("resnet9", 10, width=2)
    shapes = []
    for layer in model.features:
        layer.register_forward_hook(lambda _, __, output: shapes.append(tuple(output.shape[1:])))
    model(torch.zeros(2, 3, 32, 32))
    assert shapes == [
        (2, 32, 32), (4, 16, 16), (4, 16, 16), (8, 16, 16), (8, 8, 8), (8, 8, 8), (4, 6, 6), (4, 1, 1), (4,),
    ]  # fmt: skip


def test_resnet9_starts_with_zero_biases_and_celu_of_the_reference():
    model = create_model("resnet9", 10, width=4)
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 8 and not any(convolution.bias.any() for convolution in convolutions)
    assert {module.alpha for module in model.modules() if isinstance(module, nn.CELU)} == {0.075}
    assert model.classifier.bias is None
    bound = 1 / (4 * 9) ** 0.5  # Kaiming uniform with a = sqrt(5) is U(-b, b) with b = 1 / sqrt(fan in)
    weight = create_model("resnet9", 10, 4, width=64).features[0][0].weight
    assert 0.95 * bound < weight.abs().max() <= bound


def test_residual_adds_its_input():
    residual = create_model("resnet9", 10, width=2).features[2].eval()
    x = torch.randn(1, 4, 5, 5)
    assert torch.equal(residual(x), x + residual.blocks[1](residual.blocks[0](x)))


@pytest.mark.parametrize(
    ("name", "smallest", "works", "options"),
    [("resnet9", 10, (11, 32, 64), {"width": 2}), ("small_cnn", 3, (4, 8, 32), {"width": 2}),
     ("small_cnn", 7, (8, 32), {"width": 2, "depth": 3})],
)  # fmt: skip
def test_models_say_which_image_sizes_work(name: str, smallest: int, works: tuple[int, ...], options: dict[str, int]):
    model = create_model(name, 5, **options)
    for size in works:
        assert model(torch.zeros(2, 3, size, size)).shape == (2, 5)
    with pytest.raises(ModelError, match=f"at least {works[0]}x{works[0]}"):
        model(torch.zeros(2, 3, smallest, smallest))


def test_small_cnn_has_the_parameters_counted_by_hand():
    assert count(create_model("small_cnn", 10, 1, width=16)) == (9 * 16 + 16) + (9 * 16 * 32 + 32) + (4 * 32 * 10 + 10)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("vgg", 10), {}, "unknown model 'vgg'; known: resnet9, small_cnn"),
        (("resnet9", 10), {"depth": 2}, "no option depth; it has width"),
        (("resnet9", 0), {}, "num_classes"),
        (("small_cnn", 10, 0), {}, "in_channels"),
        (("small_cnn", 10), {"width": 1.5}, "width"),
    ],
)
def test_impossible_models_are_refused(arguments: tuple[Any, ...], options: dict[str, Any], message: str):
    with pytest.raises(ModelError, match=message):
        create_model(*arguments, **options)


def test_a_saved_model_comes_back_bit_for_bit(tmp_path: Path):
    model = create_model("resnet9", 4, 1, width=2).to(memory_format=torch.channels_last)
    model(torch.randn(3, 1, 16, 16))  # batch norm statistics are part of the model
    metadata = METADATA | {"architecture": "resnet9"}
    save_model(tmp_path / "m.safetensors", model, metadata)
    loaded, read = load_model(tmp_path / "m.safetensors")
    assert read == metadata
    assert not loaded.training
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in model.state_dict().items())
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


@pytest.mark.parametrize("change", [{"options": {"width": 3}}, {"num_classes": 5}, {"architecture": "resnet9"}])
def test_metadata_of_another_model_are_refused_before_anything_is_written(tmp_path: Path, change: dict[str, Any]):
    with pytest.raises(ModelError, match="does not fit"):
        save_model(tmp_path / "m.safetensors", create_model("small_cnn", 4, 1, width=2), METADATA | change)
    assert not list(tmp_path.iterdir())


def test_metadata_without_an_architecture_are_refused(tmp_path: Path):
    with pytest.raises(ModelError, match="'options'"):
        save_model(
            tmp_path / "m.safetensors",
            create_model("small_cnn", 4, 1, width=2),
            {key: value for key, value in METADATA.items() if key != "options"},
        )


def test_a_failed_write_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch):
    before = saved.read_bytes()

    def full_disk(tensors: object, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full_disk)
    with pytest.raises(FileError, match="No space left"):
        save_model(saved, create_model("small_cnn", 4, 1, width=2), METADATA)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_truncated_files_are_refused(saved: Path, size: int):
    saved.write_bytes(saved.read_bytes()[:size])
    with pytest.raises(FileError, match=r"model\.safetensors"):
        load_model(saved)


def test_missing_and_foreign_files_are_refused(tmp_path: Path):
    with pytest.raises(FileError, match="missing"):
        load_model(tmp_path / "none.safetensors")
    safetensors.torch.save_file({"x": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(FileError, match="was not written by"):
        load_model(tmp_path / "foreign.safetensors")


def test_a_file_whose_weights_do_not_fit_is_refused(tmp_path: Path):
    path = tmp_path / "m.safetensors"
    tensors = create_model("small_cnn", 4, 1, width=3).state_dict()
    safetensors.torch.save_file(tensors, path, {"potion_fast.model": json.dumps(METADATA)})
    with pytest.raises(ModelError, match=r"blocks\.0\.bias is torch\.float32 \[3\].*\[2\]"):
        load_model(path)
    safetensors.torch.save_file(tensors, path, {"potion_fast.model": "[1]"})
    with pytest.raises(FileError):
        load_model(path)
