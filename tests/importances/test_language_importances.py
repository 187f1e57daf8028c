"""Importances of language models against the loop over samples, both in float64."""

from __future__ import annotations

import pytest
import torch

from helpers.loops import assert_equals_loop, perturbed
from helpers.texts import language_model, texts, with_noise

MODELS = {"classifier": ("classifier", True), "causal": ("causal", True), "causal-untied": ("causal", False)}


@pytest.mark.parametrize("objective", ["xlf", "ssd"])
@pytest.mark.parametrize("group_size", [1, 4])
@pytest.mark.parametrize("noise", [False, True], ids=["tokens", "noise"])
@pytest.mark.parametrize("kind", MODELS)
def test_importances_equal_the_loop_over_samples(kind: str, noise: bool, group_size: int, objective: str):
    head, tied = MODELS[kind]
    model, inputs = language_model(head, tied=tied), texts(10)
    inputs = with_noise(inputs).double() if noise else inputs
    perturbed(model, inputs)
    assert model.tied == (kind == "causal")
    got = assert_equals_loop(model, inputs, objective, group_size, batch=10)
    assert got.fallback == ()
    assert got["backbone.wte.weight"].any() and got["backbone.wpe.weight"].any()


def test_tokens_that_a_text_holds_twice_count_together():
    """|g₁ + g₂| of a text's equal tokens, not |g₁| + |g₂|; and of tokens in no text only the output's share."""
    model = language_model("causal").double()
    tokens = torch.tensor([[3, 3, 5, 3, 39, 39]]).repeat(4, 1)
    got = assert_equals_loop(model, tokens, group_size=1, batch=4)
    untied = language_model("classifier").double()
    rows = assert_equals_loop(untied, tokens, group_size=1, batch=4)["backbone.wte.weight"].abs().sum(1).nonzero()
    assert rows.flatten().tolist() == [3, 5]
    assert got["backbone.wte.weight"].abs().sum(1).all()
