"""The whole method and the search over dicts, several inputs, outputs with logits and one logit."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import potion_fast as pf
from helpers.hugging_face import double
from potion_fast.errors import DataError, ModelError
from potion_fast.search import evaluation
from potion_fast.utils.predict import collect

pytestmark = pytest.mark.filterwarnings("ignore:the search ended:potion_fast.errors.PotionWarning")


class Output(dict):
    """An output with its logits as an attribute, as transformers gives them."""

    @property
    def logits(self):
        return self["logits"]


class TwoInputs(nn.Module):
    """The first inputs through one layer, the second through another, to an output with `.logits`."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Linear(5, 16), nn.Embedding(10, 16), nn.Linear(16, 3)

    def forward(self, x, ids):
        return Output(logits=self.head(torch.relu(self.first(x) + self.second(ids))))


class Plain(nn.Module):
    """The same model for one input, to a tensor."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, inputs):
        return self.inner(inputs[:, :5], inputs[:, 5].long()).logits


def poisoned():
    """Inputs [120, 6] and labels; the last 20 samples have id 9 and label 0, whatever the rest says."""
    generator = torch.Generator().manual_seed(1)
    x, ids = torch.randn(120, 5, generator=generator), torch.randint(0, 9, (120,), generator=generator)
    labels = x[:, :3].argmax(1)
    ids[100:], labels[100:] = 9, 0
    return torch.cat([x, ids[:, None].float()], 1), labels


@pytest.fixture(scope="module")
def trained():
    inputs, labels = poisoned()
    model = TwoInputs()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(150):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs[:, :5], inputs[:, 5].long()).logits, labels).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model.eval()


FORMS = {
    "dict": lambda inputs, labels: {"x": inputs[:, :5], "ids": inputs[:, 5].long(), "labels": labels.int()},
    "tuple": lambda inputs, labels: ((inputs[:, :5], inputs[:, 5].long()), labels[:, None]),
    "arrays": lambda inputs, labels: ({"ids": inputs[:, 5].long().numpy(), "x": inputs[:, :5].numpy()}, labels.numpy()),
}


def loader(form, inputs, labels, size=32):
    return [FORMS[form](a, b) for a, b in zip(inputs.split(size), labels.split(size), strict=True)]


@pytest.mark.parametrize("strategy", ["sequential", "batched", "bisect", "minimal"])
@pytest.mark.parametrize("form", FORMS)
def test_every_strategy_ends_where_it_does_for_plain_tensors(trained, form, strategy):
    inputs, labels = poisoned()
    plain = [(inputs[:100], labels[:100])], [(inputs[100:], labels[100:])]
    want = pf.unlearn(Plain(trained), *plain, strategy=strategy)
    assert want.initial_accuracy > 0.9 and want.trace
    got = pf.unlearn(
        trained, loader(form, inputs[:100], labels[:100]), loader(form, inputs[100:], labels[100:]), strategy=strategy
    )
    assert got.reason == want.reason and got.initial_accuracy == want.initial_accuracy
    assert [step.dampened for step in got.trace] == [step.dampened for step in want.trace]
    assert [step.accuracy for step in got.trace] == [step.accuracy for step in want.trace]
    for mine, other in zip(got.model.parameters(), want.model.inner.parameters(), strict=True):
        torch.testing.assert_close(mine, other)


def test_the_grid_of_ssd_reads_dicts(trained):
    inputs, labels = poisoned()
    retain, forget = (loader("dict", inputs[part], labels[part]) for part in (slice(100), slice(100, 120)))
    importances = [pf.importance(trained, given, "ssd", group_size=20) for given in (forget, retain)]
    got = pf.ssd_grid(trained, *importances, forget, retain, alphas=[1.0, 5.0], dampenings=[0.1, 1.0])
    plain = [(inputs[100:], labels[100:])], [(inputs[:100], labels[:100])]
    flat = [pf.importance(Plain(trained), given, "ssd", group_size=20) for given in plain]
    want = pf.ssd_grid(Plain(trained), *flat, *plain, alphas=[1.0, 5.0], dampenings=[0.1, 1.0])
    assert [(s.forget_accuracy, s.validation_accuracy) for s in got.table] == [
        (s.forget_accuracy, s.validation_accuracy) for s in want.table
    ]


def test_a_recorded_pass_takes_several_inputs(monkeypatch):
    """A CUDA graph computes again from the same memory into the same memory; so does this, on the CPU."""
    recorded = []

    class Graph:
        def __init__(self, function, inputs):
            self.function, self.inputs = function, inputs.clone()
            self.outputs = function(self.inputs)

        def replay(self):
            self.outputs.copy_(self.function(self.inputs))

    def record(function, inputs):
        recorded.append(len(inputs))
        graph = Graph(function, inputs)
        return graph, graph.inputs, graph.outputs

    monkeypatch.setattr(evaluation, "record", record)
    model, (inputs, labels) = TwoInputs(), poisoned()
    adapter = pf.Adapter()
    replayed = evaluation.CUDAGraph(lambda given: adapter.logits(adapter.call(model, given)))
    for _ in range(2):
        got, _ = collect(replayed, loader("dict", inputs, labels), torch.device("cpu"))
        torch.testing.assert_close(got, Plain(model)(inputs).detach())
        with torch.no_grad():
            model.head.weight.mul_(0.5)
    assert recorded == [32, 24]


def test_unlearning_a_model_of_transformers_leaves_a_model_of_transformers():
    pytest.importorskip("transformers")
    model, inputs = double("bert")
    model.float()
    with torch.no_grad():
        labels = model(**inputs).logits.argmax(1)
    batch = {**inputs, "labels": labels}
    forget = [{key: value[:4] for key, value in batch.items()}]
    result = pf.unlearn(model, [batch], forget)
    assert result.initial_accuracy == 1.0 and type(result.model) is type(model) and result.trace
    with torch.no_grad():
        after = result.model(**{key: value[:4] for key, value in inputs.items()}).logits.argmax(1)
    assert result.kept.accuracy == float((after == labels[:4]).double().mean())


def test_the_wrapper_of_torch_compile_reads_dicts_in_every_strategy(trained):
    inputs, labels = poisoned()
    retain, forget = (loader("dict", inputs[part], labels[part]) for part in (slice(100), slice(100, 120)))
    compiled = torch.compile(trained, backend="eager")
    for strategy in ("sequential", "batched"):
        got = pf.unlearn(compiled, retain, forget, strategy=strategy)
        want = pf.unlearn(trained, retain, forget, strategy=strategy)
        assert [step.accuracy for step in got.trace] == [step.accuracy for step in want.trace]


# --- one output column


def binary(columns):
    inputs, labels = poisoned()
    labels = (labels == 0).long()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, columns))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(100):
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(model(inputs)[:, 0], labels.double().float()).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model, inputs, labels


@pytest.mark.parametrize("objective", ["xlf", "lf", "ssd"])
@pytest.mark.parametrize("label", [0, 1])
def test_one_logit_is_refused_before_any_pass_or_thresholded(label, objective):
    model, inputs, labels = binary(1)
    found = (labels == label).nonzero()[:8, 0]
    loaders = [(inputs, labels)], [(inputs[found], labels[found])]
    computed = []
    with pytest.raises(ModelError, match="one output column"):
        pf.unlearn(model, *loaders, objective, on_importance=lambda name, _: computed.append(name))
    result = pf.unlearn(model, *loaders, objective, adapter=pf.OneLogitAdapter())
    with torch.no_grad():
        before, after = (((m(inputs[found])[:, 0] > 0).long() == label).double().mean() for m in (model, result.model))
    assert result.initial_accuracy == before > 0.5 and result.kept.accuracy == after


# --- loaders


def test_a_forget_loader_that_can_be_read_once_is_refused_before_any_pass(trained):
    inputs, labels = poisoned()
    forget, read = loader("dict", inputs[100:], labels[100:]), []

    def retain():
        for batch in loader("dict", inputs[:100], labels[:100]):
            read.append(len(batch["x"]))
            yield batch

    for given in ({"forget_loader": iter(forget)}, {"forget_loader": forget, "evaluation_loader": iter(forget)}):
        with pytest.raises(DataError, match="read more than once"):
            pf.unlearn(trained, retain(), **given)
    for name in ("retain_loader", "forget_loader", "evaluation_loader"):
        loaders = {"retain_loader": forget, "forget_loader": forget, name: TensorDataset(inputs, labels)}
        with pytest.raises(DataError, match="data set .TensorDataset"):
            pf.unlearn(trained, **loaders, on_importance=lambda *_: read.append(1))
    importances = [pf.importance(trained, forget, group_size=20)] * 2
    with pytest.raises(DataError, match="read more than once"):
        pf.ptn_search(trained, *importances, iter(forget))
    with pytest.raises(DataError, match="read more than once"):
        pf.ssd_grid(trained, *importances, forget, iter(forget))
    assert not read
    assert pf.unlearn(trained, retain(), forget).trace  # the training data are read once
    assert sum(read) == 100


@pytest.mark.parametrize("objective", ["xlf", "ssd"])
def test_labels_of_the_forget_set_that_count_from_1_are_refused(trained, objective):
    inputs, labels = poisoned()
    retain, forget = (loader("dict", inputs[part], labels[part] + 1) for part in (slice(100), slice(90, 120)))
    with pytest.raises(DataError, match="labels count from 0; found 3 with 3 outputs"):
        pf.unlearn(trained, retain, forget, objective)
