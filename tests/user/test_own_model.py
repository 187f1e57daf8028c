"""Loading a user's own model: architectures by name, sizes from the weights, and the accuracy of what was loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from helpers.own_models import CLASSES, SmallNet, grey_inputs, make_digits, train
from helpers.toys import assert_same_weights, weights
from potion_fast.user.own import Own, read_own
from potion_fast.user.own_config import OwnConfig
from potion_fast.user.own_model import load_own_model
from potion_fast.user.pretrained import untied


@pytest.mark.parametrize(
    ("name", "model", "channels"),
    [
        ("timm:test_resnet", lambda: timm.create_model("test_resnet", num_classes=7), 3),
        ("timm:test_resnet", lambda: timm.create_model("test_resnet", num_classes=7, in_chans=1), 1),
        ("torchvision:shufflenet_v2_x0_5", lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=7), 3),
        ("helpers.own_models:SmallNet", lambda: SmallNet(7, 2), 2),
    ],
)
def test_outputs_and_channels_are_those_of_the_weights(name: str, model: Any, channels: int, tmp_path: Path):
    given = model()
    torch.save(given.state_dict(), tmp_path / "m.pth")
    own = load_own_model(tmp_path / "m.pth", name, classes=5, channels=3)
    assert_same_weights(own.model, weights(given))
    assert own.inputs is not None and own.inputs.channels == channels
    assert not own.model.training


def test_a_transformer_is_made_for_the_size_of_the_images(tmp_path: Path):
    given = timm.create_model("test_vit", num_classes=3, img_size=32)
    torch.save(given.state_dict(), tmp_path / "m.pth")
    own = load_own_model(tmp_path / "m.pth", "timm:test_vit", 3, 3, image_size=32)
    assert own.model(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_weights_of_an_architecture_in_a_folder_of_hugging_face(tmp_path: Path):
    sizes = {"image_size": 16, "patch_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    given = ViTForImageClassification(ViTConfig(num_labels=4, intermediate_size=8, **sizes))
    given.config.save_pretrained(tmp_path / "architecture")
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "architecture")
    torch.save({"model": given.state_dict()}, tmp_path / "m.pth")
    for name in (f"hf:{tmp_path / 'architecture'}", str(tmp_path / "architecture")):
        own = load_own_model(tmp_path / "m.pth", name, 3, 3)
        assert own.inputs is not None and own.inputs.resize == (16, 16)
        assert own.model(torch.zeros(1, 3, 16, 16)).logits.shape == (1, 4)


def test_half_precision_is_healed_in_float32_and_written_in_half(tmp_path: Path):
    given = SmallNet(3)
    torch.save(
        {name: t.half() if t.is_floating_point() else t for name, t in given.state_dict().items()}, tmp_path / "m.pt"
    )
    own = load_own_model(tmp_path / "m.pt", "helpers.own_models:SmallNet", 3, 1)
    assert {parameter.dtype for parameter in own.model.parameters()} == {torch.float32}
    path = own.weights.save_model(tmp_path, own.model)
    written = torch.load(path, weights_only=True)
    assert path.name == "healed.pt" and written["head.bias"].dtype == torch.float16
    assert list(written) == list(untied(given))


# --- what a low accuracy says


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    folder = tmp_path_factory.mktemp("digits")
    digits = make_digits(folder / "images")
    torch.manual_seed(0)
    model = train(SmallNet(10), grey_inputs(digits.pixels), digits.labels, 3)
    torch.save(model.state_dict(), folder / "m.pth")
    np.savez(folder / "floats.npz", images=grey_inputs(digits.pixels).numpy(), labels=digits.labels.numpy())
    return folder, model


def read(folder: Path, **flags: Any) -> Own:
    settings: dict[str, Any] = {
        "weights": str(folder / "m.pth"), "model": "helpers.own_models:SmallNet", "data": str(folder / "images"),
        "mean": (0.5,), "std": (0.5,),
    }  # fmt: skip
    return read_own(OwnConfig(**{**settings, **flags}), "cpu")


def test_a_model_that_knows_its_training_data_needs_no_note(trained: tuple[Path, nn.Module]):
    own = read(trained[0])
    assert own.accuracy.value > 0.95 and own.notes == []
    assert own.class_names == list(CLASSES)


def test_arrays_that_are_normalised_already_are_taken_as_they_are(trained: tuple[Path, nn.Module]):
    own = read(trained[0], data=str(trained[0] / "floats.npz"), mean=None, std=None)
    assert own.accuracy.value > 0.95 and own.inputs is None


def test_a_normalisation_that_was_forgotten_is_suspected_and_the_right_one_named(trained: tuple[Path, nn.Module]):
    own = read(trained[0], mean=None, std=None)
    assert own.accuracy.value < 0.4
    assert "normalisation (--mean, --std), --image-size or the order of the classes" in own.notes[0]
    assert own.notes[1].startswith("with --mean 0.5 --std 0.5 the accuracy is ")


def test_another_order_of_the_classes_is_suspected_and_the_right_one_named(trained: tuple[Path, nn.Module]):
    turned = ("b", "c", "d", "e", "f", "g", "h", "i", "j", "a")
    own = read(trained[0], classes=turned)
    assert own.accuracy.value < 0.2
    assert own.notes[1].endswith(f"of the labels are right: --classes {','.join(CLASSES)}")
    assert read(trained[0], classes=CLASSES).notes == []
