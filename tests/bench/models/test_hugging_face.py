"""Language models of Hugging Face: from a directory, by name, and nothing fetched without the flag."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.toys import assert_same_weights, weights
from potion_fast.bench.models import LanguageModel, create_model, initialise, load_model, save_model, width_of
from potion_fast.errors import ModelError

transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'potion-fast[text]'")

TINY = {"vocab_size": 40, "max_position_embeddings": 16, "hidden_size": 16, "num_hidden_layers": 2}
TINY |= {"num_attention_heads": 2, "bos_token_id": 0, "eos_token_id": 0, "intermediate_size": 32}
TOKENS = torch.tensor([[5, 3, 8, 1, 39, 39], [2, 2, 7, 0, 4, 9]])  # 39 is the padding


def directory(path: Path, kind: str = "GPT2", made: str = "AutoModelForCausalLM", **settings: Any) -> Any:
    """A tiny model of the library, saved; returns it."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**TINY | settings)
    model = getattr(transformers, made).from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(path)
    return model


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: Any) -> None:
        raise AssertionError("something used the network")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr(socket.socket, "connect", refused)


@pytest.mark.parametrize("kind", ["GPT2", "GPTNeoX", "Llama"])
def test_a_causal_model_of_a_directory_gives_the_librarys_logits(tmp_path: Path, kind: str):
    theirs = directory(tmp_path, kind)
    model = create_model(f"hf-causal:{tmp_path}", 40, 1, pretrained=True)
    assert isinstance(model, LanguageModel) and model.tied == (kind == "GPT2")
    assert (model.head, model.width, model.pad, model.length) == ("causal", 16, 39, 16)
    assert width_of(f"hf-causal:{tmp_path}") == 16
    logits = theirs(TOKENS).logits
    torch.testing.assert_close(model.eval()(TOKENS), torch.stack([logits[0, 3], logits[1, 5]]))


def test_a_classifier_takes_a_directorys_linear_layer_or_a_random_one(tmp_path: Path):
    theirs = directory(tmp_path / "a", made="AutoModelForSequenceClassification", num_labels=3, pad_token_id=39)
    model = create_model(f"hf-classifier:{tmp_path / 'a'}", 3, 1, pretrained=True)
    torch.testing.assert_close(model.eval()(TOKENS), theirs(TOKENS).logits)
    theirs = directory(tmp_path / "b")
    model = create_model(f"hf-classifier:{tmp_path / 'b'}", 2, 1, pretrained=True).eval()
    assert model(TOKENS).shape == (2, 2) and torch.equal(model.backbone.wte.weight, theirs.transformer.wte.weight)
    with pytest.raises(ModelError, match="mismatch"):
        create_model(f"hf-classifier:{tmp_path / 'a'}", 2, 1, pretrained=True)


def test_without_the_flag_only_the_architecture_is_read(tmp_path: Path):
    theirs = directory(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.manual_seed(0)
    model = create_model(f"hf-causal:{tmp_path}", 40, 1, length=8)
    assert model.backbone.wte.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.length == 8 and len(model.backbone.h) == len(theirs.transformer.h)
    with pytest.raises(ModelError, match="cannot be read as a language model"):
        create_model(f"hf-causal:{tmp_path}", 40, 1, pretrained=True)


def test_a_tokenizer_with_fewer_tokens_than_the_model_sets_padding_and_classes(tmp_path: Path):
    theirs = directory(tmp_path)
    model = create_model(f"hf-causal:{tmp_path}", 30, 1, pretrained=True, vocabulary=30).eval()
    tokens = torch.tensor([[5, 3, 8, 29]])
    assert model.pad == 29
    torch.testing.assert_close(model(tokens), theirs(tokens[:, :3]).logits[:, -1, :30])
    torch.testing.assert_close(
        model.text_loss(tokens, torch.tensor([1])),
        torch.nn.functional.cross_entropy(theirs(tokens[:, :3]).logits[0, :, :30], torch.tensor([3, 8, 1])),
    )


def test_a_file_of_a_directorys_model_holds_its_weights(tmp_path: Path):
    directory(tmp_path / "hub")
    name, path = f"hf-causal:{tmp_path / 'hub'}", tmp_path / "model.safetensors"
    model = create_model(name, 40, 1, pretrained=True, length=8)
    metadata = {"architecture": name, "num_classes": 40, "in_channels": 1, "options": {"length": 8, "pretrained": True}}
    save_model(path, model, metadata)
    (tmp_path / "hub" / "model.safetensors").unlink()
    loaded, _ = load_model(path)
    assert_same_weights(loaded, weights(model))
    assert loaded.tied


def test_loaded_weights_can_be_drawn_anew(tmp_path: Path):
    directory(tmp_path)
    model = create_model(f"hf-causal:{tmp_path}", 40, 1, pretrained=True)
    before = weights(model)
    initialise(model)
    assert model.backbone.wte.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not any(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_half_precision_is_loaded_as_float32(tmp_path: Path):
    directory(tmp_path).bfloat16().save_pretrained(tmp_path)
    model = create_model(f"hf-causal:{tmp_path}", 40, 1, pretrained=True)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("head", ["causal", "classifier"])
def test_a_model_that_reads_both_ways_is_refused(tmp_path: Path, head: str):
    directory(tmp_path, "Bert")
    with pytest.raises(ModelError, match="is a BertLMHeadModel, not a causal|is a BertForSequenceClassification"):
        create_model(f"hf-{head}:{tmp_path}", 40, 1)


def test_a_model_that_changes_its_logits_is_refused(tmp_path: Path):
    directory(tmp_path, "Cohere", logit_scale=0.25)
    with pytest.raises(ModelError, match="CohereForCausalLM, not a causal transformer with a linear layer"):
        create_model(f"hf-causal:{tmp_path}", 40, 1, pretrained=True)


@pytest.mark.parametrize(
    ("head", "classes", "channels", "options", "message"),
    [
        ("causal", 3, 1, {}, "classes are its 40 tokens, not 3"),
        ("causal", 30, 1, {}, "classes are its 40 tokens, not 30"),
        ("classifier", 3, 3, {}, "one channel, not 3"),
        ("classifier", 3, 1, {"width": 8}, "no option width; it has vocabulary and length"),
        ("classifier", 3, 1, {"length": 17}, "texts of up to 16; 40 and 17 are asked for"),
        ("causal", 41, 1, {"vocabulary": 41}, "has 40 tokens"),
    ],
)
def test_what_does_not_fit_is_an_error(tmp_path: Path, head: str, classes: int, channels: int, options, message: str):
    directory(tmp_path)
    with pytest.raises(ModelError, match=message):
        create_model(f"hf-{head}:{tmp_path}", classes, channels, **options)


def test_what_is_no_directory_of_a_language_model_is_an_error(tmp_path: Path):
    with pytest.raises(ModelError, match="cannot be read as a language model"):
        create_model(f"hf-causal:{tmp_path}", 40, 1)
    transformers.ViTConfig().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="it has no vocab_size"):
        create_model(f"hf-causal:{tmp_path}", 40, 1)


def test_a_name_of_the_hub_is_downloaded_only_with_the_flag(monkeypatch: pytest.MonkeyPatch):
    """`no_network` fails the first two where they ask for it; the third is not let out either, but would be."""
    name = "hf-causal:nobody-has-made/this-model"
    for ask in (lambda: create_model(name, 40, 1), lambda: width_of(name)):
        with pytest.raises(ModelError, match="pass pretrained=True to download it"):
            ask()
    asked: list[dict[str, Any]] = []

    def recorded(name: str, **settings: Any) -> None:
        asked.append(settings)
        raise OSError("stopped here")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", recorded)
    for pretrained in (False, True):
        with pytest.raises(ModelError, match="stopped here"):
            create_model(name, 40, 1, pretrained=pretrained)
    assert asked == [{"local_files_only": only, "trust_remote_code": False} for only in (True, False)]
