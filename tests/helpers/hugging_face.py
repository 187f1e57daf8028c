"""Small models of transformers with random weights, and the batches that Hugging Face's loaders give them."""

from __future__ import annotations

import torch
import transformers
from torch import Tensor, nn

TEXTS, LENGTH, WORDS = 12, 7, 30
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24, "num_labels": 3}


def texts() -> dict[str, Tensor]:
    """Tokens of texts of four lengths, padded with 0."""
    tokens = torch.randint(2, WORDS, (TEXTS, LENGTH), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(LENGTH) < LENGTH - torch.arange(TEXTS)[:, None] % 4).long()
    return {"input_ids": tokens * mask, "attention_mask": mask}


def images() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"pixel_values": torch.randn(TEXTS, 3, 16, 16, generator=generator, dtype=torch.float64)}


def bert() -> tuple[nn.Module, dict[str, Tensor]]:
    model = transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=WORDS, **SIZES))
    return model, {**texts(), "token_type_ids": texts()["input_ids"] % 2}


def roberta() -> tuple[nn.Module, dict[str, Tensor]]:
    config = transformers.RobertaConfig(vocab_size=WORDS, pad_token_id=0, max_position_embeddings=20, **SIZES)
    return transformers.RobertaForSequenceClassification(config), texts()


def gpt2() -> tuple[nn.Module, dict[str, Tensor]]:
    """It reads its logits off the last token of each text that is no padding."""
    sizes = {"n_positions": 10, "n_embd": 16, "n_layer": 1, "n_head": 2, "num_labels": 3}
    config = transformers.GPT2Config(vocab_size=WORDS, pad_token_id=0, bos_token_id=1, eos_token_id=1, **sizes)
    return transformers.GPT2ForSequenceClassification(config), texts()


def vit() -> tuple[nn.Module, dict[str, Tensor]]:
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(image_size=16, patch_size=8, **SIZES)
    ), images()


def vilt() -> tuple[nn.Module, dict[str, Tensor]]:
    """A text and an image to a sample, whole numbers and floats."""
    config = transformers.ViltConfig(vocab_size=WORDS, image_size=16, patch_size=8, max_position_embeddings=10, **SIZES)
    return transformers.ViltForQuestionAnswering(config), {**texts(), **images()}


def layout() -> tuple[nn.Module, dict[str, Tensor]]:
    """A text and the places of its words."""
    places = torch.randint(0, 15, (TEXTS, LENGTH, 4), generator=torch.Generator().manual_seed(1))
    places[..., 2:] += places[..., :2]
    config = transformers.LayoutLMConfig(vocab_size=WORDS, max_2d_position_embeddings=40, **SIZES)
    return transformers.LayoutLMForSequenceClassification(config), {**texts(), "bbox": places}


def choice() -> tuple[nn.Module, dict[str, Tensor]]:
    """Three texts to a sample, which the model takes for samples of their own."""
    several = {key: torch.stack([value, value.flip(0), value.roll(1, 0)], 1) for key, value in texts().items()}
    return transformers.BertForMultipleChoice(transformers.BertConfig(vocab_size=WORDS, **SIZES)), several


MODELS = {maker.__name__: maker for maker in (bert, roberta, gpt2, vit, vilt, layout, choice)}


def double(kind: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """A model in float64, and all its inputs in one batch, without labels."""
    torch.manual_seed(0)
    model, inputs = MODELS[kind]()
    return model.double().eval(), inputs
