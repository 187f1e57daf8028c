"""Language models: which logits they give, their loss over whole texts, their files and their fresh weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import safetensors
import torch
from torch import nn
from torch.nn import functional as F

from helpers.texts import CLASSES, LENGTH, OPTIONS, PAD, VOCABULARY, WIDTH, language_model, texts, with_noise
from helpers.toys import assert_same_weights, weights
from potion_fast.bench.models import (
    create_model,
    head_of,
    initialise,
    last_modules,
    load_model,
    load_weights,
    save_model,
    width_of,
)
from potion_fast.bench.models.last_layers import last_layers
from potion_fast.errors import ModelError

HEADS = tuple(CLASSES)


def metadata(head: str) -> dict:
    return {"architecture": f"gpt2_{head}", "num_classes": CLASSES[head], "in_channels": 1, "options": OPTIONS}


# --- The logits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
def test_the_logits_are_those_behind_the_last_token_that_is_not_padding(head: str):
    model, tokens = language_model(head), texts()
    got = model(tokens)
    assert got.shape == (len(tokens), CLASSES[head])
    for row, logits in zip(tokens, got, strict=True):
        alone = row[row != PAD][None]
        hidden = model.backbone(input_ids=alone).last_hidden_state
        torch.testing.assert_close(logits, model.output(hidden)[0, -1])


@pytest.mark.parametrize("head", HEADS)
def test_the_output_layer_sees_one_position_of_each_text(head: str):
    model, seen = language_model(head), []
    model.output.register_forward_hook(lambda module, args, output: seen.append(tuple(args[0].shape)))
    model(texts(7))
    assert seen == [(7, WIDTH)]


@pytest.mark.parametrize("head", HEADS)
def test_noise_is_added_to_the_embedded_tokens(head: str):
    model, tokens = language_model(head), texts()
    assert torch.equal(model(with_noise(tokens, 0.0)), model(tokens))
    inputs = with_noise(tokens).requires_grad_()
    got = model(inputs)
    embedded = model.backbone.wte(tokens) + inputs[..., 1:]
    hidden = model.backbone(inputs_embeds=embedded).last_hidden_state
    last = (tokens != PAD).sum(1) - 1
    torch.testing.assert_close(got, model.output(hidden)[torch.arange(len(tokens)), last])
    (gradient,) = torch.autograd.grad(got.square().sum(), inputs)
    assert not gradient[..., 0].any()  # a token's id is no number
    read = torch.arange(LENGTH) <= last[:, None]
    assert torch.equal(gradient[..., 1:].abs().sum(-1) > 0, read)


def test_the_whole_text_loss_is_that_of_the_library():
    """Its own loss of text and label: every token is predicted from those before it."""
    import transformers

    model, tokens = language_model("causal"), texts()[:, : LENGTH - 1]
    labels = torch.arange(len(tokens)) % 3
    library = transformers.GPT2LMHeadModel(model.backbone.config)
    library.transformer, library.lm_head = model.backbone, model.output
    longer = F.pad(tokens, (0, 1), value=PAD).scatter(1, (tokens != PAD).sum(1, keepdim=True), labels[:, None])
    want = library(longer, labels=longer.where(longer != PAD, -100)).loss
    torch.testing.assert_close(model.text_loss(tokens, labels), want)
    torch.testing.assert_close(model.text_loss(with_noise(tokens, 0.0), labels), want)
    with pytest.raises(ModelError, match="only a causal"):
        language_model("classifier").text_loss(tokens, labels)


@pytest.mark.parametrize(
    "shape", [(2,), (2, 0), (2, LENGTH + 1), (2, LENGTH, WIDTH), (2, LENGTH, 2 + WIDTH), (1, 2, 3, 4)]
)
def test_inputs_of_another_shape_are_an_error(shape: tuple[int, ...]):
    floats = torch.zeros(shape)
    for inputs in (floats, floats.long()):
        with pytest.raises(ModelError, match=r"token ids \[B, L\].*got"):
            language_model("classifier")(inputs)


# --- Names and options ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "classes", "channels", "options", "message"),
    [
        ("gpt2_causal", 3, 1, {"vocabulary": 40}, "classes are its 40 tokens, not 3"),
        ("gpt2_causal", 40, 3, {"vocabulary": 40}, "one channel, not 3"),
        ("gpt2_classifier", 2, 3, {}, "one channel, not 3"),
        ("gpt2_classifier", 2, 1, {"width": 200}, "multiple of 64"),
        ("gpt2_classifier", 2, 1, {"heads": 2}, "no option heads; it has width, layers, vocabulary, length"),
        ("gpt2_classifier", 2, 1, {"pretrained": True}, "no pretrained weights"),
    ],
)
def test_what_a_language_model_cannot_be_is_an_error(name: str, classes: int, channels: int, options, message: str):
    with pytest.raises(ModelError, match=message):
        create_model(name, classes, channels, **options)


def test_wrong_heads_and_widths_are_errors_by_name():
    assert [head_of(name) for name in ("gpt2_classifier", "gpt2_causal")] == ["classifier", "causal"]
    assert [head_of(f"hf-{head}:some/where") for head in HEADS] == list(HEADS)
    assert [head_of(name) for name in ("resnet9", "timm:gpt2_causal", "module:factory")] == [None] * 3
    assert width_of("gpt2_causal", 48) == language_model("causal").width + 32 == 48
    assert width_of("gpt2_causal") == create_model("gpt2_classifier", 2, 1, layers=1).width
    with pytest.raises(ModelError, match="'resnet9' is no language model"):
        width_of("resnet9")


def test_without_the_extra_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    for name in ("gpt2_classifier", "hf-causal:somewhere"):
        with pytest.raises(ModelError, match=r"pip install 'potion-fast\[text\]'"):
            create_model(name, 2, 1)


def test_nothing_of_the_extra_is_imported_for_images():
    code = (
        "import sys; from potion_fast.bench.models import create_model, head_of; create_model('small_cnn', 2); "
        "head_of('gpt2_causal'); assert not {'transformers', 'tokenizers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- Files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
def test_a_file_gives_the_same_model_and_holds_tied_weights_once(head: str, tmp_path: Path):
    model, path = language_model(head).eval(), tmp_path / "model.safetensors"
    save_model(path, model, metadata(head))
    with safetensors.safe_open(path, framework="pt") as file:
        assert ("output.weight" in file.keys()) == (head == "classifier")  # noqa: SIM118 - not a dict
    loaded, stored = load_model(path)
    assert stored == metadata(head)
    assert_same_weights(loaded, weights(model))
    assert torch.equal(loaded(texts()), model(texts()))
    assert loaded.tied == (head == "causal")
    with torch.no_grad():
        loaded.backbone.wte.weight[0, 0] = 7
    assert (loaded.output.weight[0, 0] == 7) == (head == "causal")


def test_foreign_weights_may_hold_a_tied_one_twice_but_only_if_it_is_one(tmp_path: Path):
    model, path = language_model("causal", seed=1), tmp_path / "weights.safetensors"
    both = {name: tensor.clone() for name, tensor in language_model("causal").state_dict().items()}
    safetensors.torch.save_file(both, path)
    load_weights(model, path)
    assert_same_weights(model, both) and model.tied
    both["output.weight"] = both["output.weight"] + 1
    safetensors.torch.save_file(both, path)
    with pytest.raises(ModelError, match=r"output.weight and backbone.wte.weight are one tensor"):
        load_weights(model, path)
    del both["backbone.wte.weight"]
    safetensors.torch.save_file(both, path)
    with pytest.raises(ModelError, match=r"backbone.wte.weight in only one"):
        load_weights(model, path)


# --- Fresh weights and the end of a model ---------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
def test_fresh_weights_are_gpt2s(head: str):
    torch.manual_seed(0)
    model = create_model(f"gpt2_{head}", 2 if head == "classifier" else 2000, 1, width=64, vocabulary=2000, layers=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
            parameter._is_hf_initialized = True  # as the library marks what it has loaded
    initialise(model)
    block = model.backbone.h[1]
    for weight in (model.backbone.wte.weight, block.attn.c_attn.weight, block.mlp.c_fc.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05) and abs(weight.mean().item()) < 0.001
    for weight in (block.attn.c_proj.weight, block.mlp.c_proj.weight):  # into the sum of 2 · layers terms
        assert weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert model.output.weight.std().item() == pytest.approx(0.02, rel=0.25)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            assert torch.equal(parameter, torch.full_like(parameter, float(name.endswith("weight")))), name
    assert model.tied == (head == "causal")


def test_a_part_of_gpt2_can_be_drawn_anew():
    block = language_model("classifier").backbone.h[1]
    with torch.no_grad():
        for parameter in block.parameters():
            parameter += 5
    initialise(block)
    assert max(parameter.abs().max() for name, parameter in block.named_parameters() if "ln" not in name) < 0.15
    assert block.attn.c_attn.weight.std().item() == pytest.approx(0.02, rel=0.2)


def test_the_end_of_a_language_model_is_not_its_embedding():
    block = "backbone.h.1."
    layers = [block + name for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")]
    assert last_layers(language_model("classifier"), 3) == (*layers[2:], "output")
    assert last_layers(language_model("causal", tied=False), 3) == (*layers[2:], "output")
    assert last_layers(language_model("causal"), 3) == tuple(layers[1:])
    assert last_modules(language_model("classifier"), None) == ("backbone.h.1", "backbone.ln_f", "output")
    assert last_modules(language_model("causal"), 4) == ("backbone.h.1", "backbone.ln_f")
    with pytest.raises(ModelError, match="has 8 convolutions and linear layers; k=9"):
        last_layers(language_model("causal"), 9)
    tied_in_front = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2))
    tied_in_front[1].weight = tied_in_front[0].weight
    assert last_layers(tied_in_front, 2) == ("0", "2")


def test_the_vocabulary_and_the_padding_are_the_last_of_the_options():
    model = language_model("causal")
    assert (model.vocabulary, model.pad, model.width, model.length) == (VOCABULARY, PAD, WIDTH, LENGTH)
