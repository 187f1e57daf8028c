"""The engine against the loop over groups, both in float64: networks, objectives, precisions."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import potion_fast as pf
from helpers import networks
from helpers.loops import LABELS, assert_equals_loop, images, loop, perturbed
from helpers.networks import Twice
from helpers.toys import batches
from potion_fast.bench.models.resnet9 import ResNet9
from potion_fast.errors import ImportanceError
from potion_fast.importances.objectives import OBJECTIVES

# --- Networks -------------------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.embed = nn.Linear(4, 6)
        self.lstm = nn.LSTM(6, 5, batch_first=batch_first)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:  # [B, T, 4] -> [B, 3]
        if not self.batch_first:
            x = x.transpose(0, 1)
        states, _ = self.lstm(torch.tanh(self.embed(x)))
        return self.head(states[:, -1]) if self.batch_first else self.head(states)[-1]


def gpt2(tied: bool = True) -> tuple[nn.Module, Tensor]:
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install transformers")

    class LastToken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            settings = {"vocab_size": 40, "n_positions": 12, "n_embd": 16, "n_layer": 2, "n_head": 2}
            settings |= {"bos_token_id": 0, "eos_token_id": 0, "tie_word_embeddings": tied}
            self.model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**settings))

        def forward(self, tokens: Tensor) -> Tensor:  # [B, T] -> [B, 40]
            return self.model(tokens).logits[:, -1]

    return LastToken(), torch.randint(0, 40, (70, 7), generator=torch.Generator().manual_seed(0))


SMALL = {
    "called-twice": lambda: (Twice(), images(70, 8)),
    "lstm": lambda: (Recurrent(True), torch.randn(70, 5, 4, dtype=torch.float64)),
    "time-first-lstm": lambda: (Recurrent(False), torch.randn(70, 5, 4, dtype=torch.float64)),
    "gpt2": gpt2,
    "gpt2-untied": lambda: gpt2(tied=False),
    "resnet9-narrow": lambda: (ResNet9(3, width=8), images(70, 12)),
    "vit-narrow": lambda: (
        timm.models.VisionTransformer(img_size=16, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=3),
        images(70, 16),
    ),
}
LARGE = {
    "resnet9": lambda: (ResNet9(10), 32),
    "wrn-28-10": lambda: (networks.WideResNet(), 16),
    "resnet18": lambda: (torchvision.models.resnet18(num_classes=10), 32),
    "mobilenet_v3_small": lambda: (torchvision.models.mobilenet_v3_small(num_classes=10, dropout=0.0), 32),
    "vit_b_16": lambda: (torchvision.models.vit_b_16(image_size=32, num_classes=10), 32),
    "vit_tiny_patch16_224": lambda: (timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=10), 32),
    "deit3_small": lambda: (timm.create_model("deit3_small_patch16_224", img_size=32, num_classes=10), 32),
    "convnext_atto": lambda: (timm.create_model("convnext_atto", num_classes=10), 32),
    "swin_tiny": lambda: (
        timm.create_model("swin_tiny_patch4_window7_224", img_size=56, window_size=7, num_classes=10),
        56,
    ),
}
FALLBACK = {  # the only parameters without a rule, by a part of their names
    "lstm": "lstm.",
    "time-first-lstm": "",
    "vit_b_16": "self_attention",
}


@pytest.mark.parametrize("group_size", [1, 4, 64, "batch"])
@pytest.mark.parametrize("network", SMALL)
def test_small_networks_equal_the_loop(network: str, group_size) -> None:
    model, inputs = SMALL[network]()
    perturbed(model, inputs)
    whole = len(inputs) if group_size == "batch" else group_size
    got = assert_equals_loop(model, inputs, group_size=whole, batch=len(inputs))
    assert all(FALLBACK.get(network, "none") in name for name in got.fallback), got.fallback
    assert got.terms == -(-len(inputs) // whole)


@pytest.mark.parametrize("network", LARGE)
def test_large_networks_equal_the_loop(network: str) -> None:
    model, size = LARGE[network]()
    inputs = images(4, size)
    perturbed(model, inputs)
    got = assert_equals_loop(model, inputs)
    assert all(FALLBACK.get(network, "none") in name for name in got.fallback), got.fallback
    assert_equals_loop(model, inputs, objective="ssd", group_size=2)


# --- Several objectives from one pass -------------------------------------------------------------------------------


@pytest.mark.parametrize("group_size", [1, 3, 20])
def test_objectives_from_one_pass_equal_passes_of_their_own(group_size: int) -> None:
    model, inputs = SMALL["lstm"]()
    perturbed(model, inputs)
    with torch.no_grad():
        model.head.bias.zero_()
        model.head.weight[:, 0] += model.head.weight.abs().sum(1)
    inputs[3] = torch.nan  # replaced below by a sample whose output is 0
    original = model.forward

    def with_a_zero(x: Tensor) -> Tensor:
        nothing = x.isnan().flatten(1).any(1)
        return torch.where(nothing[:, None], 0.0, original(torch.where(x.isnan(), 0.0, x)))

    model.forward = with_a_zero
    data = batches(inputs, LABELS[: len(inputs)], 16)
    together = pf.importance(model, data, ["lf", "ssd", "xlf", 3, 0.5], group_size=group_size, dtype=torch.float64)
    alone = [
        pf.importance(model, data, "lf", group_size=group_size, dtype=torch.float64),
        pf.importance(model, data, "ssd", group_size=group_size, dtype=torch.float64),
        pf.importance(model, data, group_size=group_size, dtype=torch.float64),
        pf.importance(model, data, w=3, group_size=group_size, dtype=torch.float64),
        pf.importance(model, data, w=0.5, group_size=group_size, dtype=torch.float64),
    ]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one.sums, other.sums, rtol=1e-12, atol=1e-15)
        assert (one.objective, one.samples, one.terms) == (other.objective, other.samples, other.terms)


def test_a_list_of_one_gives_a_list_of_one_and_an_empty_one_is_an_error() -> None:
    model, inputs = SMALL["vit-narrow"]()
    model.double()
    (one,) = pf.importance(model, [(inputs[:4],)], ["xlf"], group_size=1, dtype=torch.float64)
    assert torch.equal(one.sums, pf.importance(model, [(inputs[:4],)], group_size=1, dtype=torch.float64).sums)
    with pytest.raises(ImportanceError, match="empty"):
        pf.importance(model, [(inputs[:4],)], [], group_size=1)
    with pytest.raises(ImportanceError, match="into the list"):
        pf.importance(model, [(inputs[:4],)], ["xlf"], group_size=1, w=2)


# --- Precision, memory formats, compilation -------------------------------------------------------------------------


def test_channels_last_models_give_the_same() -> None:
    model, inputs = SMALL["resnet9-narrow"]()
    perturbed(model, inputs)
    model = model.to(memory_format=torch.channels_last)
    assert_equals_loop(model, inputs[:9].contiguous(memory_format=torch.channels_last))


def test_a_model_that_needs_contiguous_activations_gets_them() -> None:
    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(self.conv(x).view(len(x), -1))

    got = assert_equals_loop(Viewing().double(), images(5, 8))
    assert got.fallback == ()


@pytest.mark.parametrize("amp", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("group_size", [1, 3])
@pytest.mark.parametrize("objective", ["ssd", "xlf"])
def test_autocast_is_as_close_as_a_loop_under_autocast(amp: torch.dtype, group_size: int, objective: str) -> None:
    """The error against float64 is at most twice that of one backward pass per group at the same precision."""
    model, inputs = SMALL["vit-narrow"]()
    perturbed(model, inputs)
    inputs = inputs[:12]
    want = loop(model, inputs, objective, group_size)
    model.float()

    def half(outputs: Tensor, labels: Tensor) -> Tensor:
        return OBJECTIVES[objective].losses(outputs.float(), labels)

    with torch.autocast("cpu", dtype=amp):
        theirs = loop(model, inputs.float(), objective, group_size, half)
    got = pf.importance(
        model, batches(inputs.float(), LABELS[:12], 6), [objective, "lf"], group_size=group_size, amp=amp
    )[0]
    for name, right in want.items():
        error = torch.linalg.vector_norm(got[name] - right)
        scale = torch.linalg.vector_norm(right)
        assert error <= 2 * torch.linalg.vector_norm(theirs[name] - right) + 1e-3 * scale, name


def test_a_gradient_that_overflows_in_float16_is_reported_with_its_parameter() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with torch.no_grad():
        model[1].weight *= 3e3
    with pytest.raises(ImportanceError, match=r"'\d\.\w+'.*overflowed.*bfloat16"):
        pf.importance(model, [(torch.randn(4, 4),)], "lf", group_size=1, amp=torch.float16)


def test_an_unknown_precision_is_an_error() -> None:
    with pytest.raises(ImportanceError, match="amp is"):
        pf.importance(nn.Linear(2, 2), [(torch.randn(4, 2),)], group_size=1, amp=torch.float64)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["torch.compile", "Module.compile"])
def test_compiled_models_give_the_same(how: str) -> None:
    model, inputs = SMALL["vit-narrow"]()
    perturbed(model, inputs)
    want = pf.importance(model, [(inputs[:6],)], group_size=1, dtype=torch.float64)
    compiled = torch.compile(model, backend="eager") if how == "torch.compile" else model
    if how == "Module.compile":
        model.compile(backend="eager")
    model.eval()
    compiled(inputs[:2])
    got = pf.importance(compiled, [(inputs[:6],)], group_size=1, dtype=torch.float64)
    assert torch.equal(got.sums, want.sums)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("group_size", [1, 4])
@pytest.mark.parametrize(("dtype", "precision"), [(torch.float64, 1e-10), (torch.float32, 1e-2)])
@pytest.mark.parametrize("network", SMALL)
def test_on_a_gpu_networks_equal_the_loop_on_the_cpu(network: str, dtype, precision: float, group_size: int) -> None:
    model, inputs = SMALL[network]()
    perturbed(model, inputs)
    want = loop(model, inputs, group_size=group_size)
    on_gpu = inputs.to("cuda", dtype) if inputs.is_floating_point() else inputs.cuda()
    data = batches(on_gpu, LABELS[: len(inputs)], 32)
    got = pf.importance(model.to("cuda", dtype), data, group_size=group_size, dtype=dtype)
    for name, right in want.items():
        error = torch.linalg.vector_norm(got[name].cpu().double() - right)
        assert error <= precision * torch.linalg.vector_norm(right), name
