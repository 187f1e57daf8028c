"""GPT-2 of any size from scratch (Radford et al., *Language Models are Unsupervised Multitask Learners*)."""

from __future__ import annotations

from torch import nn

from ...errors import ModelError
from .hugging_face import transformers
from .language import WIDTH, Head, LanguageModel


def gpt2_classifier(
    num_classes: int,
    in_channels: int = 1,
    *,
    width: int = WIDTH,
    layers: int = 4,
    vocabulary: int = 8192,
    length: int = 128,
) -> LanguageModel:
    """GPT-2 with a linear layer, without bias, that gives the logits of the classes.

    There is no dropout.

    Args:
        num_classes: outputs.
        in_channels: 1: token ids.
        width: D; below 128 with one attention head, else with one for each 64.
        layers: transformer blocks.
        vocabulary: V: tokens are 0 .. V − 1, and the last is the padding.
        length: the most tokens that a text may have.

    Returns:
        The model: [B, L] int64 -> [B, num_classes].

    Raises:
        ModelError: in_channels other than 1, or a width that its heads do not divide.
    """
    return _gpt2("classifier", num_classes, in_channels, width, layers, vocabulary, length)


def gpt2_causal(
    num_classes: int,
    in_channels: int = 1,
    *,
    width: int = WIDTH,
    layers: int = 4,
    vocabulary: int = 8192,
    length: int = 128,
) -> LanguageModel:
    """GPT-2 that predicts the next token, with the weight of the token embedding as its output layer's.

    Args:
        num_classes: the vocabulary's.
        in_channels: see `gpt2_classifier`.
        width: see there.
        layers: see there.
        vocabulary: see there.
        length: see there.

    Returns:
        The model: [B, L] int64 -> [B, V], logits of the token behind each text.

    Raises:
        ModelError: as for `gpt2_classifier`, or classes and vocabulary differ in number.
    """
    if num_classes != vocabulary:
        raise ModelError(f"a causal language model's classes are its {vocabulary} tokens, not {num_classes}")
    return _gpt2("causal", num_classes, in_channels, width, layers, vocabulary, length)


def _gpt2(
    head: Head, num_classes: int, in_channels: int, width: int, layers: int, vocabulary: int, length: int
) -> LanguageModel:
    if in_channels != 1:
        raise ModelError(f"a language model reads token ids, which are one channel, not {in_channels}")
    heads = max(1, width // 64)
    if width % heads:
        raise ModelError(f"the width {width} cannot be shared among {heads} attention heads; take a multiple of 64")
    library = transformers()
    end = vocabulary - 1
    config = library.GPT2Config(
        vocab_size=vocabulary,
        n_positions=length,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        activation_function="gelu_pytorch_tanh",  # GPT-2's own, in one operation
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=end,
        eos_token_id=end,
    )
    backbone = library.GPT2Model(config)
    output = nn.Linear(width, num_classes, bias=False)
    if head == "causal":
        output.weight = backbone.wte.weight
    model = LanguageModel(backbone, output, head, num_classes, vocabulary, length)
    model.initialise()
    return model
