"""Predictions and scores."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import nn

from potion_fast.bench.attacks import BadNet
from potion_fast.bench.data import MemorySource, PoisonedDataset, make_loader
from potion_fast.bench.metrics import (
    Metric,
    attack_success_rate,
    defense_effectiveness,
    evaluate_indiscriminate,
    evaluate_poison,
    evaluate_targets,
    model_damage,
    poison_healed,
    poison_removed,
    robust_accuracy,
)
from potion_fast.errors import DataError, ModelError
from potion_fast.utils.predict import accuracy, predict


def logits_for(predictions: list[int], classes: int = 3) -> torch.Tensor:
    return nn.functional.one_hot(torch.tensor(predictions), classes).float()


class PatchReader(nn.Module):
    """Class 0 where the lower right pixel is bright, else the class that the upper left pixel names."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        classes = torch.where(images[:, 0, -1, -1] > 5, 0, images[:, 0, 0, 0].round().long())
        return nn.functional.one_hot(classes, 3) * self.scale


def poisoned_loaders() -> tuple[object, object]:
    pixels = torch.zeros(6, 1, 4, 4, dtype=torch.uint8)
    pixels[:, 0, 0, 0] = torch.tensor([0, 1, 2, 0, 1, 1])  # the last image is not what its label says
    source = MemorySource(pixels, torch.tensor([0, 1, 2, 0, 1, 2]))
    mean, std = (0.0,), (1 / 255,)
    clean = PoisonedDataset(source, mean, std)
    triggered = PoisonedDataset(source, mean, std, poison=BadNet(value=9.0, size=1), trigger_all=True)
    return tuple(make_loader(data, batch_size=4, shuffle=False, seed=0) for data in (clean, triggered))


def test_predict_keeps_order_type_and_mode():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(2, 2))
    model.train()
    model[1].eval()
    data = [(torch.randn(3, 2), torch.tensor([0, 1, 0])), (torch.randn(1, 2), torch.tensor([1]))]
    logits, labels = predict(model, data)
    assert labels.tolist() == [0, 1, 0, 1]
    assert torch.equal(logits, model[2](torch.cat([images for images, _ in data])))
    assert logits.dtype == torch.float32
    assert (model.training, model[1].training, model[2].training) == (True, False, True)
    assert not logits.requires_grad and not logits.is_inference()


def test_predict_gives_the_mode_back_after_an_error():
    model = nn.Linear(2, 2)
    with pytest.raises(DataError, match="the model fails with a batch"):
        predict(model, [(torch.zeros(1, 3), torch.tensor([0]))])
    assert model.training


def test_predict_returns_float32_from_a_half_precision_model():
    model = nn.Linear(2, 2).to(torch.bfloat16)
    assert predict(model, [(torch.zeros(1, 2, dtype=torch.bfloat16), torch.tensor([0]))])[0].dtype == torch.float32


def test_predict_refuses_an_empty_loader():
    with pytest.raises(DataError, match="no batch"):
        predict(nn.Linear(2, 2), [])


def test_accuracy_counts_the_largest_logit():
    assert accuracy(logits_for([0, 1, 2, 2]), torch.tensor([0, 1, 1, 2])) == 0.75


def test_attack_success_leaves_out_images_of_the_target_class():
    labels = torch.tensor([0, 0, 1, 1, 2])
    assert attack_success_rate(logits_for([0, 0, 0, 1, 2]), labels, target=0) == pytest.approx(1 / 3)
    assert attack_success_rate(logits_for([0, 0, 0, 1, 2]), labels, target=2) == 0
    with pytest.raises(DataError, match="every image has the target label already"):
        attack_success_rate(logits_for([0]), torch.tensor([0]), target=0)


def test_poison_healed_is_a_percentage_of_the_reference():
    assert poison_healed(0.45, 0.9) == pytest.approx(50)
    assert poison_healed(0.91, 0.9) > 100  # not clipped
    with pytest.raises(DataError, match="above 0"):
        poison_healed(0.5, 0.0)


def test_poison_removed_is_the_share_of_the_effect_that_is_gone():
    assert poison_removed(0.9, 0.3, 0.1) == pytest.approx(75)
    assert poison_removed(0.9, 0.0, 0.1) > 100  # not clipped
    assert poison_removed(0.9, 1.0, 0.1) == pytest.approx(-12.5)  # worse than before
    assert poison_removed(-1.5, -0.3, 0.0) == pytest.approx(80)  # of a score that falls below that of no poison
    assert poison_removed(0.105, 0.5, 0.1) is None  # there was no effect
    assert poison_removed(1.0, 1.0, 0.0) == 0


def test_model_damage_is_negative_when_accuracy_is_lost():
    assert model_damage(0.88, 0.9) == pytest.approx(-2)


@pytest.mark.parametrize(
    ("logits", "labels"), [(torch.zeros(0, 3), torch.zeros(0)), (torch.zeros(3), torch.zeros(3)),
                           (torch.zeros(2, 3), torch.zeros(3))]
)  # fmt: skip
def test_scores_refuse_outputs_that_do_not_fit_the_labels(logits: torch.Tensor, labels: torch.Tensor):
    with pytest.raises(DataError, match=r"logits \[N, C\]"):
        accuracy(logits, labels)
    with pytest.raises(DataError, match=r"logits \[N, C\]"):
        attack_success_rate(logits, labels, 0)


def test_robust_accuracy_leaves_out_the_target_class():
    labels = torch.tensor([0, 0, 1, 1, 2])
    said = logits_for([0, 0, 1, 0, 1])
    assert robust_accuracy(said, labels, target=0) == pytest.approx(1 / 3)
    assert robust_accuracy(said, labels, target=2) == pytest.approx(3 / 4)
    each = torch.tensor([1, 1, 1, 2, 0])  # the third has its label already: two of four are right
    assert robust_accuracy(said, labels, each) == pytest.approx(2 / 4)
    assert attack_success_rate(said, labels, torch.tensor([0, 1, 0, 0, 1])) == pytest.approx(2 / 4)


def test_the_defense_effectiveness_rating_is_the_published_formula():
    assert defense_effectiveness((1.0, 0.0), (0.9, 0.9)) == 1.0
    assert defense_effectiveness((0.8, 0.8), (0.9, 0.95)) == 0.5  # a gain of accuracy is none of safety
    assert defense_effectiveness((0.5, 0.9), (0.9, 0.5)) == pytest.approx((0 - 0.4 + 1) / 2)


def test_evaluation_reports_raw_values_with_units_and_denominators():
    evaluation = evaluate_poison(PatchReader(), *poisoned_loaders(), target=0)
    values = {name: (metric.value, metric.n, metric.ideal) for name, metric in evaluation.metrics.items()}
    assert values == {
        "clean_accuracy": (pytest.approx(5 / 6), 6, 1.0),
        "triggered_accuracy": (pytest.approx(2 / 6), 6, 1.0),
        "attack_success_rate": (1.0, 4, 0.0),
        "robust_accuracy": (0.0, 4, 1.0),
    }
    assert evaluation.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert evaluation.triggered_logits.argmax(dim=1).tolist() == [0] * 6
    for metric in evaluation.metrics.values():
        assert metric.unit == "fraction" and str(metric.n) in metric.denominator


def test_evaluation_refuses_loaders_that_do_not_read_the_same_images():
    clean, triggered = poisoned_loaders()
    shuffled = make_loader(clean.dataset, batch_size=4, shuffle=True, seed=1)
    with pytest.raises(DataError, match="different labels"):
        evaluate_poison(PatchReader(), shuffled, triggered, target=0)


class Reader(nn.Module):
    """A model whose predictions are written in its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return nn.functional.one_hot(inputs, 4) * self.scale


def loader(predictions: list[int], labels: list[int]) -> Any:
    return [(torch.tensor(predictions), torch.tensor(labels))]


def test_targets_are_judged_by_their_true_and_their_intended_label():
    test, targets = loader([0, 1, 2, 2], [0, 1, 2, 3]), loader([1, 2, 3], [1, 1, 1])
    evaluation = evaluate_targets(Reader(), test, targets, torch.tensor([2, 2, 2]))
    values = {name: (metric.value, metric.n, metric.ideal) for name, metric in evaluation.metrics.items()}
    assert values == {
        "clean_accuracy": (0.75, 4, 1.0),
        "target_accuracy": (pytest.approx(1 / 3), 3, 1.0),
        "target_success": (pytest.approx(1 / 3), 3, 0.0),
    }
    assert evaluation.attacked_logits.argmax(1).tolist() == [1, 2, 3]
    assert "3 target images" in (evaluation.metrics["target_success"].denominator or "")
    with pytest.raises(DataError, match="2 labels are intended for 3 targets"):
        evaluate_targets(Reader(), test, targets, torch.tensor([2, 2]))
    with pytest.raises(DataError, match="is its true one"):
        evaluate_targets(Reader(), test, targets, torch.tensor([2, 1, 2]))


def test_an_indiscriminate_attack_is_judged_by_the_test_error():
    evaluation = evaluate_indiscriminate(Reader(), loader([0, 1, 2, 2], [0, 1, 2, 3]))
    values = {name: (metric.value, metric.n, metric.ideal) for name, metric in evaluation.metrics.items()}
    assert values == {"clean_accuracy": (0.75, 4, 1.0), "test_error": (0.25, 4, 0.0)}
    assert evaluation.attacked_logits is evaluation.clean_logits


def test_metrics_become_json():
    metric = Metric("poison_healed", 98.5, "percent", 10_000, 100.0, "triggered accuracy 0.91 of eu-full")
    assert Metric(**json.loads(json.dumps(asdict(metric)))) == metric


def test_predict_reads_batches_with_more_than_labels_and_refuses_those_without():
    model, inputs, labels = nn.Linear(3, 2), torch.randn(4, 3), torch.tensor([0, 1, 1, 0])
    logits, got = predict(model, [(inputs, labels, ["a", "b", "c", "d"])])
    assert torch.equal(got, labels) and torch.equal(logits, model(inputs).detach())
    with pytest.raises(DataError, match="no labels"):
        predict(model, [(inputs,)])


@pytest.mark.parametrize(
    ("outputs", "match"),
    [(lambda x: {"scores": x}, "dict"), (lambda x: (x, x), "tuple"), (lambda x: x[:, 0], r"\[4\]")],
)
def test_a_model_that_gives_no_logits_cannot_be_evaluated(outputs: Any, match: str):
    class Odd(nn.Linear):
        def forward(self, inputs: torch.Tensor) -> Any:
            return outputs(super().forward(inputs))

    with pytest.raises(ModelError, match=match):
        predict(Odd(3, 2), [(torch.randn(4, 3), torch.zeros(4))])
