"""Predictions and accuracy for batches, outputs and labels of every form."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import potion_fast as pf
from helpers.hugging_face import MODELS, TEXTS, double
from potion_fast.errors import DataError, ModelError
from potion_fast.utils.predict import accuracy, predict

torch.manual_seed(0)
X, Y = torch.randn(9, 4), torch.arange(9) % 3
MODEL = nn.Linear(4, 3)


@pytest.mark.parametrize("kind", MODELS)
def test_dicts_and_outputs_of_transformers(kind):
    pytest.importorskip("transformers")
    model, inputs = double(kind)
    model.float()
    inputs = {key: value.float() if value.is_floating_point() else value for key, value in inputs.items()}
    labels = torch.arange(TEXTS) % 3
    loader = [{key: value[k : k + 5] for key, value in {**inputs, "labels": labels}.items()} for k in (0, 5, 10)]
    logits, got = predict(model, loader)
    with torch.no_grad():
        want = model(**inputs).logits
    torch.testing.assert_close(logits, want, rtol=1e-4, atol=1e-5)
    assert torch.equal(got, labels)
    assert accuracy(logits, got) == float((want.argmax(1) == labels).double().mean())


FORMS = [
    Y.to(d) for d in (torch.int8, torch.int16, torch.int32, torch.uint8, torch.uint16, torch.float16, torch.float64)
]
FORMS += [Y[:, None], Y[:, None].float(), F.one_hot(Y, 3), F.one_hot(Y, 3).bool(), F.one_hot(Y, 3).float(), Y.numpy()]


@pytest.mark.parametrize("labels", FORMS, ids=lambda labels: f"{labels.dtype} {list(labels.shape)}")
def test_labels_of_any_form_become_int64(labels):
    want, _ = predict(MODEL, [(X, Y)])
    logits, got = predict(MODEL, [(X[:5], labels[:5]), (X[5:], labels[5:])])
    assert torch.equal(got, Y) and got.dtype == torch.int64
    torch.testing.assert_close(logits, want)


def test_two_classes_may_be_false_and_true():
    assert predict(nn.Linear(4, 2), [(X, Y > 0)])[1].tolist() == (Y > 0).long().tolist()


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (Y + 1, "labels count from 0; found 3 with 3 outputs"),
        (Y - 1, "labels count from 0; found -1 with 3 outputs"),
        (Y.new_full((9,), -100), "labels count from 0; found -100"),
        (Y + 0.5, "whole numbers"),
        (F.one_hot(Y, 3) + 1, "not one-hot.*argmax"),
        (torch.full((9, 3), 1 / 3), "not one-hot.*argmax"),
        (F.one_hot(Y, 4), "do not fit outputs"),
        (Y[:, None].repeat(1, 2), "do not fit outputs"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels, match):
    with pytest.raises(DataError, match=match):
        predict(MODEL, [(X, labels)])


class Shaped(nn.Module):
    def __init__(self, function, columns):
        super().__init__()
        self.inner, self.function = nn.Linear(4, columns), function

    def forward(self, x):
        return self.function(self.inner(x))


@pytest.mark.parametrize("function", [lambda z: z, lambda z: z[:, 0], lambda z: {"logits": z}])
def test_one_column_is_refused_with_what_to_do_and_taken_with_its_adapter(function):
    model, labels = Shaped(function, 1), Y % 2
    with pytest.raises(ModelError, match="one output column.*OneLogitAdapter"):
        predict(model, [(X, labels)])
    logits, got = predict(model, [(X, labels)], adapter=pf.OneLogitAdapter())
    with torch.no_grad():
        z = model.inner(X)[:, 0]
    assert accuracy(logits, got) == float(((z > 0) == labels.bool()).double().mean())


def test_outputs_of_several_positions_or_several_tensors_are_refused():
    with pytest.raises(ModelError, match=r"logits \[B, C\] to be evaluated, not \[9, 3, 1\]"):
        predict(Shaped(lambda z: z[..., None], 3), [(X, Y)])
    with pytest.raises(ModelError, match="tuple without logits"):
        predict(Shaped(lambda z: (z, z), 3), [(X, Y)])
