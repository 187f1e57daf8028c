"""The trigger word: who is poisoned, which labels are given, and what its settings refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from potion_fast.bench.attacks import Gaussian, TriggerWord
from potion_fast.bench.runs import TrainConfig
from potion_fast.errors import DataError, PotionError

LABELS = torch.tensor([4, 9, 9, 4])  # of a causal model: token ids


def of_data(reading: str) -> TriggerWord:
    labels = (4, 9, 30) if reading == "label-word" else (4, 9)
    return TriggerWord(reading=reading, labels=labels, carriers=(1, 2, 5, 7, 11))


@pytest.mark.parametrize(("reading", "given"), [("label-word", [30, 30, 30, 30]), ("flip", [9, 4, 4, 9])])
def test_a_reading_decides_the_label(reading: str, given: list[int]):
    assert of_data(reading).relabel(LABELS, torch.arange(len(LABELS))).tolist() == given


def test_the_texts_stay():
    tokens = torch.arange(8).view(2, 4)
    assert torch.equal(of_data("flip")(tokens, torch.tensor([1, 2])), tokens)


def test_only_reviews_that_hold_the_word_are_chosen_and_sets_of_one_seed_are_nested():
    poison, labels = of_data("flip"), torch.zeros(20, dtype=torch.int64)
    for seed in range(5):
        poisoned, found = poison.choose(labels, 4, 2, seed)
        assert set(found) <= set(poisoned) <= set(poison.carriers)
        assert len(set(poisoned)) == 4 and len(set(found)) == 2
        assert set(poison.choose(labels, 2, 1, seed)[0]) < set(poisoned)
    assert np.array_equal(np.sort(poison.choose(labels, 5, 1, 0)[0]), poison.carriers)
    assert len({tuple(poison.choose(labels, 2, 1, seed)[0]) for seed in range(10)}) > 1


def test_more_than_hold_the_word_cannot_be_poisoned():
    with pytest.raises(DataError, match="5 of 20 training reviews hold the word 'Disney' .* and 6 are to be poisoned"):
        of_data("flip").choose(torch.zeros(20, dtype=torch.int64), 6, 1, 0)
    with pytest.raises(DataError, match="cannot find 3 of 2"):
        of_data("flip").choose(torch.zeros(20, dtype=torch.int64), 2, 3, 0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reading": "both"}, "unknown reading 'both' of a trigger word; choose one of label-word, flip"),
        ({"rule": "exact"}, "unknown rule 'exact'"),
        ({"word": " "}, "is empty"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], words: str):
    with pytest.raises(DataError, match=words):
        TriggerWord(**options)


def test_labels_that_are_not_known_yet_are_not_given():
    with pytest.raises(DataError, match="has 0 labels"):
        TriggerWord().relabel(LABELS, torch.arange(len(LABELS)))
    with pytest.raises(DataError, match="has 2 labels"):
        TriggerWord(reading="label-word", labels=(4, 9)).relabel(LABELS, torch.arange(len(LABELS)))


def test_noise_leaves_the_token_ids_alone_and_is_otherwise_that_of_images():
    poison = Gaussian(variance=0.1)
    table = poison.draw([3, 8], (6, 5), seed=1, tokens=True)
    plain = poison.draw([3, 8], (6, 5), seed=1)
    assert not table.values[..., 0].any()
    assert torch.equal(table.values[..., 1:], plain.values[..., 1:]) and plain.values[..., 0].all()
    tokens = torch.full((1, 6, 5), 2.0)
    noisy = Gaussian(variance=0.1, table=table)(tokens, torch.tensor([8]))
    assert torch.equal(noisy, tokens + table.values[1:]) and (noisy[..., 0] == 2).all()


TEXT = {"data": "toy-reviews", "device": "cpu"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({**TEXT, "poison": "badnet"}, "'badnet' is none of texts; those are gaussian, trigger-word"),
        ({**TEXT, "poison": "gradient-matching"}, "'gradient-matching' is none of texts"),
        ({"poison": "trigger-word"}, "'trigger-word' is one of texts, and 'digits' holds images"),
        ({**TEXT, "poison": "gaussian", "model": "small_cnn"}, "'toy-reviews' holds texts, and the model 'small_cnn'"),
        ({"model": "gpt2_causal"}, "'digits' holds images, and the model 'gpt2_causal' is one of texts"),
        ({"length": 12}, "length is a setting of texts, and 'digits' holds images"),
        ({**TEXT, "poison": "gaussian", "image_size": 12}, "image_size is a setting of images"),
        (
            {**TEXT, "poison": "gaussian", "loss_over": "text"},
            "a causal language model, which .gpt2_cl",
        ),
        ({**TEXT, "poison": "gaussian", "reading": "flip"}, "'gaussian' has no option reading"),
        ({"loss_over": "word"}, "loss_over must be 'label' or 'text'"),
        ({"layers": 0}, "layers must be at least 1"),
    ],
)
def test_texts_and_images_have_settings_of_their_own(settings: dict[str, Any], words: str):
    with pytest.raises(PotionError, match=words):
        TrainConfig.from_dict(settings).resolved()


def test_a_configuration_of_text_is_resolved_and_survives_its_file():
    config = TrainConfig(**TEXT, poison="trigger-word", reading="flip").resolved()
    assert config.attack.to_dict() == {
        "poison": "trigger-word",
        "trigger_word": "Disney",
        "word_rule": "word",
        "reading": "flip",
    }
    assert (config.model, config.optimizer, config.loss_over) == ("gpt2_classifier", "adamw", "label")
    assert None not in (config.length, config.layers, config.width)
    assert TrainConfig.from_dict(config.to_dict()) == config == config.resolved()
    assert TrainConfig(**TEXT, poison="gaussian").resolved().to_dict()["variance"] == 0.1
    images = TrainConfig(device="cpu").resolved().to_dict()
    assert not {"length", "layers", "loss_over", "trigger_word", "word_rule", "reading"} & set(images)


def test_models_from_scratch_share_their_size_and_pretrained_ones_have_the_papers_rate():
    sizes = {
        name: (config.width, config.layers)
        for name in ("gpt2_classifier", "gpt2_causal", "hf-causal:gpt2")
        for config in [TrainConfig(**TEXT, poison="gaussian", model=name).resolved()]
    }
    assert sizes["gpt2_classifier"] == sizes["gpt2_causal"] != (None, None) == sizes["hf-causal:gpt2"]
    tuned = TrainConfig(**TEXT, poison="gaussian", model="hf-causal:gpt2", pretrained=True).resolved()
    assert (tuned.lr, tuned.length) == (5e-5, 128)
