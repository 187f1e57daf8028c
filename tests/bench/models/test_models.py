"""Architectures, their registry and their files."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

import potion_fast as pf
from helpers.toys import NetWithUnread, assert_same_weights, weights
from potion_fast.bench.models import create_model, initialise, last_modules, load_model, save_model
from potion_fast.errors import FileError, ModelError

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


def test_wrn_28_10_has_the_parameters_counted_by_hand():
    def conv(before: int, after: int, kernel: int) -> int:
        return before * after * kernel**2 + after

    def block(before: int, after: int) -> int:  # two batch norms, two convolutions, and the shortcut's of both
        shortcut = conv(before, after, 1) + 2 * after if before != after else 0
        return 2 * before + conv(before, after, 3) + 2 * after + conv(after, after, 3) + shortcut

    with torch.device("meta"):
        for classes, known in ((10, 36_490_250), (100, 36_547_940)):
            by_hand = conv(3, 16, 3) + 640 * classes + classes
            by_hand += sum(block(a, b) + 3 * block(b, b) for a, b in ((16, 160), (160, 320), (320, 640)))
            assert count(create_model("wrn28_10", classes)) == by_hand == known


def test_wrn_is_its_blocks_written_out():
    torch.manual_seed(0)
    model = create_model("wrn28_10", 5, width=1)
    x = torch.randn(3, 3, 32, 32)
    state, given = model.state_dict(), model(x)

    def conv(name: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, state[f"{name}.bias"], stride, padding=weight.shape[-1] // 2)

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:  # at its initial scale and shift, of the batch
        assert torch.equal(state[f"{name}.weight"], torch.ones(x.shape[1]))
        mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
        return (x - mean) / (var + 1e-5).sqrt()

    y = conv("stem", x)
    for layer in (1, 2, 3):
        for block in range(4):
            at = f"layer{layer}.{block}"
            stride = 2 if layer > 1 and block == 0 else 1
            inner = conv(f"{at}.conv1", norm(f"{at}.norm1", y).relu())
            inner = conv(f"{at}.conv2", norm(f"{at}.norm2", inner).relu(), stride)
            changes = layer > 1 and block == 0  # layer 1 has 16 channels already, at width 1
            y = inner + (norm(f"{at}.shortcut.1", conv(f"{at}.shortcut.0", y, stride)) if changes else y)
        assert y.shape[1:] == (16 * 2 ** (layer - 1), *[32 // 2 ** (layer - 1)] * 2)
    assert y.min() < 0  # neither norm nor ReLU behind the last block
    expected = y.mean((2, 3)) @ state["classifier.weight"].T + state["classifier.bias"]
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-4)


def test_wrn_starts_with_zero_biases_and_no_dropout():
    model = create_model("wrn28_10", 10, width=1)
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(layers) == 1 + 2 * 12 + 2 + 1 and not any(layer.bias.any() for layer in layers)
    assert not any(isinstance(module, nn.Dropout) for module in model.modules())


def test_resnet18_has_torchvisions_parameters_but_for_the_stem():
    model = create_model("resnet18", 10)
    imagenet = count(torchvision.models.resnet18(num_classes=10))
    assert count(model) == imagenet - 64 * 3 * (7 * 7 - 3 * 3) == 11_173_962
    shapes = []
    for layer in (model.conv1, model.layer1, model.layer4):
        layer.register_forward_hook(lambda _, __, output: shapes.append(tuple(output.shape[1:])))
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert shapes == [(64, 32, 32), (64, 32, 32), (512, 4, 4)]  # no pooling behind the stem
    assert create_model("resnet18", 10, 1)(torch.zeros(2, 1, 32, 32)).shape == (2, 10)


def test_a_narrow_resnet18_has_the_same_modules_with_fewer_channels():
    wide, narrow = create_model("resnet18", 10), create_model("resnet18", 10, 1, width=12)
    assert [name for name, _ in narrow.named_parameters()] == [name for name, _ in wide.named_parameters()]
    for (name, many), few in zip(wide.named_parameters(), narrow.parameters(), strict=True):
        expected = [size * 12 // 64 if size % 64 == 0 else size for size in many.shape]
        assert list(few.shape) == (expected if name != "conv1.weight" else [12, 1, 3, 3]), name
    assert narrow(torch.zeros(2, 1, 32, 32)).shape == (2, 10)
    for stage in (narrow.layer1, narrow.layer4):  # initialised as torchvision's: fan out
        weight = stage[1].conv2.weight
        assert weight.std().item() == pytest.approx((2 / (weight.shape[0] * 9)) ** 0.5, rel=0.1)


def test_vit_has_the_parameters_of_the_paper_and_takes_other_sizes():
    d, blocks, tokens = 64, 2, 64
    attention, mlp = 4 * d * d + 4 * d, 2 * 4 * d * d + 5 * d
    ends = (3 * 16 * d + d) + (d + (tokens + 1) * d) + (2 * d + 10 * d + 10)  # patches; class token, places; norm, head
    model = create_model("vit", 10, width=d, depth=blocks)
    assert count(model) == blocks * (attention + mlp + 4 * d) + ends
    assert count(create_model("vit", 10)) == 2_693_578
    assert create_model("vit", 10, 1, width=32, depth=1)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    with pytest.raises(ModelError, match="multiple of 32, got 48"):
        create_model("vit", 10, width=48)


def test_importances_of_vit_are_those_of_a_loop():
    torch.manual_seed(0)
    model = create_model("vit", 10, width=32, depth=1).double().eval()
    inputs = torch.randn(5, 3, 32, 32, dtype=torch.float64)
    found = pf.importance(
        model, [(inputs, torch.zeros(5, dtype=torch.int64))], "xlf", group_size=1, dtype=torch.float64
    )
    wanted = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    for sample in inputs:
        gradients = torch.autograd.grad(model(sample[None]).norm(), list(model.parameters()))
        for total, gradient in zip(wanted.values(), gradients, strict=True):
            total += gradient.abs()
    for name, total in wanted.items():
        torch.testing.assert_close(found[name], total / 5, rtol=1e-12, atol=1e-13)
    assert found.fallback == ()


@pytest.mark.parametrize("name", ["resnet9", "wrn28_10", "small_cnn"])
def test_initialise_gives_the_public_codes_weights_whatever_was_there(name: str):
    model = create_model(name, 10, width=2)
    model(torch.randn(4, 3, 32, 32))
    drawn = []
    for shift in (0.5, -3.0):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += shift
        torch.manual_seed(3)
        initialise(model)
        drawn.append(weights(model))
    assert_same_weights(model, drawn[0])  # the second is the first
    torch.manual_seed(3)
    for part_name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            expected = torch.empty_like(module.weight)
            bound = (expected[0].numel()) ** -0.5  # Kaiming uniform with a = sqrt(5)
            nn.init.uniform_(expected, -bound, bound)
            torch.testing.assert_close(module.weight.detach(), expected, rtol=1e-5, atol=1e-7, msg=part_name)
            if module.bias is not None:
                nn.init.uniform_(torch.empty_like(module.bias))  # drawn, then thrown away for 0
                assert not module.bias.any()
        elif isinstance(module, nn.BatchNorm2d):
            assert module.num_batches_tracked == 0 and not module.running_mean.any() and not module.bias.any()
            assert (module.running_var == 1).all() and (module.weight == 1).all()


def test_initialise_reaches_what_timm_makes_without_reset_parameters():
    model = create_model("timm:vit_tiny_patch16_224", 3, img_size=32, patch_size=8, embed_dim=24, depth=1)
    drawn = []
    for shift in (0.5, -3.0):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += shift
        torch.manual_seed(3)
        initialise(model)
        drawn.append(weights(model))
    assert_same_weights(model, drawn[0])


def test_initialise_refuses_parameters_that_would_keep_their_old_values():
    with pytest.raises(ModelError, match="the parameters unread"):
        initialise(NetWithUnread())
    with pytest.raises(ModelError, match=r"parametrizations\.weight\.original0"):
        initialise(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)))
    initialise(nn.MultiheadAttention(4, 2))


def test_the_ends_of_the_models_are_those_of_the_public_code():
    """By layers of weights on the way through, shortcuts not counted: k of them."""
    for name, splits in (("resnet9", (2, 4)), ("wrn28_10", (5, 13))):
        model = create_model(name, 10, width=1)
        layers = [key for key, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        layers = [key for key in layers if "shortcut" not in key]
        assert last_modules(model, None) == last_modules(model, splits[0])
        for k in splits:
            end = last_modules(model, k)
            inside = [key for key in layers if any(key == part or key.startswith(f"{part}.") for part in end)]
            assert inside == layers[-k:]
        with pytest.raises(ModelError, match=f"k=3; choose one of {splits[0]}, {splits[1]}"):
            last_modules(model, 3)
    assert last_modules(nn.Sequential(nn.Linear(2, 2)), ["0"]) == ("0",)
    for wrong, message in ((("1",), "no module '1'"), ("0", "a list of names"), ((), "a list of names")):
        with pytest.raises(ModelError, match=message):
            last_modules(nn.Sequential(nn.Linear(2, 2)), wrong)
    with pytest.raises(ModelError, match="no splits"):
        last_modules(nn.Sequential(nn.Linear(2, 2)), None)


TINY_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 3}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("timm:vit_base_patch16_224.augreg_in21k_ft_in1k", TINY_VIT),
        ("timm:test_resnet", {}),
        ("torchvision:mobilenet_v3_small", {}),
        ("torchvision:squeezenet1_1", {}),
        ("resnet18", {}),
    ],
)
def test_foreign_models_are_made_by_name_saved_and_loaded(tmp_path: Path, name: str, options: dict[str, int]):
    model = create_model(name, 7, **options).eval()
    metadata = {"architecture": name, "num_classes": 7, "in_channels": 3, "options": options}
    save_model(tmp_path / "m.safetensors", model, metadata)
    loaded, read = load_model(tmp_path / "m.safetensors")
    assert read == metadata and type(loaded) is type(model)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images)) and model(images).shape == (2, 7)


def test_the_papers_vit_has_its_parameters():
    with torch.device("meta"):
        model = create_model("timm:vit_base_patch16_224.augreg_in21k_ft_in1k", 10)
    assert count(model) == 85_806_346
    assert model.pretrained_cfg["mean"] == model.pretrained_cfg["std"] == (0.5, 0.5, 0.5)


def test_timm_takes_other_channels_and_torchvision_does_not():
    assert create_model("timm:test_resnet", 4, 1).eval()(torch.zeros(1, 1, 32, 32)).shape == (1, 4)
    with pytest.raises(ModelError, match="three channels, not 1"):
        create_model("torchvision:resnet18", 4, 1)


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("timm:nope", {}, "no model 'nope'"),
        ("timm:hf-hub:somebody/model", {}, "no model 'hf-hub:somebody/model'"),
        ("timm:resnet18.nope", {}, "nope"),
        ("timm:resnet18", {"pretrained": True}, r"tag in the name; there are: resnet18\.a1_in1k"),
        ("timm:resnet18", {"foo": 3}, "foo"),
        ("timm:resnet18", {"embed_dim": "96"}, "integer embed_dim"),
        ("torchvision:nope", {}, "no model 'nope'"),
        ("torchvision:fasterrcnn_resnet50_fpn", {}, "for classification"),
        ("torchvision:resnet18", {"pretrained": True}, "there are: IMAGENET1K_V1"),
        ("torchvision:resnet18.V9", {}, "there are: IMAGENET1K_V1"),
        ("torchvision:resnet18", {"foo": 3}, "foo"),
        ("resnet9", {"pretrained": True}, "no pretrained weights"),
        ("resnet18", {"depth": 3}, "no option depth; it has width"),
        ("no_such_module_anywhere:make", {}, "no module 'no_such_module_anywhere'"),
        ("json:nope", {}, "no function 'nope'"),
        ("json:dumps", {"obj": 1}, "made a str"),
    ],
)
def test_impossible_foreign_models_are_refused(name: str, more: dict[str, Any], message: str):
    with pytest.raises(ModelError, match=message):
        create_model(name, 10, **more)


def test_pretrained_weights_are_asked_for_only_by_the_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked, make = [], timm.create_model

    def recorded(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
        asked.append((name, pretrained))
        return make(name, **options)

    monkeypatch.setattr(timm, "create_model", recorded)
    name = "test_resnet.r160_in1k"
    create_model(f"timm:{name}", 4)
    model = create_model(f"timm:{name}", 4, pretrained=True)
    assert asked == [(name, False), (name, True)]
    metadata = {"architecture": f"timm:{name}", "num_classes": 4, "in_channels": 3, "options": {"pretrained": True}}
    save_model(tmp_path / "m.safetensors", model, metadata)
    loaded, _ = load_model(tmp_path / "m.safetensors")  # a file cannot make anything be downloaded
    assert_same_weights(loaded, weights(model))
    assert len(asked) > 2 and not any(pretrained for _, pretrained in asked[2:])


@pytest.mark.parametrize("classes", [4, 1000])
def test_pretrained_weights_of_torchvision_leave_only_another_head_random(
    monkeypatch: pytest.MonkeyPatch, classes: int
):
    published = torchvision.models.squeezenet1_1()
    tags = torchvision.models.get_model_weights("squeezenet1_1")
    monkeypatch.setattr(tags, "get_state_dict", lambda self, **_: published.state_dict())
    model = create_model("torchvision:squeezenet1_1.IMAGENET1K_V1", classes, pretrained=True)
    head = [] if classes == 1000 else ["classifier.1.weight", "classifier.1.bias"]
    assert model.classifier[1].weight.shape[0] == classes
    for key, value in published.state_dict().items():
        assert key in head or torch.equal(model.state_dict()[key], value)


MODULE = """
from torch import nn
def make(num_classes, width=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(12, width), nn.Linear(width, num_classes))
def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.Linear(3, 4))
def broken():
    raise KeyError("of its own")
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module in the current directory that nobody has imported."""
    name = f"models_of_a_test_{os.getpid()}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    yield name
    sys.modules.pop(name, None)


def test_a_factory_of_the_users_is_called_with_what_it_takes(own_module: str):
    path = list(sys.path)
    assert create_model(f"{own_module}:make", 4, 1)[1].out_features == 3
    assert create_model(f"{own_module}:make", 4, 1, width=5)[1].out_features == 5
    assert create_model(f"{own_module}:plain", 4, 3)[2].out_features == 4
    with pytest.raises(ModelError, match=r"broken' failed: KeyError: 'of its own' \(.*, line \d+\)") as caught:
        create_model(f"{own_module}:broken", 4)
    assert isinstance(caught.value.__cause__, KeyError)
    assert sys.path == path


def test_a_file_cannot_make_a_factory_run(own_module: str, tmp_path: Path):
    name = f"{own_module}:make"
    model = create_model(name, 4)
    metadata = {"architecture": name, "num_classes": 4, "in_channels": 3, "options": {}}
    save_model(tmp_path / "m.safetensors", model, metadata)
    del sys.modules[own_module]
    for typed in (None, f"{own_module}:plain"):
        with pytest.raises(ModelError, match="name it yourself"):
            load_model(tmp_path / "m.safetensors", typed)
    assert own_module not in sys.modules
    loaded, _ = load_model(tmp_path / "m.safetensors", name)
    assert_same_weights(loaded, weights(model))
    save_model(tmp_path / "other.safetensors", nn.Linear(2, 2), metadata)
    with pytest.raises(ModelError, match="does not fit"):
        load_model(tmp_path / "other.safetensors", name)


def test_residual_adds_its_input():
    residual = create_model("resnet9", 10, width=2).features[2].eval()
    x = torch.randn(1, 4, 5, 5)
    assert torch.equal(residual(x), x + residual.blocks[1](residual.blocks[0](x)))


@pytest.mark.parametrize(
    ("name", "wrong", "works", "options"),
    [("wrn28_10", 28, (29, 32, 60), {"width": 1}), ("wrn28_10", 61, (29, 32, 60), {"width": 1}),
     ("resnet9", 10, (11, 32, 64), {"width": 2}), ("small_cnn", 3, (4, 8, 32), {"width": 2}),
     ("small_cnn", 7, (8, 32), {"width": 2, "depth": 3})],
)  # fmt: skip
def test_models_say_which_image_sizes_work(name: str, wrong: int, works: tuple[int, ...], options: dict[str, int]):
    model = create_model(name, 5, **options)
    for size in works:
        assert model(torch.zeros(2, 3, size, size)).shape == (2, 5)
    with pytest.raises(ModelError, match=f"of (at least )?{works[0]}x{works[0]}"):
        model(torch.zeros(2, 3, wrong, wrong))


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

    monkeypatch.setattr("potion_fast.utils.checksummed.save_file", full_disk)
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
    with pytest.raises(FileError, match="holds no model"):
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
