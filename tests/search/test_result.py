"""Results say in words what is known, on what it was measured, and what is not known; and they fit on a screen."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

import potion_fast as pf
from potion_fast.search.result import ClassAccuracy, CleanAccuracy, Result, Step
from potion_fast.utils.predict import predict

BY_CLASS = {label: ClassAccuracy(10, 1.0, 1 - label / 20) for label in range(9)}


def result(reason: str = "threshold passed", *, accuracy: float | None = 0.125, **more: Any) -> Result:
    kept = None if accuracy is None else Step(3, 0.1, 99.0, 12.5, accuracy, 241, 0.1)
    values = {
        "model": nn.Linear(2, 2),
        "trace": [kept] * 3 if kept else [],
        "kept": kept,
        "reason": reason,
        "initial_accuracy": 1.0,
        "strategy": "sequential",
        "rho": 0.2,
        "mode": "default",
        "group_size": 8,
        "objective": "xlf",
        "warnings": [],
    }
    return Result(**{**values, **more})


def test_a_passed_threshold_is_no_healing():
    text = result().verdict
    assert text == (
        "unlearnt on what was found: 12.5% of the found samples get the poison's label; whether the rest of the poison "
        "is gone is not known"
    )
    assert "healed" not in str(result())


@pytest.mark.parametrize(
    ("of", "verdict"),
    [
        (result("saturated", accuracy=0.5), "not unlearnt: the search ended saturated; 50.0% of the found samples get"),
        (result("trigger not learnt", accuracy=None), "unchanged: the model gives no found sample its label"),
        (result("damage limit reached", accuracy=None), "unchanged: no edit was kept (damage limit reached); 100.0%"),
        (
            result(clean=CleanAccuracy(0.98, 0.17, "the clean data")),
            "damaged: clean accuracy fell by 81.0 points;",
        ),
    ],
)
def test_the_verdict_says_what_came_of_it(of: Result, verdict: str):
    assert of.verdict.startswith(verdict) and str(of).startswith(verdict) and of.summary()["verdict"] == of.verdict


def test_what_was_measured_and_what_is_not_known_is_printed():
    text = str(result())
    assert "S_f with the poison's label: 100.0% -> 12.5% of the found samples; the search stops at 20.0%" in text
    assert "clean accuracy: not measured (clean_loader= measures it)" in text
    assert "not known: accuracy on data that the model has not seen (clean_loader= measures it); poison that" in text
    measured = str(result(clean=CleanAccuracy(0.98, 0.95, "the clean data", BY_CLASS)))
    assert "clean accuracy: 98.0% -> 95.0% on the clean data" in measured
    assert "lost most: 8: 100% -> 60% of 10, 7: 100% -> 65% of 10, 6: 100% -> 70% of 10" in measured
    assert "and 3 more" in measured and "\nnot known: poison that was not found, and what other inputs" in measured
    on_training = str(result(clean=CleanAccuracy(0.98, 0.95, "256 samples of the training data")))
    assert "not known: accuracy on data that the model has not seen" in on_training


@pytest.mark.filterwarnings("ignore::potion_fast.PotionWarning")
def test_a_result_of_a_network_of_many_layers_fits_on_a_screen():
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(6, 6) for _ in range(60)], nn.Linear(6, 3))
    batches = [(torch.randn(8, 6), model(torch.randn(8, 6)).argmax(1))]
    done = pf.unlearn(model, batches, batches, max_steps=3)
    for text in (str(done), repr(done)):
        assert len(text) < 2000 and text.count("\n") < 20 and max(map(len, text.split("\n"))) < 300


@pytest.mark.filterwarnings("ignore::potion_fast.PotionWarning")
def test_clean_accuracy_by_class_is_that_of_the_models():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    inputs = torch.randn(90, 4, generator=generator) + 3 * torch.eye(4)[labels]
    model = nn.Linear(4, 3, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.eye(4)[:3])
    clean, forget = [(inputs[:60], labels[:60])], [(inputs[60:70], labels[60:70])]
    done = pf.unlearn(model, [(inputs, labels)], forget, clean_loader=clean)
    assert done.clean is not None
    for side, of_model in (("before", model), ("after", done.model)):
        logits, classes = predict(of_model, clean)
        right = logits.argmax(1) == classes
        assert getattr(done.clean, side) == pytest.approx(float(right.float().mean()))
        for label in range(3):
            assert done.clean.by_class[label].samples == 20
            share = float(right[classes == label].float().mean())
            assert getattr(done.clean.by_class[label], side) == pytest.approx(share)
    assert json.loads(json.dumps(done.summary()))["clean_accuracy"]["by_class"]["2"]["samples"] == 20
    kept = pf.unlearn(model, [(inputs, labels)], forget)  # without clean data: on samples of the pass
    assert kept.clean is not None and sum(c.samples for c in kept.clean.by_class.values()) == 90
