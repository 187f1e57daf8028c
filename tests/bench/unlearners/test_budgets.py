"""How long an unlearner trains: budgets exact to the gradient step, and learning rates tried one after another."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from helpers.toys import Blobs, assert_same_weights, weights
from helpers.unlearned import END, PAIRED, TRAINED, validation
from potion_fast.bench.data import load_dataset, make_loader
from potion_fast.bench.unlearners import Loaders, make_unlearner
from potion_fast.errors import DataError, ModelError, PotionError
from potion_fast.utils.predict import accuracy as accuracy_of
from potion_fast.utils.predict import predict


def unlearner(name: str, **settings: Any) -> Any:
    return make_unlearner(name, **END.get(name, {}), **settings)


def counted(model: nn.Module) -> tuple[nn.Module, list[int]]:
    """A copy of the model, of which every copy counts the batches that go through it for their gradients."""
    model, sizes = copy.deepcopy(model), []
    model.register_forward_hook(lambda _, __, output: sizes.append(len(output)) if output.requires_grad else None)
    return model, sizes


@pytest.mark.parametrize("budget", [1, 2, 7, 12])
@pytest.mark.parametrize("name", TRAINED)
def test_a_budget_is_never_exceeded_and_used_to_the_last_step_that_it_pays_for(blobs: Blobs, name: str, budget: int):
    if name in PAIRED and budget == 1:
        with pytest.raises(PotionError, match="at least 2"):
            unlearner(name, budget=budget)
        return
    model, sizes = counted(blobs.model)
    done = unlearner(name, budget=budget, lr=1e-6)(model, Loaders(blobs.forget(10, 4), blobs.retain()))
    expected = budget // 2 * 2 if name in PAIRED else budget
    assert len(sizes) == done.gradient_steps == expected
    if name in PAIRED:
        assert done.trace[-1].iterations == budget // 2


@pytest.mark.parametrize("name", ["cf", "eu", "gd"])
def test_a_budget_takes_the_place_of_iterations_and_epochs(blobs: Blobs, name: str):
    epochs = {"epochs": 4} if name == "gd" else {}
    done = unlearner(name, budget=5, iterations=3, **epochs)(blobs.model, Loaders(blobs.forget(), blobs.retain()))
    want = unlearner(name, iterations=5)(blobs.model, Loaders(blobs.forget(), blobs.retain()))
    assert_same_weights(done.model, weights(want.model))
    assert done.gradient_steps == want.gradient_steps == 5


@pytest.mark.parametrize(
    ("name", "epochs", "steps"),
    [
        ("gd", 2, 12), ("retrain", 1, 6), ("cfk-pawelczyk", 1, 6),  # passes over the retain set: 6 batches
        ("ga", 2, 6), ("jit", 1, 3),  # over S_f: 3
        ("neggrad-plus", 1, 12), ("scrub-pawelczyk", 2, 24),  # over pairs
        ("scrub-kurmanji", 3, 24),  # 2 · 3 + 3 · 6
    ],
)  # fmt: skip
def test_without_a_budget_so_many_epochs_are_trained(blobs: Blobs, name: str, epochs: int, steps: int):
    loaders = blobs.forget(10, 4), blobs.retain()
    assert unlearner(name, epochs=epochs, lr=1e-6)(blobs.model, Loaders(*loaders)).gradient_steps == steps
    assert (
        unlearner(name, epochs=epochs, iterations=4, lr=1e-6)(blobs.model, Loaders(*loaders)).trace[-1].iterations == 4
    )


@pytest.mark.parametrize("name", ["gd", "ga", "jit", "neggrad-plus", "scrub-kurmanji"])
def test_epochs_need_loaders_that_know_their_length_and_a_budget_does_not(blobs: Blobs, name: str):
    class Stream:
        def __init__(self, data: Any) -> None:
            self.data = data

        def __iter__(self) -> Any:
            return iter(self.data)

    loaders = Stream(blobs.forget()), Stream(blobs.retain())
    with pytest.raises(DataError, match="know its length in batches; give iterations or a budget"):
        unlearner(name)(blobs.model, Loaders(*loaders))
    assert unlearner(name, budget=4, lr=1e-6)(blobs.model, Loaders(*loaders)).gradient_steps == 4


class Rated(nn.Module):
    """A line through two weights, whose validation accuracy depends on how far it was trained."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([-1.0, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        z = x @ self.w
        return torch.stack([z, torch.zeros_like(z)], 1)


ONE = [(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))]
# Class 0 wherever w₁ x₁ + w₂ x₂ > 0: right with w₁ > −1/2, with w₁ > 0, and with w₁ < 2.
LADDER = [
    (torch.tensor([[1.0, 0.0]]), torch.tensor([0])),
    (torch.tensor([[1.0, 0.0]]), torch.tensor([0])),
    (torch.tensor([[-1.0, 0.0]]), torch.tensor([0])),
]


def test_the_rate_with_the_best_validation_accuracy_is_kept():
    """The gradient is σ(−1) − 1 = −.731 before the one step: w₁ = −1 + .731 η, above 0 for η = 2 only; 2 of 3 are right
    there, and 1 of 3 below."""
    rates = (1.0, 2.0, 0.5)
    plain = {"momentum": 0.0, "weight_decay": 0.0, "budget": 1}
    model = Rated()
    done = make_unlearner("gd", rates=rates, **plain)(model, Loaders([], ONE, validation=LADDER))
    assert [trial.lr for trial in done.trace] == list(rates)
    assert [trial.accuracy for trial in done.trace] == pytest.approx([1 / 3, 2 / 3, 1 / 3])
    assert done.kept is done.trace[1] and done.learning_rate == 2.0 == done.report.epochs[-1].lr
    assert [trial.gradient_steps for trial in done.trace] == [1, 1, 1] and done.gradient_steps == 1
    assert done.model.w[0].item() == pytest.approx(-1 + 2 / (1 + 2.718281828**-1), rel=1e-6)
    assert torch.equal(model.w, torch.tensor([-1.0, 0.0]))
    assert set(done.seconds) == {"training", "search"} and all(value >= 0 for value in done.seconds.values())


def test_of_equals_the_first_rate_is_kept():
    done = make_unlearner("gd", rates=[0.25, 0.5], budget=1)(Rated(), Loaders([], ONE, validation=LADDER))
    assert [trial.accuracy for trial in done.trace] == pytest.approx([1 / 3, 1 / 3]) and done.learning_rate == 0.25


@pytest.mark.parametrize("name", TRAINED)
def test_each_rate_is_what_it_would_be_alone(blobs: Blobs, name: str):
    loaders = blobs.forget(10, 4), blobs.retain()
    done = unlearner(name, rates=[1e-3, 0.02], budget=8, seed=2)(
        blobs.model, Loaders(*loaders, validation=validation(blobs))
    )
    for trial in done.trace:
        alone = unlearner(name, lr=trial.lr, budget=8, seed=2)(blobs.model, Loaders(*loaders))
        assert trial.accuracy == accuracy_of(*predict(alone.model, validation(blobs))) and not trial.diverged
        assert trial.gradient_steps == alone.gradient_steps
        if trial is done.kept:
            assert_same_weights(done.model, weights(alone.model))
    assert done.method == name and done.learning_rate == done.kept.lr


def test_every_rate_gets_the_same_batches_of_a_loader_that_shuffles(blobs: Blobs):
    def loader() -> DataLoader[Any]:
        data = TensorDataset(blobs.inputs[10:], blobs.labels[10:])
        return DataLoader(data, batch_size=32, shuffle=True, generator=torch.Generator().manual_seed(3))

    model = nn.Sequential(nn.Linear(12, 2))
    nn.init.zeros_(model[0].weight)
    done = make_unlearner("gd", rates=[1e-6, 0.05], epochs=2)(
        model, Loaders([], loader(), validation=validation(blobs))
    )
    assert done.kept is done.trace[1]
    alone = make_unlearner("gd", lr=0.05, epochs=2)(model, Loaders([], loader()))
    assert_same_weights(done.model, weights(alone.model))
    shared = loader()
    shuffled = [make_unlearner("gd", lr=0.05, epochs=2)(model, Loaders([], shared)).model[0].weight for _ in range(2)]
    assert not torch.equal(*shuffled)  # without the search the loader continues


def test_the_loaders_of_the_experiments_are_rewound_too():
    splits = load_dataset("digits")
    held_out = make_loader(splits.dataset("test"), batch_size=100, shuffle=False, seed=0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def loader() -> Any:
        return make_loader(splits.dataset("train", augment=True), range(100), batch_size=20, shuffle=True, seed=1)

    done = make_unlearner("gd", rates=[0.01, 0.02], budget=7)(model, Loaders([], loader(), validation=held_out))
    for trial in done.trace:
        alone = make_unlearner("gd", lr=trial.lr, budget=7)(model, Loaders([], loader()))
        assert trial.accuracy == accuracy_of(*predict(alone.model, held_out))


@pytest.mark.parametrize("steps", [1, 4])  # the weights of a last step are looked at, and the loss of all before it
def test_a_rate_that_diverges_counts_as_nothing_right_and_does_not_end_the_search(blobs: Blobs, steps: int):
    huge = 3e38
    search = make_unlearner("cf", rates=[huge, 1e-3, huge], budget=steps, weight_decay=100.0)
    done = search(blobs.model, Loaders([], blobs.retain(), validation=validation(blobs)))
    assert [trial.diverged for trial in done.trace] == [True, False, True]
    assert [trial.accuracy for trial in done.trace][::2] == [0.0, 0.0] and done.learning_rate == 1e-3
    assert all(trial.gradient_steps == steps for trial in done.trace)
    with pytest.raises(ModelError, match=r"cf: the training diverged at every one of the rates \[3e\+38\]"):
        make_unlearner("cf", rates=[huge], budget=steps, weight_decay=100.0)(
            blobs.model, Loaders([], blobs.retain(), validation=validation(blobs))
        )


def test_a_rate_with_nothing_right_is_still_better_than_one_that_diverged():
    wrong = [(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))]
    done = make_unlearner("gd", rates=[3e38, 20.0], budget=2, weight_decay=100.0, momentum=0.0)
    kept = done(Rated(), Loaders([], ONE, validation=wrong))
    assert [trial.diverged for trial in kept.trace] == [True, False] and kept.learning_rate == 20.0


def test_rates_need_a_validation_loader_and_other_errors_end_the_search(blobs: Blobs):
    with pytest.raises(PotionError, match="gd: to choose among learning rates it needs a validation loader"):
        make_unlearner("gd", rates=[1e-3])(blobs.model, Loaders(None, None))
    with pytest.raises(DataError, match="gave no"):
        make_unlearner("gd", rates=[1e-3], budget=1)(blobs.model, Loaders([], [], validation=validation(blobs)))
    with pytest.raises(ModelError, match="k=3"):
        make_unlearner("cfk-pawelczyk", rates=[1e-3])(
            blobs.model, Loaders([], blobs.retain(), validation=validation(blobs))
        )
