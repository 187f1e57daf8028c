"""Causal language models of Hugging Face's transformers, from a directory or by a name of its hub."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...errors import ModelError
from .language import HEADS, WIDTH, Head, LanguageModel, head_of


def transformers() -> Any:
    """The library, imported when it is needed.

    Raises:
        ModelError: it is not installed.
    """
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise ModelError("language models need transformers: pip install 'potion-fast[text]'") from error


def read_config(name: str, download: bool = False) -> Any:
    """Read the configuration of a model.

    Args:
        name: a directory, or a name on the hub.
        download: let it be fetched where the cache does not have it.

    Returns:
        The library's configuration.

    Raises:
        ModelError: there is none, or it is of no language model, or of one with code of its own, which is not run.
    """
    config = _read(transformers().AutoConfig, name, download)
    if missing := [key for key in ("hidden_size", "vocab_size", "max_position_embeddings") if not hasattr(config, key)]:
        raise ModelError(f"{name!r} is not the kind of language model that is read here: it has no {missing[0]}")
    return config


def width_of(name: str, width: int | None = None, *, pretrained: bool = False) -> int:
    """Width D of a language model's embeddings; the model is not built for it.

    Args:
        name: as `create_model` takes it.
        width: of a model from scratch; None: its default.
        pretrained: let the configuration of a model on the Hugging Face hub be downloaded.

    Returns:
        D.

    Raises:
        ModelError: another model, or its configuration cannot be read.
    """
    if head_of(name) is None:
        raise ModelError(f"{name!r} is no language model; there are {', '.join(HEADS)}, hf-* with :NAME or :DIRECTORY")
    if ":" not in name:
        return width or WIDTH
    return read_config(name.partition(":")[2], pretrained).hidden_size


def hugging_face_classifier(
    name: str, num_classes: int, in_channels: int, pretrained: bool, options: dict[str, Any]
) -> LanguageModel:
    """A text classifier: the backbone of a causal language model and a linear layer on it.

    Weights become float32.

    Args:
        name: a directory of `save_pretrained`, or a name of the hub ("gpt2-medium"), of any causal language model.
        num_classes: outputs.
        in_channels: 1: token ids.
        pretrained: with its weights; of a name that is not in the cache, they are downloaded. Otherwise only its
            configuration is read, from the directory or the cache, and the weights are random. A linear layer that the
            weights lack is random too.
        options: "vocabulary": V of the tokenizer, at most the model's; "length": the most tokens of a text, at most the
            model's. They are the model's where they are not given.

    Returns:
        The model: [B, L] int64 -> [B, num_classes].

    Raises:
        ModelError: the model is not there, does not fit, or is no causal language model.
    """
    return _make("classifier", name, num_classes, in_channels, pretrained, options)


def hugging_face_causal(
    name: str, num_classes: int, in_channels: int, pretrained: bool, options: dict[str, Any]
) -> LanguageModel:
    """A causal language model with its own output layer, whose classes are the vocabulary.

    Args:
        name: see `hugging_face_classifier`.
        num_classes: the vocabulary's.
        in_channels: see `hugging_face_classifier`.
        pretrained: see there.
        options: see there.

    Returns:
        The model: [B, L] int64 -> [B, V], logits of the token behind each text.

    Raises:
        ModelError: as for `hugging_face_classifier`, or classes and vocabulary differ in number.
    """
    return _make("causal", name, num_classes, in_channels, pretrained, options)


def _make(
    head: Head, name: str, num_classes: int, in_channels: int, pretrained: bool, options: dict[str, Any]
) -> LanguageModel:
    if unknown := sorted(set(options) - {"vocabulary", "length"}):
        raise ModelError(f"a model of Hugging Face has no option {', '.join(unknown)}; it has vocabulary and length")
    if in_channels != 1:
        raise ModelError(f"a language model reads token ids, which are one channel, not {in_channels}")
    config = read_config(name, pretrained)
    vocabulary = options.get("vocabulary", config.vocab_size)
    length = options.get("length", config.max_position_embeddings)
    if vocabulary > config.vocab_size or length > config.max_position_embeddings:
        raise ModelError(
            f"{name!r} has {config.vocab_size} tokens and texts of up to {config.max_position_embeddings}; "
            f"{vocabulary} and {length} are asked for"
        )
    if head == "causal" and num_classes != vocabulary:
        raise ModelError(f"a causal language model's classes are its {vocabulary} tokens, not {num_classes}")
    original = _build(head, name, config, num_classes, pretrained)
    output = original.get_output_embeddings() if head == "causal" else getattr(original, "score", None)
    if not isinstance(output, nn.Linear):
        raise ModelError(f"{name!r} is a {type(original).__name__}, whose output is no linear layer on the last token")
    model = LanguageModel(original.base_model, output, head, num_classes, vocabulary, length)
    _check_same(name, original, model)
    return model


def _build(head: Head, name: str, config: Any, num_classes: int, pretrained: bool) -> Any:
    """The library's own model, in float32."""
    library = transformers()
    maker = library.AutoModelForCausalLM
    if head == "classifier":
        maker, config.num_labels = library.AutoModelForSequenceClassification, num_classes
    if pretrained:
        return _read(maker, name, True, config=config).float()
    try:
        return maker.from_config(config).float()
    except (ValueError, RuntimeError) as error:
        raise ModelError(f"transformers makes no {head} language model of {name!r}: {error}") from error


def _read(maker: Any, name: str, download: bool, **settings: Any) -> Any:
    """What an Auto class reads: a name of the hub is looked up there only where that is allowed."""
    local = Path(name).is_dir()
    try:
        return maker.from_pretrained(name, local_files_only=local or not download, trust_remote_code=False, **settings)
    except (OSError, ValueError, RuntimeError) as error:
        advice = "" if local or download else " Name a directory, or pass pretrained=True to download it."
        raise ModelError(f"{name!r} cannot be read as a language model: {error}{advice}") from error


@torch.no_grad()
def _check_same(name: str, original: Any, model: LanguageModel) -> None:
    """Raise ModelError where the library's model gives other logits, or one token attends to the next."""
    if original.device.type == "meta":
        return
    tokens = [token for token in range(3) if token != original.config.pad_token_id][:2]
    pair = torch.tensor([tokens], device=original.device)
    original.eval()
    logits = original(pair).logits
    logits = logits[:, -1] if model.head == "causal" else logits
    first_alone = original.base_model(pair[:, :1]).last_hidden_state[:, 0]
    first_in_pair = original.base_model(pair).last_hidden_state[:, 0]
    if not (_close(logits[:, : model.classes], model(pair)) and _close(first_alone, first_in_pair)):
        raise ModelError(
            f"{name!r} is a {type(original).__name__}, not a causal transformer with a linear layer as output"
        )


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))
