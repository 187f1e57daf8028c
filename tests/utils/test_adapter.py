"""Batches as loaders give them: several inputs, mappings, arrays; and what is none."""

from __future__ import annotations

import pickle
import re
import warnings
from collections import UserDict, namedtuple
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map

import potion_fast as pf
from potion_fast.errors import DataError, ModelError
from potion_fast.utils.adapter import adapter_or_default, functional_outputs, read_batch
from potion_fast.utils.inputs import Inputs, concatenated, shape_key
from potion_fast.utils.predict import predict

X, Y, IDS = torch.arange(12.0).view(4, 3), torch.tensor([0, 1, 0, 1]), torch.arange(8).view(4, 2)
Pair = namedtuple("Pair", "image label")


# --- reading


@pytest.mark.parametrize(
    "batch", [(X, Y), [X, Y], (X, Y, Y, "id"), Pair(X, Y), (X.numpy(), Y.numpy()), (X, Y.numpy())], ids=str
)
def test_an_input_and_labels(batch):
    inputs, labels = read_batch(batch)
    assert torch.equal(inputs, X) and torch.equal(labels, Y)


@pytest.mark.parametrize("batch", [X, (X,), [X], X.numpy(), (X, None)], ids=str)
def test_an_input_alone(batch):
    inputs, labels = read_batch(batch)
    assert torch.equal(inputs, X) and labels is None


@pytest.mark.parametrize("key", ["labels", "label", "label_ids"])
@pytest.mark.parametrize("kind", [dict, UserDict])
def test_a_mapping_gives_its_labels_and_keywords(kind, key):
    batch = kind({"x": X, "ids": IDS.numpy(), "flag": True, "mode": "sum", "none": None, key: Y})
    for given in (batch, (batch,), [batch], (kind({"x": X, "ids": IDS, "flag": True, "mode": "sum", "none": None}), Y)):
        inputs, labels = read_batch(given)
        assert torch.equal(labels, Y) and len(inputs) == 4 and inputs.args == ()
        assert list(inputs.kwargs) == ["x", "ids", "flag", "mode", "none"]
        assert torch.equal(inputs.kwargs["ids"], IDS) and inputs.kwargs["mode"] == "sum"
    assert key in batch  # the caller's batch is as it was


def test_a_tuple_within_gives_positional_arguments():
    for batch in (((X, IDS), Y), [[X, IDS.numpy()], Y], (Pair(X, IDS), Y, "ignored")):
        inputs, labels = read_batch(batch)
        assert [torch.equal(a, b) for a, b in zip(inputs.args, (X, IDS), strict=True)] == [True, True]
        assert torch.equal(labels, Y)
    assert read_batch(((X, IDS),))[1] is None


def test_batch_encodings_are_mappings():
    transformers = pytest.importorskip("transformers")
    encoding = transformers.BatchEncoding({"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "labels": Y})
    inputs, labels = read_batch(encoding)
    assert list(inputs.kwargs) == ["input_ids", "attention_mask"] and torch.equal(labels, Y)


def test_arrays_are_copied_and_keep_their_dtype():
    array = np.arange(6.0).reshape(2, 3)
    array.setflags(write=False)
    inputs, _ = read_batch(array)
    inputs += 1
    assert inputs.dtype == torch.float64 and array[0, 0] == 0


@pytest.mark.parametrize(
    ("batch", "match"),
    [
        (None, "a NoneType as input"),
        ("text", "a str as input"),
        (3, "a int as input"),
        ((["a", "b"], Y), "input 0 of a batch is a str|without an input tensor"),
        ({"labels": Y}, "without an input tensor"),
        ({"x": None, "labels": Y}, "without an input tensor"),
        ((), "without an input tensor"),
        ({"x": X, "text": ["a"] * 4, "labels": Y}, "'text' of a batch is a list"),
        ({"x": X, "past": ((X, X),), "labels": Y}, "'past' of a batch is a tuple"),
        ({"x": X, "ids": IDS[:3], "labels": Y}, "4 in entry 'x', 3 in entry 'ids'"),
        (((X, IDS[:1]), Y), "4 in input 0, 1 in input 1"),
        ({"x": X, "step": torch.tensor(1), "labels": Y}, "without a batch dimension"),
        ((X, Y[:3]), "differ in number: 4 and 3"),
        (({"x": X, "label": Y}, Y), "leave one out"),
        ((X, ["a"] * 4), "labels as a tensor"),
        ((X[0], Y[0]), "single samples"),
        ((X[0], 1), "single samples"),
        ({"x": X[0], "label": 1}, "single samples"),
        ({"input_ids": [1, 2, 3], "label": 1}, "single samples"),
        ({"input_ids": [[1, 2], [3, 4]], "labels": Y[:2]}, "'input_ids' of a batch is a list"),
        ({"x": X[0], "label": np.int64(1)}, "single samples"),
        (torch.tensor(1.0), "single samples"),
        ((np.array([object()]), Y[:1]), "dtype object"),
        ((X.to_sparse(), Y), "sparse_coo"),
        ({"x": X, "ids": IDS.to_sparse(), "labels": Y}, "dense"),
        ((X.to("meta"), Y), "meta device"),
    ],
)
def test_what_is_no_batch_is_refused_with_what_to_do(batch, match):
    with pytest.raises(DataError, match=match):
        read_batch(batch)


def test_an_adapter_may_give_inputs_in_any_form():
    class Own(pf.Adapter):
        def split(self, batch):
            return self.form(batch.pixels, batch.where), batch.classes

    adapter, batch = Own(), SimpleNamespace(pixels=X, where=IDS, classes=Y.numpy())
    for form, args, names in (
        (lambda a, b: (a, b), 2, []),
        (lambda a, b: {"a": a, "b": b}, 0, ["a", "b"]),
        (lambda a, b: Inputs((a,), {"b": b}), 1, ["b"]),
    ):
        adapter.form = form
        inputs, labels = read_batch(batch, adapter)
        assert (len(inputs.args), list(inputs.kwargs)) == (args, names) and torch.equal(labels, Y)


def test_what_an_adapter_returns_is_checked():
    class Own(pf.Adapter):
        def split(self, batch):
            return self.parts

        def logits(self, outputs):
            return self.found

    adapter = Own()
    for parts, match in (
        (X, r"Own.split must return inputs and labels \(or None\), not a tensor \[4, 3\]"),
        ((X, Y, Y), "Own.split must return"),
        (None, "not a NoneType"),
        ((X, "labels"), "labels as a tensor"),
        ((X, Y[:2]), "differ in number"),
    ):
        adapter.parts = parts
        with pytest.raises(DataError, match=match):
            pf.importance(nn.Linear(3, 2), [X], group_size=1, adapter=adapter)
    adapter.parts = X, Y
    for found, match in ((None, "not a NoneType"), ((X,), "not a tuple"), (X.sum(), r"not a tensor \[\]")):
        adapter.found = found
        for use in (
            lambda: pf.importance(nn.Linear(3, 2), [X], group_size=1, adapter=adapter),
            lambda: predict(nn.Linear(3, 2), [X], adapter=adapter),
        ):
            with pytest.raises(ModelError, match="Own.logits must return.*" + match):
                use()


def test_something_else_than_an_adapter_is_refused():
    assert adapter_or_default(None).split((X, Y)) == (X, Y)
    for other in (pf.Adapter, lambda batch: batch, "labels"):
        with pytest.raises(DataError, match="an instance of"):
            adapter_or_default(other)
        with pytest.raises(DataError, match="an instance of"):
            pf.PassOptions(adapter=other)


# --- calling


class Takes(nn.Linear):
    def forward(self, x, ids=None, mode="sum"):
        return super().forward(x) + (0 if ids is None else ids.sum(1, keepdim=True)) * (mode == "sum")


def test_a_model_is_called_with_what_a_batch_holds():
    model, adapter = Takes(3, 2), pf.Adapter()
    want = model(X, IDS)
    for batch in (((X, IDS), Y), {"x": X, "ids": IDS}, ({"ids": IDS, "x": X, "mode": "sum"}, Y)):
        inputs, _ = read_batch(batch)
        assert torch.equal(adapter.call(model, inputs), want)
        halved = {name: value.detach() / 2 for name, value in model.named_parameters()}
        got = functional_outputs(adapter, model, halved, inputs)
        torch.testing.assert_close(got, (model(X) / 2 + IDS.sum(1, keepdim=True)))
    assert torch.equal(adapter.call(model, X), model(X))


@pytest.mark.parametrize(
    ("batch", "match"),
    [
        ({"x": X, "idx": Y}, "unexpected keyword argument 'idx'"),
        ({"ids": IDS}, "missing 1 required positional argument: 'x'"),
        (((X, IDS, "sum", 1), Y), "positional arguments"),
        ((X.double(), Y), "inputs of torch.float64"),
        ((X.to(torch.uint8), Y), "inputs of torch.uint8"),
        ({"x": X.long(), "ids": IDS}, "inputs of torch.int64, torch.int64"),
    ],
)
def test_inputs_that_a_model_does_not_take_are_named(batch, match):
    with pytest.raises(DataError, match=match):
        pf.Adapter().call(Takes(3, 2), read_batch(batch)[0])


def test_other_errors_of_a_model_are_its_own():
    class Fails(nn.Module):
        def forward(self, x):
            raise self.error

    model = Fails()
    batching = RuntimeError("Batching rule not implemented for aten::unique_consecutive")
    for error in (
        RuntimeError("CUDA error"),
        batching,
        TypeError("unsupported operand"),
        ValueError("argument of forward"),
    ):
        model.error = error
        with pytest.raises(type(error)) as caught:
            pf.Adapter().call(model, X)
        assert caught.value is error


class WithKeywords(nn.Linear):
    def forward(self, pixel_values=None, **keywords):
        return super().forward(pixel_values.flatten(1))


@pytest.mark.parametrize(
    ("model", "batch", "match"),
    [
        (nn.Linear(5, 2), (X, Y), r"inputs \[., 3\]: .*shapes cannot be multiplied"),
        (nn.Embedding(3, 2), (IDS.long() + 90, Y), "index out of range"),
        (nn.Conv2d(3, 2, 1), (X[:, None, None], Y), "channels"),
        (WithKeywords(3, 2), {"image": X, "labels": Y}, r"image \[., 3\]: .*NoneType"),
    ],
)
def test_inputs_that_a_model_was_not_made_for_are_said_with_its_own_words(model, batch, match):
    for read in (lambda: pf.importance(model, [batch], group_size=2), lambda: predict(model, [batch])):
        with pytest.raises(DataError, match=match):
            read()


# --- logits


def test_logits_are_the_output_or_lie_in_it():
    transformers = pytest.importorskip("transformers")
    output = transformers.modeling_outputs.SequenceClassifierOutput(loss=None, logits=X)
    for given in (X, {"logits": X, "loss": None}, SimpleNamespace(logits=X), output, UserDict(logits=X)):
        assert pf.Adapter().logits(given) is X
    for given in ((X, X), [X], {"scores": X}, None, SimpleNamespace(logits=None)):
        with pytest.raises(ModelError, match="give an adapter whose `logits`"):
            pf.Adapter().logits(given)


@pytest.mark.parametrize(
    ("of", "match"),
    [
        (lambda z: z.argmax(1, keepdim=True), "torch.int64"),
        (lambda z: torch.complex(z, z), "torch.complex64"),
        (lambda z: z.to_sparse(), "torch.sparse_coo"),
        (lambda z: torch.cat([z, z]), r"one per sample|for . samples|a row for each"),
        (lambda z: z.t(), r"one per sample|for . samples|a row for each"),
    ],
)
@pytest.mark.parametrize("objective", ["xlf", "ssd"])
def test_outputs_that_are_no_rows_of_real_numbers_are_refused(of, match, objective):
    class Gives(nn.Linear):
        def forward(self, x):
            return of(super().forward(x))

    model = Gives(3, 2)
    for read in (lambda: pf.importance(model, [(X, Y)], objective, group_size=2), lambda: predict(model, [(X, Y)])):
        with pytest.raises(pf.PotionError, match=match):
            read()


def test_inputs_that_come_with_a_graph_are_data():
    model, of_data = nn.Linear(3, 2), X.clone().requires_grad_() * 1
    got = pf.importance(model, [(of_data, Y)], group_size=1)
    assert torch.equal(got.sums, pf.importance(model, [(X, Y)], group_size=1).sums)


def test_batches_without_a_sample_are_passed_over():
    model = nn.Sequential(nn.Unflatten(1, (3, -1)), nn.Flatten(), nn.Linear(3, 2))
    logits, labels = predict(model, [(X[:2], Y[:2]), (X[:0], Y[:0]), (X[2:], Y[2:])])
    assert torch.equal(labels, Y) and torch.equal(logits, model(X))
    with pytest.raises(DataError, match="nothing to predict"):
        predict(model, [(X[:0], Y[:0])])


def test_one_logit_becomes_two():
    z = torch.tensor([[-2.0], [0.5]])
    for given in (z, z[:, 0], {"logits": z}):
        got = pf.OneLogitAdapter().logits(given)
        assert torch.equal(got, torch.tensor([[0.0, -2.0], [0.0, 0.5]]))
        torch.testing.assert_close(got.softmax(1)[:, 1:], torch.sigmoid(z))
    for given in (X, X[:, :1, None]):
        with pytest.raises(ModelError, match="is for outputs"):
            pf.OneLogitAdapter().logits(given)


# --- the page about it


def test_the_examples_of_the_page_run():
    pytest.importorskip("transformers")
    page = (Path(__file__).parents[2] / "docs" / "batches.md").read_text(encoding="utf-8")
    hugging_face, own = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    names: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pf.PotionWarning)  # a random model need not be healed
        exec(hugging_face, names)
    assert names["result"].initial_accuracy == 1 and names["result"].trace and names["importance"].fallback == ()
    exec(own, names)
    images, model = names["images"], names["TwoOutputs"](8, 3)
    logits_of = pf.importance(
        model,
        [(images["image"], images["target"])],
        pf.Objective("own", lambda outputs, y: F.cross_entropy(outputs[0], y, reduction="none"), square=True),
        group_size=4,
    )
    got = pf.importance(
        model,
        [images],
        "ssd",
        group_size=4,
        adapter=names["FirstOutput"](),
    )
    assert torch.equal(got.sums, logits_of.sums)


# --- several inputs as one


def test_several_inputs_are_cut_moved_and_joined_as_one():
    inputs = Inputs((X, None, 2), {"ids": IDS, "mode": "sum"})
    assert len(inputs) == 4 and inputs.device == torch.device("cpu") and len(inputs.tensors) == 2
    part = inputs[1:3]
    assert torch.equal(part.args[0], X[1:3]) and part.args[1:] == (None, 2) and part.kwargs["mode"] == "sum"
    joined = concatenated([inputs[:1], inputs[1:3], inputs[3:]])
    assert torch.equal(joined.args[0], X) and torch.equal(joined.kwargs["ids"], IDS)
    grouped = inputs.unflatten(0, (2, -1))
    assert grouped.args[0].shape == (2, 2, 3) and grouped.kwargs["ids"].shape == (2, 2, 2) and len(grouped[1]) == 2
    assert inputs.to(torch.float64).args[0].dtype == torch.float64
    copied = pickle.loads(pickle.dumps(inputs.cpu().clone()))
    assert torch.equal(copied.kwargs["ids"], IDS) and copied.args[2] == 2
    assert shape_key(inputs) == shape_key(inputs.clone()) != shape_key(inputs[:2])
    assert shape_key(inputs) != shape_key(Inputs((X, None, 3), {"ids": IDS, "mode": "sum"}))


def test_inputs_of_other_entries_are_not_joined():
    first = Inputs((X,), {"mode": "sum"})
    for other in (Inputs((X,), {"mode": "mean"}), Inputs((X, X), {"mode": "sum"}), Inputs((), {"x": X}), X):
        with pytest.raises(DataError, match="different entries"):
            concatenated([first, other])
    with pytest.raises(DataError, match="batches of one input and batches of several"):
        concatenated([X, first])


def test_vmap_and_tree_functions_see_the_tensors_alone():
    inputs = Inputs((X,), {"ids": IDS, "scale": 2, "none": None})
    doubled = tree_map(lambda tensor: tensor * 2, inputs)
    assert torch.equal(doubled.args[0], X * 2) and doubled.kwargs["scale"] == 2

    def function(one, c):
        return one.args[0].sum() * one.kwargs["scale"] + one.kwargs["ids"].sum() * c

    got = torch.vmap(function)(inputs, torch.ones(4))
    torch.testing.assert_close(got, X.sum(1) * 2 + IDS.sum(1))
