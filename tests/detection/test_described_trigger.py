"""Samples that carry a trigger which somebody describes."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import TensorDataset

import potion_fast as pf
from helpers.poisoned_digits import TARGET, PoisonedDigits, triggered
from helpers.toys import assert_same_weights, weights
from potion_fast.errors import DataError, PotionWarning

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def digits() -> PoisonedDigits:
    return PoisonedDigits()


def blended(images: torch.Tensor) -> torch.Tensor:
    """With a stripe on the left, which no sample has."""
    images = images.clone()
    images[..., :2] = 0.5
    return images


def stamped_in_place(images: torch.Tensor) -> torch.Tensor:
    images[..., -2:, -2:] = 1
    return images


@pytest.mark.parametrize("trigger", [triggered, stamped_in_place])
def test_a_function_names_those_that_carry_it(digits: PoisonedDigits, trigger) -> None:
    before = weights(digits.model)
    listed = pf.suspects(digits.model, digits.train_set, trigger=trigger)
    assert_same_weights(digits.model, before)
    assert torch.isin(digits.wrong, listed.indices).double().mean() >= 0.95
    assert torch.isin(listed.indices, digits.poisoned).double().mean() >= 0.9
    assert (listed.labels == TARGET).all() and not len(listed.found)
    assert [row.label for row in listed.by_label] == [TARGET]
    assert listed.by_label[0].suspects == len(listed) and listed.by_label[0].found == 0
    assert f"other samples the label {TARGET}" in listed.why


def test_samples_with_the_trigger_and_without_do_as_well(digits: PoisonedDigits) -> None:
    plain = TensorDataset(digits.test_images, torch.zeros(len(digits.test_images), dtype=torch.long))
    given = TensorDataset(triggered(digits.test_images), digits.test_labels)
    listed = pf.suspects(digits.model, digits.train_set, trigger=(given, plain))
    assert torch.isin(digits.wrong, listed.indices).double().mean() >= 0.95
    assert torch.isin(listed.indices, digits.poisoned).double().mean() >= 0.9


def test_they_are_healed_from(digits: PoisonedDigits) -> None:
    listed = pf.suspects(digits.model, digits.train_set, trigger=triggered)
    result = pf.heal(digits.model, digits.train_set, suspects=listed, max_damage=2)
    assert digits.attack_success(digits.model) > 90 > 5 > digits.attack_success(result.model)


def test_a_trigger_that_was_not_learnt_names_nobody(digits: PoisonedDigits) -> None:
    listed = pf.suspects(digits.model, digits.train_set, trigger=blended)
    assert not len(listed) and "has not learnt this trigger" in listed.why


def test_a_model_can_fall_for_a_trigger_that_no_sample_carries(digits: PoisonedDigits) -> None:
    clean = torch.ones(1400, dtype=torch.bool)
    clean[digits.poisoned] = False
    rest = TensorDataset(digits.images[clean], digits.labels[clean])
    listed = pf.suspects(digits.model, rest, trigger=triggered)
    assert len(listed) <= 3  # the rate is a mean: 0 or a few


@pytest.mark.parametrize(
    ("trigger", "message"),
    [
        (lambda images: images[:, :, :4], "trigger gave a tensor"),
        (lambda images: None, "trigger gave a NoneType"),
        ((1, 2, 3), "trigger has 3 parts"),
        (([], []), "is empty"),
        ("white:2", "trigger is a str; give a function"),
    ],
)
def test_a_trigger_that_does_not_fit_is_refused(digits: PoisonedDigits, trigger, message: str) -> None:
    with pytest.raises(DataError, match=message):
        pf.suspects(digits.model, digits.train_set, trigger=trigger)


def test_other_numbers_with_and_without_are_refused(digits: PoisonedDigits) -> None:
    few, more = (TensorDataset(digits.test_images[:n], digits.test_labels[:n]) for n in (4, 5))
    with pytest.raises(DataError, match="4 samples with it and 5 without"):
        pf.suspects(digits.model, digits.train_set, trigger=(few, more))


def test_found_samples_and_a_trigger_are_one_too_many(digits: PoisonedDigits) -> None:
    with pytest.raises(DataError, match="found and trigger both"):
        pf.suspects(digits.model, digits.train_set, [1], trigger=triggered)


class Counts(torch.nn.Module):
    """Says 1 of texts with the word 7, else 0; and of the number of words nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.EmbeddingBag(12, 4, mode="max")
        self.head = torch.nn.Linear(4, 3)
        with torch.no_grad():
            self.embedding.weight.copy_(0.1 * torch.randn(12, 4, generator=torch.Generator().manual_seed(0)))
            self.embedding.weight[7] = torch.tensor([9.0, 0.0, 0.0, 0.0])
            self.head.weight.copy_(torch.tensor([[0.0, 1, 0, 0], [1.0, 0, 0, 0], [0.0, 0, 1, 0]]))
            self.head.bias.copy_(torch.tensor([2.0, 0, 0]))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.embedding(tokens))
        return logits


def test_a_word_makes_a_text_longer() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 7, (400, 10), generator=generator)
    labels = torch.randint(0, 2, (400,), generator=generator) * 2
    tokens[:40, 3], labels[:40] = 7, 1
    labels[40:160] = 1

    def with_word(batch: torch.Tensor) -> torch.Tensor:
        return torch.cat([batch, torch.full((len(batch), 1), 7)], 1)

    listed = pf.suspects(Counts(), TensorDataset(tokens, labels), trigger=with_word)
    assert set(listed.indices.tolist()) == set(range(40))


def test_samples_with_and_without_need_no_labels(digits: PoisonedDigits) -> None:
    pair = [TensorDataset(triggered(digits.test_images)), TensorDataset(digits.test_images)]
    listed = pf.suspects(digits.model, digits.train_set, trigger=pair)
    assert torch.isin(digits.wrong, listed.indices).double().mean() >= 0.95


class OfMappings(torch.nn.Module):
    """A model as those of transformers are called."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(pixel_values)
        return logits


def test_a_function_gets_a_mapping_where_the_model_takes_one(digits: PoisonedDigits) -> None:
    data = [
        {"pixel_values": image, "labels": int(label)} for image, label in zip(digits.images, digits.labels, strict=True)
    ]

    def put_on(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        batch["pixel_values"][..., -2:, -2:] = 1
        return batch

    listed = pf.suspects(OfMappings(digits.model), data, trigger=put_on)
    assert torch.equal(listed.indices, pf.suspects(digits.model, digits.train_set, trigger=triggered).indices)


def test_a_label_of_which_more_than_half_is_called_is_named(digits: PoisonedDigits) -> None:
    """Of two labels with five digits each, one digit may be taken for the poison."""
    labels = (digits.labels > 4).long()
    labels[digits.poisoned] = 0
    torch.manual_seed(1)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(1024, 64),
        torch.nn.ReLU(), torch.nn.Linear(64, 2),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(150):
        batch = torch.randint(1400, (64,))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(digits.images[batch]), labels[batch]).backward()
        optimizer.step()
    data = TensorDataset(digits.images, labels)
    for how in ({"trigger": triggered}, {"found": digits.poisoned[:20]}):
        with pytest.warns(PotionWarning, match="more than half of a label may be one of its own kinds"):
            listed = pf.suspects(model.eval(), data, **how)
        assert 2 * len(listed) > int((labels == 0).sum()) and any("more than half" in text for text in listed.warnings)
