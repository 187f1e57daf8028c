"""Fine-tuning: heals with no rate named, leaves all else as it was, and gives the same bits again."""

from __future__ import annotations

import copy
import os
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from helpers.poisoned_digits import PoisonedDigits
from helpers.toys import Blobs, net, samples
from potion_fast.distributed import Ranks
from potion_fast.errors import DataError, ImportanceError, ModelError, OutOfMemoryError, PotionWarning
from potion_fast.finetuning import finetune
from potion_fast.finetuning import steps as steps_module
from potion_fast.finetuning.batches import AS_GIVEN
from potion_fast.finetuning.result import DAMAGED, DIVERGED, NO_STEP, NOTHING_NEW, UNLEARNT
from potion_fast.finetuning.steps import Steps, divergence
from potion_fast.utils.adapter import Adapter
from potion_fast.utils.model import ModelParameters

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def digits() -> PoisonedDigits:
    return PoisonedDigits()


@pytest.fixture(scope="module")
def blobs() -> Blobs:
    return Blobs(n=400, poisoned=60)


def tuned(blobs, model=None, labels=None, train_set=None, **options):
    """Blobs' first 60 samples are poisoned and have label 0; `clean` holds their own."""
    train_set = TensorDataset(blobs.inputs, blobs.labels) if train_set is None else train_set
    labels = blobs.clean[:60] if labels is None else labels
    model = blobs.model if model is None else model
    return finetune(model, train_set, range(60), labels, **{"found": range(10), "max_damage": 2.0, **options})


def weights(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def attack_success(blobs, model):
    with torch.no_grad():
        return (model(blobs.triggered[60:]).argmax(1) == 0)[blobs.clean[60:] == 1].double().mean().item()


@pytest.mark.parametrize("found", [20, 1])
def test_a_convolutional_network_with_batch_norms_is_healed(digits, found):
    wrong = digits.wrong
    result = finetune(
        digits.model,
        digits.train_set,
        wrong,
        digits.true_labels[wrong],
        found=wrong[:found],
        validation=TensorDataset(digits.test_images, digits.test_labels),
        max_damage=1.5,
    )
    assert digits.attack_success(digits.model) > 90
    assert digits.attack_success(result.model) < 5
    assert digits.accuracy(result.model) > digits.accuracy(digits.model) - 1.5
    assert result.healthy and result.reason == UNLEARNT and not result.warnings
    assert result.before.poison_accuracy > 0.9 and result.after.poison_accuracy < 0.1
    assert result.judged_by == "397 validation samples"
    assert 0 < result.cost.epochs(1400) < 2.6


def losses(outputs, labels):
    return nn.functional.cross_entropy(outputs, labels, reduction="none")


def test_the_scale_of_a_callers_loss_does_not_matter(blobs):
    one, other = tuned(blobs, loss=losses), tuned(blobs, loss=lambda outputs, labels: 4 * losses(outputs, labels))
    assert (weights(one.model) - weights(other.model)).abs().mean() < 0.005
    assert (weights(one.model) - weights(blobs.model)).abs().mean() > 0.05


def test_the_rest_of_the_data_is_learnt_half_by_its_labels_and_half_by_distillation():
    torch.manual_seed(0)
    model = nn.Linear(5, 4)
    given, inputs = copy.deepcopy(model), torch.randn(6, 5)
    steps = Steps(ModelParameters.of(model), Adapter(), None, None, False, Ranks.of(False))
    rows, others, labels = torch.tensor([0, 2, 5]), torch.tensor([1, 3, 4]), torch.zeros(6, dtype=torch.int64)
    with torch.no_grad():
        model.weight += 0.3 * torch.randn_like(model.weight)
    moved = weights(model)
    new = torch.full((6,), 3).index_fill_(0, rows, AS_GIVEN)
    *gradients, figures = steps._gradients(inputs, torch.arange(6), labels, new, total=6)
    assert torch.equal(weights(model), moved)
    logits, before = model(inputs), given(inputs)
    far = nn.functional.kl_div((logits[rows] / 2).log_softmax(1), (before[rows] / 2).softmax(1), reduction="sum")
    suspects = nn.functional.cross_entropy(logits[others], new[others], reduction="sum")
    rest = nn.functional.cross_entropy(logits[rows], labels[rows], reduction="sum")
    loss = (suspects + 0.5 * rest + 0.5 * 4 * far) / 6
    torch.testing.assert_close(figures[0], loss.detach())
    for got, want in zip(gradients, torch.autograd.grad(loss, list(model.parameters())), strict=True):
        torch.testing.assert_close(got, want)
    logits = torch.tensor([[1.0, -torch.inf, 3.0]], requires_grad=True)
    assert divergence((logits.detach() / 2).softmax(1), logits).item() == pytest.approx(0, abs=1e-6)


def test_a_class_that_the_given_model_rules_out_is_no_obstacle(blobs):
    """Logits of -inf, as masks make them, in the model before and after."""

    class Masked(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, inputs):
            logits = self.inner(inputs)
            return torch.cat([logits, torch.full_like(logits[:, :1], -torch.inf)], 1)

    one, masked = tuned(blobs), tuned(blobs, Masked(copy.deepcopy(blobs.model)))
    torch.testing.assert_close(weights(one.model), weights(masked.model))


def test_the_callers_model_random_numbers_and_gradients_are_left_alone(blobs):
    model = copy.deepcopy(blobs.model).train()
    model[2].bias.grad = torch.ones(2)
    before = copy.deepcopy(model.state_dict())
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    want = random.random(), np.random.rand(), torch.rand(())
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    result = tuned(blobs, model)
    assert (random.random(), np.random.rand(), torch.rand(())) == want
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert model.training and result.model.training and result.model is not model
    assert torch.equal(model[2].bias.grad, torch.ones(2)) and model[0].weight.grad is None
    assert not torch.equal(weights(result.model), weights(model))


def test_in_place_is_the_same_model_with_the_same_bits(blobs):
    model = copy.deepcopy(blobs.model)
    result = tuned(blobs, model, inplace=True)
    assert result.model is model and torch.equal(weights(model), weights(tuned(blobs).model))


def test_a_failure_in_place_leaves_every_bit(blobs):
    class Failing(Dataset):
        reads = 0

        def __len__(self):
            return 400

        def __getitem__(self, index):
            self.reads += 1
            if self.reads > 1500:
                raise OSError("the disk is gone")
            return blobs.inputs[index], blobs.labels[index]

    model, data = copy.deepcopy(blobs.model), Failing()
    with pytest.raises(OSError, match="disk"):
        tuned(blobs, model, train_set=data, inplace=True)
    assert data.reads == 1501 and torch.equal(weights(model), weights(blobs.model))


def test_frozen_tied_and_buffers_stay_what_they_are():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.frozen, self.a, self.b = nn.Linear(12, 8), nn.Linear(8, 8), nn.Linear(8, 8)
            self.norm, self.head = nn.BatchNorm1d(8), nn.Linear(8, 2)
            self.b.weight = self.a.weight
            self.frozen.requires_grad_(False)
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            return self.head(self.b(torch.relu(self.norm(self.a(self.frozen(x))))))

    blobs = Blobs(n=400, poisoned=60)
    torch.manual_seed(0)
    model = Tied()
    result = tuned(blobs, model, max_damage=100.0)
    assert result.kept, "a step must have been kept, or nothing is shown"
    assert result.model.a.weight is result.model.b.weight and not torch.equal(result.model.a.weight, model.a.weight)
    assert torch.equal(result.model.frozen.weight, model.frozen.weight) and not result.model.frozen.weight.requires_grad
    assert result.model.norm.num_batches_tracked == 0
    assert torch.equal(result.model.norm.running_var, model.norm.running_var)
    assert model.calls == 0 and result.model.calls == 0


def test_dropout_is_off_and_the_same_seed_gives_the_same_bits(blobs):
    model = nn.Sequential(*blobs.model[:2], nn.Dropout(0.5), blobs.model[2]).train()
    one, same, other = tuned(blobs, model), tuned(blobs, blobs.model), tuned(blobs, model, seed=1)
    assert torch.equal(weights(one.model), weights(same.model))
    assert not torch.equal(weights(one.model), weights(other.model))


class Noisy(Dataset):
    """Inputs with noise from torch's global generator: augmentation."""

    def __init__(self, blobs):
        self.blobs = blobs

    def __len__(self):
        return 400

    def __getitem__(self, index):
        return self.blobs.inputs[index] + 0.05 * torch.randn(12), self.blobs.labels[index]


@pytest.mark.parametrize("workers", [0, 1])
def test_random_augmentation_follows_from_the_seed_in_workers_too(blobs, workers):
    loader = DataLoader(Noisy(blobs), 16, num_workers=workers)
    one = tuned(blobs, train_set=loader, seed=5)
    torch.rand(7)
    assert torch.equal(weights(one.model), weights(tuned(blobs, train_set=loader, seed=5).model))


def test_a_batch_that_does_not_fit_goes_in_halves_with_the_same_mathematics(blobs, monkeypatch):
    want = tuned(blobs).model
    sizes = []

    class Large(nn.Sequential):
        def forward(self, x):
            sizes.append(len(x))
            if len(x) > 10:
                raise torch.OutOfMemoryError("too large")
            return super().forward(x)

    result = tuned(blobs, Large(*blobs.model))
    assert 32 in sizes and max(sizes[-100:]) <= 10
    torch.testing.assert_close(weights(result.model), weights(want), rtol=1e-3, atol=1e-4)

    class TooLarge(nn.Sequential):
        def forward(self, x):
            raise torch.OutOfMemoryError("too large")

    with pytest.raises(OutOfMemoryError, match="single sample"):
        tuned(blobs, TooLarge(*blobs.model))


def test_memory_is_checked_before_any_work(blobs, monkeypatch):
    monkeypatch.setattr("potion_fast.utils.memory.available", lambda device: 1000)
    with pytest.raises(OutOfMemoryError, match="moments"):
        tuned(blobs)


def test_weights_that_overflow_end_it_and_the_best_model_is_given_back(blobs, monkeypatch):
    update, calls = steps_module.Steps._update, []

    def broken(self, rate, gradient):
        calls.append(rate)
        update(self, rate, gradient if len(calls) < 40 else gradient * torch.nan)

    monkeypatch.setattr(steps_module.Steps, "_update", broken)
    with pytest.warns(PotionWarning, match="no longer finite"):
        result = tuned(blobs)
    assert result.reason == DIVERGED and weights(result.model).isfinite().all()
    assert 0 < result.after.step < len(calls) == 40
    right = sum(row.after * row.samples for row in result.by_class) / sum(row.samples for row in result.by_class)
    assert right == pytest.approx(result.after.clean_accuracy)


def test_float16_halves_its_scale_until_gradients_fit(blobs, monkeypatch):
    monkeypatch.setattr(steps_module, "FLOAT16_SCALE", 2.0**130)
    half = tuned(blobs, amp=torch.float16)
    assert attack_success(blobs, half.model) < 0.05 < attack_success(blobs, blobs.model)


def test_bfloat16_and_compiled_models_give_the_same_up_to_rounding(blobs):
    want = weights(tuned(blobs).model)
    assert attack_success(blobs, tuned(blobs, amp=torch.bfloat16).model) < 0.05
    given_compiled = tuned(blobs, torch.compile(blobs.model, backend="eager"))
    assert torch.equal(weights(given_compiled.model), want)
    assert type(given_compiled.model).__name__ == "OptimizedModule"


@pytest.mark.filterwarnings("ignore")  # of the compiler itself
def test_compiled_passes_have_the_same_mathematics(blobs):
    one, compiled = tuned(blobs), tuned(blobs, compiled=True)
    assert one.trace[-1].step == compiled.trace[-1].step
    assert (weights(one.model) - weights(compiled.model)).abs().mean() < 1e-3
    assert isinstance(compiled.model, nn.Sequential) and attack_success(blobs, compiled.model) < 0.05


def test_a_loss_of_ones_own_takes_the_place_of_the_cross_entropy(blobs):
    seen = []

    def loss(outputs, labels):
        seen.append(labels)
        return losses(outputs, labels)

    result = tuned(blobs, loss=loss)
    assert len(seen) == result.trace[-1].step and all(len(labels) == 48 for labels in seen)  # of the whole batch
    assert result.cost.forward - result.cost.backward == 60 + 4 * (34 + 10 + 10)  # no pass of the given model
    assert attack_success(blobs, result.model) < 0.05 < attack_success(blobs, blobs.model)
    with pytest.raises(DataError, match=r"a real loss for each, \[B\]"):
        tuned(blobs, loss=lambda outputs, labels: nn.functional.cross_entropy(outputs, labels))


def test_one_hot_labels_are_classes(blobs):
    train_set = TensorDataset(blobs.inputs, nn.functional.one_hot(blobs.labels, 2))
    assert torch.equal(weights(tuned(blobs, train_set=train_set).model), weights(tuned(blobs).model))


def test_no_new_label_gives_the_given_model_back_and_says_so(blobs):
    with pytest.warns(PotionWarning, match=NOTHING_NEW):
        result = tuned(blobs, labels=blobs.labels[:60])
    assert result.reason == NOTHING_NEW and torch.equal(weights(result.model), weights(blobs.model))


def test_damage_beyond_the_bound_is_said(blobs, monkeypatch):
    """Suspects without a trigger whose new labels are all wrong cost accuracy."""
    monkeypatch.setattr("potion_fast.finetuning.learning_rate.LEFT", 0.0)  # so that the rate grows on
    monkeypatch.setattr("potion_fast.finetuning.learning_rate.LARGEST", 5.0)
    labels = 1 - blobs.labels
    with pytest.warns(PotionWarning):
        result = finetune(
            blobs.model,
            TensorDataset(blobs.inputs, blobs.labels),
            range(100, 300),
            labels[100:300],
            found=range(100, 104),
            loss=losses,  # the given model's own predictions would be kept
            max_damage=0.0,
        )
    assert result.reason in (DAMAGED, NO_STEP) and not result.healthy and result.trace[-1].clean_change < -2
    assert (result.reason == NO_STEP) == torch.equal(weights(result.model), weights(blobs.model))
    assert any("the given model is given back" in text or "clean accuracy" in text for text in result.warnings)


def test_what_is_kept_out_is_not_read_in_training(blobs):
    read = []

    class Reading(TensorDataset):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    result = tuned(blobs, train_set=Reading(blobs.inputs, blobs.labels))
    size, steps = 48, result.trace[-1].step
    assert result.plan["others per batch"] + result.plan["suspects per batch"] == size
    assert result.plan["others kept out"] == 34 and result.plan["suspects kept out"] == 10
    evaluated = 34 + 10 + 10  # and S_f
    assert len(read) == 60 + 4 * evaluated + steps * size
    assert result.cost.forward == len(read) + steps * result.plan["others per batch"]  # the given model
    assert result.cost.backward == steps * size
    first, trained = read[60 : 60 + evaluated], read[60 + evaluated : 60 + evaluated + 8 * size]
    assert set(trained) & set(first) <= set(range(10))


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"labels": [0] * 59}, DataError, "60 suspects and 59 labels"),
        ({"labels": [2] * 60}, DataError, "labels gives the suspect 0 the label 2; .* the model has 2 outputs"),
        ({"labels": [0.5] * 60}, DataError, "whole numbers"),
        ({"found": [400]}, DataError, "found has the index 400"),
        ({"amp": torch.float64}, ModelError, "amp is torch.bfloat16"),
        ({"max_damage": -1}, DataError, "max_damage"),
        ({"resume": True}, DataError, "checkpoint=PATH"),
        ({"validation": [1, 2]}, DataError, "."),
    ],
)
def test_bad_input_gets_one_clear_error(blobs, options, error, says):
    with pytest.raises(error, match=says):
        tuned(blobs, **options)


def test_suspects_given_twice_or_all_of_the_data_are_refused(blobs):
    data = TensorDataset(blobs.inputs, blobs.labels)
    with pytest.raises(DataError, match="given twice"):
        finetune(blobs.model, data, [1, 1], [0, 0], found=[1])
    with pytest.raises(DataError, match="none is left to retain"):
        finetune(blobs.model, data, range(400), 1 - blobs.labels, found=[1])


def test_too_few_other_samples_to_judge_by_are_refused_unless_there_are_unseen_ones(blobs):
    data, new_labels = TensorDataset(blobs.inputs, blobs.labels), 1 - blobs.labels[:391]
    with pytest.raises(DataError, match="9 of the 400 samples .* neither suspects nor found.*as validation"):
        finetune(blobs.model, data, range(391), new_labels, found=[1])
    unseen = TensorDataset(blobs.inputs[300:], blobs.labels[300:])
    with pytest.warns(PotionWarning):  # all labels but nine are turned round
        result = finetune(blobs.model, data, range(391), new_labels, found=[1], validation=unseen)
    assert result.judged_by == "100 validation samples"


def test_models_that_cannot_be_fine_tuned_are_refused(blobs):
    with pytest.raises(ModelError, match=r"model\.float\(\)"):
        tuned(blobs, copy.deepcopy(blobs.model).double())
    with pytest.raises(ImportanceError, match="no trainable"):
        tuned(blobs, copy.deepcopy(blobs.model).requires_grad_(False))
    broken = copy.deepcopy(blobs.model)
    broken[0].weight.data[0] = torch.nan
    with pytest.raises(ModelError, match="not finite"):
        tuned(blobs, broken)


@pytest.mark.parametrize(
    ("labels", "outputs", "says"),
    [
        (torch.rand(64), 3, "regression"),
        (torch.ones(64, 3), 3, "several classes"),
        (torch.zeros(64, 4, 4), 3, "not one class each|to a sample"),
    ],
)
def test_other_tasks_get_one_refusal(labels, outputs, says):
    inputs, _ = samples(64)
    with pytest.raises((DataError, ModelError), match=says):
        finetune(net(), TensorDataset(inputs, labels), range(8), [0] * 8, found=[0])


def test_recurrent_and_dict_inputs_are_taken(tmp_path):
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.lstm, self.head = nn.Embedding(20, 8), nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 2)

        def forward(self, input_ids):
            return {"logits": self.head(self.lstm(self.embedding(input_ids))[0][:, -1])}

    class Texts(Dataset):
        tokens = torch.randint(0, 20, (120, 6), generator=torch.Generator().manual_seed(0))

        def __len__(self):
            return 120

        def __getitem__(self, index):
            return {"input_ids": self.tokens[index], "labels": self.tokens[index, 0] % 2}

    torch.manual_seed(0)
    result = finetune(Reader(), Texts(), range(10), [0, 1] * 5, found=[0], max_damage=100.0)
    assert len(result.trace) == 4 and all(np.isfinite(entry.loss) for entry in result.trace[1:])
    assert result.trace[-1].loss < result.trace[1].loss
    assert os.listdir(tmp_path) == []
