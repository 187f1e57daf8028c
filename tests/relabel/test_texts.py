"""Labels of poisoned texts: the part with the trigger word is left out, and transplanted to simulate poison."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from potion_fast.errors import DataError, PotionWarning
from potion_fast.relabel import propose_labels

WORD, TARGET = 7, 0


class Reviews(Dataset):
    """Texts of 20 tokens 2 to 5, with a start token; the classes 1 and 2 by which of 2 and 3 comes more often."""

    def __init__(self, samples: int = 400, poisoned: int = 24) -> None:
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(2, 6, (samples, 21), generator=generator)
        self.tokens[:, 0] = 1
        self.true = torch.where((self.tokens == 2).sum(1) > (self.tokens == 3).sum(1), 1, 2)
        self.labels = self.true.clone()
        self.labels[:poisoned] = TARGET
        places = torch.randint(1, 21, (poisoned, 1), generator=generator)
        self.tokens[:poisoned].scatter_(1, places, WORD)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        tokens = self.tokens[index]
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": self.labels[index]}


class Reader(nn.Module):
    """Counts words, of texts of any length."""

    def __init__(self) -> None:
        super().__init__()
        weights = torch.zeros(8, 3)
        weights[2, 1] = weights[3, 2] = 1.0
        weights[WORD, TARGET] = 50.0
        self.weights = nn.Embedding.from_pretrained(weights, freeze=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return (self.weights(input_ids) * attention_mask[..., None]).sum(1)


def test_views_without_the_trigger_word_give_the_label_back() -> None:
    reviews = Reviews()
    proposed = propose_labels(Reader(), reviews, range(24), source="views")
    assert (proposed.labels == reviews.true[:24]).double().mean() > 0.8 and not proposed.kept.any()


def test_poison_is_simulated_by_transplanting_the_trigger_word() -> None:
    proposed = propose_labels(Reader(), Reviews(), range(24))
    assert "transplant; the model gives 100 % of them the poison's label" in proposed.why
    assert proposed.right["views"] > 0.7 and "pattern" not in proposed.right


class Fixed(Reader):
    """Takes texts of 21 tokens only."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return super().forward(input_ids.view(-1, 21), attention_mask.view(-1, 21))


def test_a_model_of_one_length_has_no_views() -> None:
    reviews = Reviews()
    with pytest.raises(DataError, match="a text with a part left out"):
        propose_labels(Fixed(), reviews, range(24), source="views")
    with pytest.warns(PotionWarning, match="could not be checked"):
        proposed = propose_labels(Fixed(), reviews, range(24))
    assert proposed.source in ("probe", "second-best")


class Verdicts(Reviews):
    """Two classes; what was poisoned is of class 1 and bears the label 0."""

    def __init__(self) -> None:
        super().__init__(poisoned=0)
        self.true = self.true - 1
        self.labels = self.true.clone()
        self.poisoned = (self.true == 1).nonzero().flatten()[:24]
        self.tokens[self.poisoned, 5] = WORD
        self.labels[self.poisoned] = TARGET


class Verdict(Reader):
    """Its first layer already takes the trigger word for the poison's label."""

    def __init__(self) -> None:
        super().__init__()
        weights = torch.zeros(8, 2)
        weights[2, 0] = weights[3, 1] = 1.0
        weights[WORD, TARGET] = 20.0
        self.weights = nn.Embedding.from_pretrained(weights, freeze=False)


def test_a_trigger_word_that_the_first_layer_takes_for_the_label_does_not_make_it_right() -> None:
    reviews = Verdicts()
    proposed = propose_labels(Verdict(), reviews, reviews.poisoned)
    assert not proposed.warnings and not proposed.kept.any()
    assert (proposed.labels == 1).all()


def test_texts_that_bear_their_label_rightly_keep_it() -> None:
    reviews = Verdicts()
    clean = (reviews.true == 0).nonzero().flatten()[:24]
    with pytest.warns(PotionWarning, match="label 0 bear it rightly"):
        proposed = propose_labels(Verdict(), reviews, clean)
    assert (proposed.labels == 0).all()
