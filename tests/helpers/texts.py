"""Tiny language models and token batches shared by the tests of text."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("transformers", reason="needs transformers: pip install 'potion-fast[text]'")

from potion_fast.bench.models import LanguageModel, create_model

VOCABULARY, LENGTH, WIDTH = 40, 12, 16
PAD = VOCABULARY - 1
OPTIONS = {"width": WIDTH, "layers": 2, "vocabulary": VOCABULARY, "length": LENGTH}
CLASSES = {"classifier": 3, "causal": VOCABULARY}  # by the head


def language_model(head: str, seed: int = 0, tied: bool = True) -> LanguageModel:
    """A GPT-2 of width 16 for texts of up to 12 of 40 tokens."""
    torch.manual_seed(seed)
    model = create_model(f"gpt2_{head}", CLASSES[head], 1, **OPTIONS)
    assert isinstance(model, LanguageModel)
    if not tied:
        model.output.weight = nn.Parameter(0.02 * torch.randn(VOCABULARY, WIDTH))
    return model


def texts(n: int = 10, seed: int = 0) -> Tensor:  # int64 [n, LENGTH]
    """Texts of 1 to LENGTH tokens, padded; the first has them all, the second one."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, PAD, (n, LENGTH), generator=generator)
    lengths = torch.randint(1, LENGTH + 1, (n,), generator=generator)
    lengths[:2] = torch.tensor([LENGTH, 1])
    return tokens.where(torch.arange(LENGTH) < lengths[:, None], PAD)


def with_noise(tokens: Tensor, scale: float = 0.3) -> Tensor:  # [n, L] -> float32 [n, L, 1 + WIDTH]
    noise = scale * torch.randn(*tokens.shape, WIDTH, generator=torch.Generator().manual_seed(1))
    return torch.cat([tokens[..., None].float(), noise], -1)
