"""Every kind of layer against the loop over groups: those with a rule, and those without."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

import potion_fast as pf
from helpers.loops import assert_equals_loop, perturbed
from potion_fast.errors import ImportanceError
from potion_fast.importances.rules import RULES, LayerIO, LinearRule, Rule, register_rule


def conv(dims: int, *args, **options):
    layer = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](*args, **options)
    size = (4, 2, *(7, 6, 5)[:dims])
    return nn.Sequential(layer, nn.Tanh(), nn.Flatten()), torch.randn(size, dtype=torch.float64)


def layer(module: nn.Module, *shape: int):
    return nn.Sequential(module, nn.Tanh(), nn.Flatten()), torch.randn(4, *shape, dtype=torch.float64)


def tokens(module: nn.Module):
    model = nn.Sequential(module, nn.Tanh(), nn.Flatten())
    return model, torch.randint(0, 6, (4, 9), generator=torch.Generator().manual_seed(0))


LAYERS = {
    "conv1d": lambda: conv(1, 2, 4, 3),
    "conv1d-strided": lambda: conv(1, 2, 4, 3, stride=2, padding=2, dilation=2, groups=2),
    "conv2d": lambda: conv(2, 2, 4, (3, 2), bias=False),
    "conv2d-strided": lambda: conv(2, 2, 6, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2),
    "conv2d-depthwise": lambda: conv(2, 2, 2, 3, groups=2, padding=1),
    "conv2d-same": lambda: conv(2, 2, 4, (2, 3), padding="same", dilation=(2, 1)),
    "conv2d-valid": lambda: conv(2, 2, 4, (2, 3), padding="valid"),
    "conv2d-reflect": lambda: conv(2, 2, 4, 3, padding=(2, 1), padding_mode="reflect"),
    "conv2d-circular": lambda: conv(2, 2, 4, 3, padding=1, padding_mode="circular"),
    "conv3d": lambda: conv(3, 2, 4, 2, padding=1, stride=(1, 2, 3)),
    "conv-transpose": lambda: layer(nn.ConvTranspose2d(2, 3, 3), 2, 5, 5),
    "linear": lambda: layer(nn.Linear(5, 3), 5),
    "linear-positions": lambda: layer(nn.Linear(5, 3, bias=False), 2, 3, 5),
    "bilinear": lambda: layer(Squared(), 4),
    "layer-norm": lambda: layer(nn.LayerNorm((3, 5)), 2, 3, 5),
    "layer-norm-without-bias": lambda: layer(nn.LayerNorm(5, bias=False), 3, 5),
    "rms-norm": lambda: layer(nn.RMSNorm(5, eps=1e-3), 3, 5),
    "group-norm": lambda: layer(nn.GroupNorm(2, 4), 4, 3, 2),
    "instance-norm": lambda: layer(nn.InstanceNorm2d(4, affine=True), 4, 3, 2),
    "batch-norm-1d": lambda: layer(nn.BatchNorm1d(4), 4),
    "batch-norm-2d": lambda: layer(nn.BatchNorm2d(4), 4, 3, 2),
    "batch-norm-3d": lambda: layer(nn.BatchNorm3d(2), 2, 3, 2, 2),
    "prelu": lambda: layer(nn.PReLU(3), 3, 4),
    "embedding": lambda: tokens(nn.Embedding(6, 3)),
    "embedding-padding": lambda: tokens(nn.Embedding(6, 3, padding_idx=2)),
    "embedding-frequencies": lambda: tokens(nn.Embedding(6, 3, scale_grad_by_freq=True)),
    "multi-head-attention": lambda: layer(SelfAttention(), 3, 4),
    "transformer-encoder": lambda: layer(
        nn.TransformerEncoder(
            nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True), 2, enable_nested_tensor=False
        ),
        3,
        4,
    ),
    "layer-scale": lambda: layer(timm.layers.LayerScale(4, 0.3), 3, 4),
    "layer-scale-in-place": lambda: layer(nn.Sequential(nn.Linear(4, 4), timm.layers.LayerScale(4, 0.3, True)), 3, 4),
    "layer-norm-2d": lambda: layer(timm.layers.LayerNorm2d(3), 3, 4, 2),
    "weight-norm": lambda: layer(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), 4),
    "old-weight-norm": lambda: layer(nn.utils.spectral_norm(nn.Linear(4, 4)), 4),
    "relu-in-place": lambda: layer(nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 3)), 4),
    "keyword-arguments": lambda: layer(ByKeyword(), 4),
    "scalar": lambda: layer(Scalar(), 4),
}


class Squared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.product = nn.Bilinear(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x, x)


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]


class ByKeyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(input=x)


class Scalar(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


@pytest.mark.parametrize("objective", ["ssd", "xlf"])
@pytest.mark.parametrize("group_size", [1, 2])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_equal_the_loop(name: str, group_size: int, objective: str) -> None:
    torch.manual_seed(0)
    model, inputs = LAYERS[name]()
    model = nn.Sequential(model, nn.Linear(perturbed(model, inputs)(inputs).shape[1], 3).double())
    assert_equals_loop(model, inputs, objective, group_size)


class Scale(nn.Module):
    """y = x · factor, over the last dimension, by an operation that has no rule."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("...i,i->...i", x, self.factor)


class ScaleRule(Rule):
    names = ("factor",)

    def gradients(self, module: nn.Module, io: LayerIO, names: Collection[str]) -> dict[str, Tensor]:
        by_group = (io.inputs * io.gradient).reshape(io.groups, -1, 4)
        return {"factor": by_group.sum(1)}


class WrongRule(ScaleRule):
    """Covers the layer, and lets no sample's rows be its own."""

    def fits(self, inputs: Tensor, output: Tensor) -> bool:
        return False


@pytest.fixture
def registry() -> Iterator[None]:
    """The rules that there were before the test."""
    before = dict(RULES)
    yield
    RULES.clear()
    RULES.update(before)


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("layer", [Scale, f"{Scale.__module__}.{Scale.__qualname__}"], ids=["class", "dotted-name"])
@pytest.mark.parametrize("group_size", [1, 2])
def test_a_registered_rule_takes_its_layer_out_of_the_fallback(layer: type[nn.Module] | str, group_size: int) -> None:
    inputs = torch.randn(4, 3, 4, dtype=torch.float64)
    model = perturbed(nn.Sequential(nn.Linear(4, 4), Scale(), nn.Flatten(), nn.Linear(12, 3)), inputs)
    assert assert_equals_loop(model, inputs, "ssd", group_size).fallback == ("1.factor",)
    assert pf.register_rule(layer)(ScaleRule) is ScaleRule
    assert assert_equals_loop(model, inputs, "ssd", group_size).fallback == ()


@pytest.mark.usefixtures("registry")
def test_a_rule_that_does_not_fit_is_left_unused() -> None:
    register_rule(Scale)(WrongRule)
    inputs = torch.randn(4, 3, 4, dtype=torch.float64)
    model = perturbed(nn.Sequential(nn.Linear(4, 4), Scale(), nn.Flatten(), nn.Linear(12, 3)), inputs)
    assert assert_equals_loop(model, inputs).fallback == ("1.factor",)


@pytest.mark.usefixtures("registry")
def test_a_rule_is_of_the_class_and_not_of_its_subclasses() -> None:
    class Shifted(Scale):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + self.factor

    register_rule(Scale)(ScaleRule)
    inputs = torch.randn(4, 4, dtype=torch.float64)
    model = perturbed(nn.Sequential(Shifted(), nn.Linear(4, 3)), inputs)
    assert assert_equals_loop(model, inputs).fallback == ("0.factor",)


def test_what_cannot_be_registered_is_refused_and_named() -> None:
    before = dict(RULES)
    with pytest.raises(ImportanceError, match="has a rule already, LinearRule"):
        register_rule(Scale, nn.Linear)(ScaleRule)
    for layer in ("Linear", 3, Tensor):
        with pytest.raises(ImportanceError, match="classes of modules or their dotted names"):
            register_rule(layer)  # type: ignore[arg-type]
    for rule in (Scale, LinearRule(), Rule):
        with pytest.raises(ImportanceError, match="no subclass of Rule that names the layer's parameters"):
            register_rule(Scale)(rule)  # type: ignore[type-var]
    assert before == RULES


@pytest.mark.usefixtures("registry")
def test_the_rule_of_the_documentation_equals_the_loop() -> None:
    page = (Path(__file__).parents[2] / "docs" / "add-a-rule.md").read_text(encoding="utf-8")
    block = re.search(r"^ *```python\n(.*?)^ *```$", page, re.DOTALL | re.MULTILINE)
    assert block is not None
    exec(textwrap.dedent(block[1]), {"__name__": "documentation"})
    convolution = nn.ConvTranspose2d(2, 4, (3, 2), stride=2, padding=1, output_padding=1, groups=2, dilation=(1, 2))
    model, inputs = layer(convolution, 2, 5, 4)
    model = nn.Sequential(model, nn.Linear(perturbed(model, inputs)(inputs).shape[1], 3).double())
    for group_size in (1, 2):
        assert assert_equals_loop(model, inputs, "ssd", group_size).fallback == ()
