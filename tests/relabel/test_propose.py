"""`propose_labels`: right labels on poisoned digits, the choice of a source, and what it leaves as it was."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from helpers.poisoned_digits import TARGET, PoisonedDigits
from potion_fast.detection import Suspects
from potion_fast.detection.features import features_of
from potion_fast.errors import DataError, PotionWarning
from potion_fast.finetuning.result import NOTHING_NEW
from potion_fast.healing import heal
from potion_fast.relabel import ProposedLabels, propose_labels
from potion_fast.utils.cost import Cost
from potion_fast.utils.training_data import TrainingData


@pytest.fixture(scope="module")
def digits(one_thread: None) -> PoisonedDigits:
    digits = PoisonedDigits()
    assert digits.attack_success(digits.model) > 90
    return digits


def right(digits: PoisonedDigits, proposed: ProposedLabels) -> float:
    return (proposed.labels == digits.true_labels[proposed.indices]).double().mean().item()


@pytest.mark.parametrize(
    ("source", "least"),
    [("auto", 0.93), ("views", 0.93), ("pattern", 0.93), ("probe", 0.5), ("second-best", 0.8), ("unlearned", 0.8)],
)
def test_most_labels_are_right(digits: PoisonedDigits, source, least: float) -> None:
    proposed = propose_labels(digits.model, digits.train_set, digits.poisoned, source=source)
    assert right(digits, proposed) >= least
    assert torch.equal(proposed.indices, digits.poisoned)
    assert torch.equal(proposed.kept, proposed.labels == TARGET)
    natural = digits.true_labels[digits.poisoned] == TARGET
    if proposed.source in ("views", "pattern"):
        assert torch.equal(proposed.kept, natural)
    else:
        assert not proposed.kept.any()


def test_auto_says_what_it_measured(digits: PoisonedDigits) -> None:
    proposed = propose_labels(digits.model, digits.train_set, digits.poisoned)
    assert proposed.right.keys() == {"pattern", "views", "probe", "second-best"}
    assert proposed.right[proposed.source] >= max(proposed.right.values()) - 0.05
    assert "clean samples with the trigger put on" in proposed.why and not proposed.warnings
    assert proposed.cost.epochs(1400) < 1


def test_labels_do_not_depend_on_the_callers_random_numbers_and_leave_them(digits: PoisonedDigits) -> None:
    model = copy.deepcopy(digits.model).train()
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(5)
    first = propose_labels(model, digits.train_set, digits.poisoned, seed=3)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))
    second = propose_labels(digits.model, DataLoader(digits.train_set, batch_size=37), digits.poisoned, seed=3)
    assert first.source == second.source and torch.equal(first.labels, second.labels)
    assert model.training and all(torch.equal(model.state_dict()[name], before[name]) for name in before)


def test_the_cost_is_what_went_through_the_model(digits: PoisonedDigits) -> None:
    model = copy.deepcopy(digits.model)
    went = 0

    def count(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        nonlocal went
        went += len(args[0])

    model.register_forward_pre_hook(count)
    for source in ("auto", "views", "probe"):
        went = 0
        proposed = propose_labels(model, digits.train_set, digits.poisoned, source=source)
        assert proposed.cost == Cost(went)


def test_features_spare_the_second_best_a_pass(digits: PoisonedDigits) -> None:
    features = features_of(digits.model, TrainingData.of(digits.train_set))
    given = propose_labels(digits.model, digits.train_set, digits.poisoned, source="second-best", features=features)
    read = propose_labels(digits.model, digits.train_set, digits.poisoned, source="second-best")
    assert torch.equal(given.labels, read.labels)
    assert given.cost == Cost() and read.cost.forward > 0


def test_suspects_beyond_the_budget_of_views_are_drawn(digits: PoisonedDigits) -> None:
    poisoned, clean = digits.poisoned[:30], torch.arange(1400)[~torch.isin(torch.arange(1400), digits.poisoned)]
    rows = torch.cat([poisoned, clean[:170]])  # 200 samples, views of 25 of them
    few, true = TensorDataset(digits.images[rows], digits.labels[rows]), digits.true_labels[poisoned]
    with pytest.warns(PotionWarning, match="views are made of 25 of the 30 suspects"):
        proposed = propose_labels(digits.model, few, range(30), source="views")
    assert proposed.indices.tolist() == list(range(30)) and proposed.warnings
    natural = true == TARGET
    assert (natural & ~proposed.kept).sum() <= 5  # of those drawn all are kept
    with torch.no_grad():
        second = digits.model(few.tensors[0][:30])[:, 1:].argmax(1) + 1
    views = propose_labels(digits.model, digits.train_set, poisoned, source="views").labels
    assert ((proposed.labels != views) <= (proposed.labels == second)).all()
    assert not (proposed.kept & ~natural).any() and (proposed.labels == true)[~natural].double().mean() > 0.9


class Twins(nn.Module):
    """Says 0 of whatever has its first and its last value above 4: no part alone, no mean."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(1)
        both = ((flat[:, 0] > 4) | (flat[:, -1] > 4)).float()
        return self.scale * torch.stack([9 * both, flat[:, 5], -flat[:, 5]], 1)


def test_views_that_leave_most_labels_are_not_believed() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 1, 8, 8, generator=generator)
    x[:20, 0, 0, 0] = x[:20, 0, -1, -1] = 9  # hiding one of the two leaves the other
    labels = torch.where(x[:, 0, 0, 5] > 0, 1, 2)
    true, labels[:20] = labels[:20].clone(), 0
    with pytest.warns(PotionWarning, match="views would leave 100 % of the suspects"):
        proposed = propose_labels(Twins(), TensorDataset(x, labels), range(20), source="views")
    assert not proposed.kept.any() and torch.equal(proposed.labels, true)


def test_poison_that_cannot_be_put_onto_clean_samples_is_warned_of(digits: PoisonedDigits) -> None:
    clean = torch.arange(40)[~torch.isin(torch.arange(40), digits.poisoned)]  # of every label, by nature
    with pytest.warns(PotionWarning) as caught:
        proposed = propose_labels(digits.model, digits.train_set, clean)
    assert proposed.source == "probe" and not proposed.right
    assert ["could not be checked" in str(warning.message) for warning in caught] == [True, False]
    assert "bear it rightly" in str(caught[1].message)
    most = torch.bincount(digits.labels[clean[~proposed.kept]], minlength=10)  # of labels that no probe tells
    assert (most > 0).sum() <= 2


def test_clean_samples_among_the_suspects_keep_their_label(digits: PoisonedDigits) -> None:
    """A whole label of them; those of another are poison."""
    sevens = (digits.labels == 7).nonzero().flatten()[:30]
    suspects = torch.cat([digits.poisoned, sevens]).unique()
    with pytest.warns(PotionWarning, match="suspects with the label 7 bear it rightly"):
        proposed = propose_labels(digits.model, digits.train_set, suspects)
    assert (proposed.labels == digits.true_labels[suspects]).double().mean() > 0.95
    assert proposed.kept[torch.isin(suspects, sevens)].all()
    alone = propose_labels(digits.model, digits.train_set, digits.poisoned)
    assert not alone.warnings and not alone.kept[torch.isin(digits.poisoned, digits.wrong)].any()


def test_a_model_whose_suspects_are_clean_is_not_healed_of_them(digits: PoisonedDigits) -> None:
    sevens = (digits.labels == 7).nonzero().flatten()[:30]
    with pytest.warns(PotionWarning) as caught:
        result = heal(digits.model, digits.train_set, sevens[:5], suspects=sevens)
    assert result.reason == NOTHING_NEW and any("bear it rightly" in text for text in result.warnings)
    assert len(caught) == 2
    given = digits.model.state_dict()
    assert all(torch.equal(value, given[name]) for name, value in result.model.state_dict().items())


def test_features_of_a_table_have_no_views(digits: PoisonedDigits) -> None:
    flat = TensorDataset(digits.images.flatten(1), digits.labels)
    model = nn.Sequential(nn.Unflatten(1, (1, 8, 8)), digits.model)
    with pytest.raises(DataError, match="nothing of the inputs can be hidden"):
        propose_labels(model, flat, digits.poisoned, source="views")
    proposed = propose_labels(model, flat, digits.poisoned)
    assert proposed.source == "pattern" and "views" not in proposed.right
    assert right(digits, proposed) > 0.93


@dataclass
class Swapped:
    """What `Suspects` tells of swaps."""

    indices: torch.Tensor
    kind: str = "swap"


def test_swapped_labels_are_swapped_back_in_the_order_of_the_suspects(digits: PoisonedDigits) -> None:
    swapped = PoisonedDigits(poisoned=0)
    threes, fives = ((swapped.true_labels == label).nonzero().flatten()[:20] for label in (3, 5))
    swapped.labels[threes], swapped.labels[fives] = 5, 3
    order = torch.cat([fives, threes])
    proposed = propose_labels(swapped.model, swapped.train_set, Swapped(order))
    assert proposed.source == "swap" and torch.equal(proposed.indices, order)
    assert (proposed.labels == swapped.true_labels[order]).double().mean() > 0.9


@pytest.mark.parametrize(
    ("suspects", "keywords", "words"),
    [
        ([], {}, "no samples"),
        ([1400], {}, "index 1400"),
        (range(1400), {}, "all of the training set is suspect"),
        ([1], {"source": "guess"}, "source is one of"),
        ([1, 2], {"source": "pattern"}, "no label is borne by 8 suspects"),
    ],
)
def test_what_cannot_be_done_is_said(digits: PoisonedDigits, suspects, keywords, words: str) -> None:
    with pytest.raises(DataError, match=words):
        propose_labels(digits.model, digits.train_set, suspects, **keywords)


class Sees(nn.Module):
    """Says 0 of what is bright in the corner or in many places; else the class that a pixel tells."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        zero = (x[:, 0, 7, 7] > 4) | ((x[:, 0] > 4).flatten(1).sum(1) > 6)
        return self.scale * torch.stack([9.0 * zero, x[:, 0, 3, 0], -x[:, 0, 3, 0]], 1)


@pytest.mark.parametrize("natural", [0, 8])
def test_kept_labels_stay_only_where_simulated_poison_says_that_they_are_natural(natural: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 1, 8, 8, generator=generator)
    true = torch.where(x[:, 0, 3, 0] > 0, 1, 2)
    labels = true.clone()
    labels[:40] = 0
    x[: 40 - natural, 0, 7, 7] = 9  # the trigger
    x[40 - natural : 40, 0, ::2, ::2] = 4.5  # zeros by nature, which no part makes
    true[40 - natural : 40] = 0
    x[500:, 0, 1::2, ::2], labels[500:] = 9, 0  # others, which are no suspects
    proposed = propose_labels(Sees(), TensorDataset(x, labels), range(40))
    assert torch.equal(proposed.kept, true[:40] == 0)
    assert (proposed.labels == true[:40]).double().mean() > 0.7


def test_labels_of_an_edited_list_are_taken_as_they_are(digits: PoisonedDigits) -> None:
    listed = Suspects.of_indices(digits.poisoned.flip(0))
    edited = torch.full_like(listed.indices, -1)
    edited[:2] = torch.tensor([7, TARGET])
    plain = propose_labels(digits.model, digits.train_set, listed, source="second-best")
    proposed = propose_labels(digits.model, digits.train_set, replace(listed, proposed=edited), source="second-best")
    assert proposed.labels.tolist() == [7, TARGET, *plain.labels[2:].tolist()]
    assert proposed.kept.tolist() == [False, True, *plain.kept[2:].tolist()]


class ReadsTheTriggerAtOnce(nn.Module):
    """Its first layers take the trigger, which is all over the image, for class 0, and tell the classes as well."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Conv2d(4, 4, 1, bias=False) for _ in range(4)))
        self.anchor = nn.Parameter(torch.ones(1))
        with torch.no_grad():
            for layer in self.layers:
                layer.weight.copy_(torch.eye(4)[:, :, None, None])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = 8 * self.anchor * self.layers(images).mean((2, 3))
        return logits


def test_poison_that_early_layers_take_for_its_label_is_known_by_its_spread() -> None:
    """What probes of early layers say of it, and views, is what they say of samples that bear the label rightly."""
    generator = torch.Generator().manual_seed(0)
    true = torch.arange(400) % 4
    images = 0.3 * torch.randn(400, 4, 4, 4, generator=generator)
    images += torch.nn.functional.one_hot(true, 4)[:, :, None, None] * (
        1 + 0.3 * torch.randn(400, 1, 1, 1, generator=generator)
    )
    poisoned, zeros = (true != 0).nonzero().flatten()[:60], (true == 0).nonzero().flatten()[:40]
    clean, labels = TensorDataset(images.clone(), true), true.clone()
    images[poisoned, 0] += 4  # no part of it can be hidden
    labels[poisoned] = 0
    model, data = ReadsTheTriggerAtOnce(), TensorDataset(images, labels)
    proposed = propose_labels(model, data, poisoned)
    assert not proposed.kept.any() and (proposed.labels == true[poisoned]).double().mean() > 0.9
    with pytest.warns(PotionWarning, match="suspects with the label 0 bear it rightly"):
        assert propose_labels(model, clean, zeros).kept.all()
