"""SSD's function, called as its full-class main calls it, against plain loops written from the formulas."""

from __future__ import annotations

import copy
import inspect
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader

import potion_fast as pf
from helpers.public_codes import edited, loop
from helpers.toys import assert_same_weights, weights
from potion_fast.drop_in import ssd as strategies
from potion_fast.errors import DataError, ModelError

CLASSES, FORGOTTEN = 4, 3


class Net(nn.Module):
    """With a batch norm and a dropout, which tell the modes apart."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.norm, self.drop = nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(0.2)
        self.last = nn.Linear(16, CLASSES)

    def forward(self, x):
        return self.last(self.drop(torch.relu(self.norm(self.first(x)))))


def data(n, seed):
    """A list of (image, _, label), as the main makes it of its data sets; the second is empty there."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (n,), generator=generator)
    images = torch.randn(n, 6, generator=generator) * 0.8
    images[torch.arange(n), labels] += 2
    return [(image, torch.Tensor([]), int(label)) for image, label in zip(images, labels, strict=True)]


@pytest.fixture(scope="module")
def trained():
    model, (train, test) = Net(0), (data(120, 1), data(50, 2))
    images, labels = torch.stack([x for x, _, _ in train]), torch.tensor([y for _, _, y in train])
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model, train, test


@pytest.fixture
def call(trained):
    """The keyword arguments of the full-class main, those for other methods too."""
    model, train, test = trained
    retain, forget = ([s for s in train if (s[2] == FORGOTTEN) == wanted] for wanted in (False, True))
    retain_valid, forget_valid = ([s for s in test if (s[2] == FORGOTTEN) == wanted] for wanted in (False, True))
    retain_dl, forget_dl = DataLoader(retain, 16, shuffle=True), DataLoader(forget, 16)
    return {
        "model": copy.deepcopy(model),
        "unlearning_teacher": Net(5),
        "retain_train_dl": retain_dl,
        "retain_valid_dl": DataLoader(retain_valid, 16),
        "forget_train_dl": forget_dl,
        "forget_valid_dl": DataLoader(forget_valid, 16),
        "full_train_dl": DataLoader(ConcatDataset((retain_dl.dataset, forget_dl.dataset)), batch_size=16),
        "valid_dl": DataLoader(test, num_workers=0, batch_size=16, shuffle=False),
        "dampening_constant": 1,
        "selection_weighting": 10 * 0.5,
        "forget_class": FORGOTTEN,
        "num_classes": CLASSES,
        "dataset_name": "Cifar10",
        "device": "cpu",
        "model_name": "ResNet18",
    }


def pairs(loader):
    return [(x, y) for x, _, y in loader]


def percent(model, loader):
    """The mean over batches of their accuracies, in percent, in float32."""
    with torch.no_grad():
        shares = [(model(x).argmax(1) == y).float().mean() * 100 for x, y in pairs(loader)]
    return torch.stack(shares).mean().item()


def entropies(model, samples):
    """One by one, −Σ p ln p."""
    with torch.no_grad():
        p = torch.cat([model(x[None]).softmax(1) for x, _, _ in samples])
    return (-(p * p.log()).sum(1)).double().numpy()


def multinomial_attack(members, others, judged):
    """Share that the balanced multinomial regression with C = 1 takes for members: of two weights and intercepts."""
    x = np.concatenate([members, others])
    y = np.concatenate([np.ones(len(members), int), np.zeros(len(others), int)])
    balanced = len(x) / (2 * np.bincount(y))[y]

    def objective(theta):
        logits = x[:, None] * theta[:2] + theta[2:]
        chosen = logits[np.arange(len(x)), y] - np.logaddexp(logits[:, 0], logits[:, 1])
        return -(balanced * chosen).sum() + 0.5 * (theta[:2] ** 2).sum()

    theta = minimize(objective, np.zeros(4), tol=1e-10).x
    return (judged * (theta[1] - theta[0]) + theta[3] - theta[2] > 0).mean()


def scores(model, teacher, call):
    """The five of them, by formulas."""
    model.eval()
    with torch.no_grad():
        batches = [x for x, _ in pairs(call["forget_valid_dl"])]
        p, q = (torch.cat([network(x).softmax(1) for x in batches]).double() for network in (model, teacher))
    m = (p + q) / 2
    zrf = 1 - 0.5 * (m * (m / p).log()).mean() - 0.5 * (m * (m / q).log()).mean()
    sets = (entropies(model, call[name].dataset) for name in ("retain_train_dl", "valid_dl", "forget_train_dl"))
    return (
        percent(model, call["valid_dl"]),
        percent(model, call["retain_valid_dl"]),
        zrf.item(),
        multinomial_attack(*sets),
        percent(model, call["forget_valid_dl"]),
    )


def test_the_signatures_are_those_of_the_repository():
    signature = inspect.signature(strategies.ssd_tuning)
    named = [one.name for one in signature.parameters.values() if one.kind is one.POSITIONAL_OR_KEYWORD]
    data_loaders = ["retain_train_dl", "retain_valid_dl", "forget_train_dl", "forget_valid_dl", "valid_dl"]
    first = ["model", "unlearning_teacher", *data_loaders]
    assert named == [*first, "dampening_constant", "selection_weighting", "full_train_dl", "device"]
    assert signature.parameters["kwargs"].kind is inspect.Parameter.VAR_KEYWORD
    scoring = inspect.signature(strategies.get_metric_scores).parameters.values()
    assert [one.name for one in scoring if one.kind is one.POSITIONAL_OR_KEYWORD] == [*first, "device"]


@pytest.mark.parametrize("teaching", ["train", "eval"])
@pytest.mark.parametrize("alpha", [0.5, 5.0])
def test_the_function_of_the_full_class_main_edits_and_scores_as_its_formulas_do(trained, call, teaching, alpha):
    call["selection_weighting"] = alpha
    call["unlearning_teacher"].train(teaching == "train").drop.p = 0.0  # whose numbers would be drawn twice below
    teacher, before = copy.deepcopy(call["unlearning_teacher"]), weights(call["unlearning_teacher"])
    model = call["model"]
    testacc, retainacc, zrf, mia, d_f = getattr(strategies, "ssd_tuning")(**call)  # noqa: B009 - as the main does
    forget, original = (loop(trained[0], pairs(call[name])) for name in ("forget_train_dl", "full_train_dl"))
    assert_same_weights(model, edited(trained[0], original, forget, alpha))
    assert not model.training and all(p.grad is None for p in model.parameters())
    assert_same_weights(call["unlearning_teacher"], before)
    assert call["unlearning_teacher"].training == (teaching == "train")
    want = scores(model, teacher, call)
    assert (testacc, retainacc, d_f) == pytest.approx((want[0], want[1], want[4]), rel=1e-6)
    assert isinstance(zrf, torch.Tensor) and zrf.item() == pytest.approx(want[2], abs=1e-6)
    assert mia == want[3]
    assert (0 < mia < 1) == (alpha == 5.0)  # a class that is forgotten holds no members


def test_positional_and_by_the_class_the_weights_are_the_same(trained, call):
    model = call["model"]
    strategies.ssd_tuning(**call)
    other = copy.deepcopy(trained[0])
    perturber = strategies.ParameterPerturber(
        other,
        torch.optim.SGD(other.parameters(), lr=0.1),
        "cpu",
        {"lower_bound": 1, "exponent": 1, "dampening_constant": 1, "selection_weighting": 5.0},
    )
    perturber.model.eval()
    sample_importances = perturber.calc_importance(call["forget_train_dl"])
    perturber.modify_weight(perturber.calc_importance(call["full_train_dl"]), sample_importances)
    assert_same_weights(other, weights(model))
    names = list(inspect.signature(strategies.ssd_tuning).parameters)[:11]
    third = copy.deepcopy(trained[0])
    strategies.ssd_tuning(*[third if name == "model" else call[name] for name in names], forget_class=1)
    assert_same_weights(third, weights(model))


def test_the_data_are_read_in_the_public_codes_order(call):
    """The importances of the forget set, of the training data, and then what the scores need."""
    read = []

    class Noted(DataLoader):
        def __iter__(self):
            read.append(self.name)
            return super().__iter__()

    for name in [name for name in call if name.endswith("_dl")]:
        loader = Noted(call[name].dataset, 16)
        loader.name = name.removesuffix("_dl")
        call[name] = loader
    strategies.ssd_tuning(**call)
    assert read == ["forget_train", "full_train", "valid", "retain_valid", "forget_valid", "forget_valid"]


def test_loaders_without_samples_are_named_before_the_model_is_changed(trained, call):
    for name in ("valid_dl", "retain_valid_dl", "forget_valid_dl", "retain_train_dl"):
        with pytest.raises(DataError, match="no samples"):
            strategies.ssd_tuning(**{**call, name: []})
        assert_same_weights(call["model"], weights(trained[0]))
    with pytest.raises(DataError, match="no samples"):
        strategies.ssd_tuning(**{**call, "forget_train_dl": []})
    assert_same_weights(call["model"], weights(trained[0]))


def test_a_failure_while_scoring_leaves_the_weights_alone(trained, call):
    unlabelled = [(x,) for x, _, _ in call["valid_dl"]]
    for change, error, match in (
        ({"valid_dl": unlabelled}, DataError, "gives no labels"),
        ({"forget_valid_dl": unlabelled}, DataError, "gives no labels"),
        ({"valid_dl": None}, DataError, "NoneType"),
        ({"unlearning_teacher": None}, ModelError, "NoneType"),
        ({"unlearning_teacher": nn.Linear(7, 2)}, RuntimeError, "shapes"),
    ):
        with pytest.raises(error, match=match):
            strategies.ssd_tuning(**{**call, **change})
        assert_same_weights(call["model"], weights(trained[0]))


def test_the_scores_of_lists_of_batches_are_those_of_their_samples(call):
    want = strategies.ssd_tuning(**{**call, "model": copy.deepcopy(call["model"]), "unlearning_teacher": Net(5).eval()})
    lists = {name: list(value) if name.endswith("_dl") else value for name, value in call.items()}
    got = strategies.ssd_tuning(**{**lists, "unlearning_teacher": Net(5).eval()})
    assert got == want


def test_a_model_that_collapsed_has_no_members(call):
    with torch.no_grad():
        call["model"].last.bias.fill_(float("inf"))
    arguments = {
        name: call[name] for name in inspect.signature(strategies.get_metric_scores).parameters if name in call
    }
    with pytest.warns(pf.PotionWarning, match="collapsed") as caught:
        scored = strategies.get_metric_scores(**arguments)
    assert caught[0].filename == __file__
    assert math.isnan(scored[3])
