from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

import potion_fast as pf
from helpers.toys import assert_same_weights, net, samples, weights
from potion_fast.errors import SearchError
from potion_fast.search import Score, evaluation
from potion_fast.utils.predict import collect, predict

# --- several candidates at once


def importances(model):
    inputs, labels = samples(40)
    return tuple(
        pf.importance(model, [(inputs[part], labels[part])], group_size=1) for part in (slice(8), slice(8, 40))
    )


@pytest.mark.filterwarnings("ignore:no gradient reaches scale:potion_fast.errors.PotionWarning")
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_stacked_weights_give_the_outputs_of_one_model_at_a_time(memory_format):
    model = net().to(memory_format=memory_format)
    model.scale = nn.Parameter(torch.tensor(1.0))  # a parameter of no dimension, unused
    forget, retain = importances(model)
    loader = [samples(8), samples(5, seed=2)]
    alphas = torch.tensor([1e30, 20.0, 5.0, 1.5, 1.0])
    several = evaluation.BatchedEvaluation(model, forget, retain, loader, 0)
    seen = []
    original = evaluation.collect
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "collect", lambda *arguments: seen.append(original(*arguments)) or seen[-1])
        scores = several(alphas)
    logits = seen[0][0]
    assert logits.shape == (13, 5, 3)
    plan = pf.EditPlan(model, forget, retain, alphas)
    for k in range(5):
        plan.apply(k)
        want, labels = predict(model, loader)
        torch.testing.assert_close(logits[:, k], want, rtol=1e-5, atol=1e-5)
        assert scores[k] == Score(float((want.argmax(1) == labels).double().mean()), True)


def test_attention_can_be_batched():
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix, self.head = nn.Linear(8, 24), nn.Linear(8, 3)

        def forward(self, x):  # [B, 2, 4, 4] -> [B, 3]
            q, k, v = self.mix(x.reshape(-1, 4, 8)).chunk(3, -1)  # [B, 4, 8]
            return self.head(torch.nn.functional.scaled_dot_product_attention(q, k, v).mean(1))

    torch.manual_seed(0)
    model = Attends()
    forget, retain = importances(model)
    plan = pf.EditPlan(model, forget, retain, [20.0, 2.0, 1.0])
    several = evaluation.BatchedEvaluation(model, forget, retain, [samples(8)], 0)
    scores = several(plan.alphas)  # any warning of a slow path is an error
    for k in range(3):
        plan.apply(k)
        logits, labels = predict(model, [samples(8)])
        assert scores[k] == Score(float((logits.argmax(1) == labels).double().mean()), True)


def test_as_many_candidates_are_batched_as_memory_holds_and_half_as_many_where_it_runs_out(blobs, both, monkeypatch):
    size = sum(p.nbytes for p in blobs.model.parameters())
    want = pf.ptn_search(blobs.model, *both, blobs.forget())
    original, taken = evaluation.BatchedEvaluation._scores, []

    def short(self, alphas):
        taken.append(len(alphas))
        if len(alphas) > 2:
            raise torch.OutOfMemoryError
        return original(self, alphas)

    monkeypatch.setattr(evaluation.BatchedEvaluation, "_scores", short)
    monkeypatch.setattr(evaluation, "available", lambda device: 2**40)
    result = pf.ptn_search(blobs.model, *both, blobs.forget(), strategy="batched")
    assert taken[:5] == [16, 8, 4, 2, 2]
    assert replace(result.kept, seconds=0.0) == replace(want.kept, seconds=0.0)

    for room, most in ((0, 1), (2 * (size + 400) * 3, 3), (2**40, 16)):
        monkeypatch.setattr(evaluation, "available", lambda device, room=room: room)
        assert evaluation.BatchedEvaluation(blobs.model, *both, blobs.forget(), 100).most == most

    def none_left(self, alphas):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(evaluation.BatchedEvaluation, "_scores", none_left)
    with pytest.raises(torch.OutOfMemoryError):
        pf.ptn_search(blobs.model, *both, blobs.forget(), strategy="batched")


def test_memory_is_counted_with_the_largest_output_of_the_first_evaluation(blobs, both, monkeypatch):
    counted = []
    original = evaluation.BatchedEvaluation.__init__

    def seen(self, model, forget, retain, loader, largest, adapter):
        counted.append(largest)
        original(self, model, forget, retain, loader, largest, adapter)

    monkeypatch.setattr(evaluation.BatchedEvaluation, "__init__", seen)
    pf.ptn_search(blobs.model, *both, blobs.forget(), strategy="batched")
    assert counted == [4 * 10 * 64]


def test_a_model_that_torch_func_cannot_run_is_refused_with_advice(blobs, both):
    class Looks(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = copy.deepcopy(blobs.model)

        def forward(self, x):
            return self.inner(x) if float(self.inner[0].weight.detach().sum()) < 1e9 else x

    model = Looks()
    forget, retain = (pf.importance(model, loader, group_size=1) for loader in (blobs.forget(), blobs.retain()))
    original = weights(model)
    with pytest.raises(SearchError, match="take another strategy"):
        pf.ptn_search(model, forget, retain, blobs.forget(), strategy="batched", inplace=True)
    assert_same_weights(model, original)
    assert pf.ptn_search(model, forget, retain, blobs.forget(), strategy="bisect").reason == "threshold passed"


def test_the_largest_output_is_that_of_any_module():
    model = net()
    with evaluation.largest_output(model) as largest:
        predict(model, [samples(7)])
    assert largest == [4 * 7 * 16]  # the convolution's, 4 · 2 · 2 each, and the linear layers'
    predict(model, [samples(70)])
    assert largest == [4 * 7 * 16]


def test_a_gibibyte_is_taken_to_be_free_where_the_system_does_not_say(blobs, both, monkeypatch):
    size = sum(p.nbytes for p in blobs.model.parameters())
    monkeypatch.setattr(evaluation, "available", lambda device: None)
    assert evaluation.BatchedEvaluation(blobs.model, *both, blobs.forget(), 2**26).most == 2**29 // (size + 2**28) == 1
    assert evaluation.BatchedEvaluation(blobs.model, *both, blobs.forget(), 2**24).most == 2**29 // (size + 2**26) == 7


# --- recorded passes


def outputs_of(replayed, loader):
    """The outputs for all batches, on the CPU."""
    return collect(replayed, loader, next(replayed.function.parameters()).device)[0]


class Graph:
    """What a CUDA graph does, on the CPU: compute again from the same memory into the same memory."""

    def __init__(self, model, inputs):
        self.model, self.inputs = model, inputs.clone()
        self.outputs = model(self.inputs)

    def replay(self):
        self.outputs.copy_(self.model(self.inputs))


def test_a_recorded_pass_is_replayed_for_each_shape_and_follows_edits(monkeypatch):
    model, recorded = net().eval(), []

    def record(model, inputs):
        recorded.append(tuple(inputs.shape))
        graph = Graph(model, inputs)
        return graph, graph.inputs, graph.outputs

    monkeypatch.setattr(evaluation, "record", record)
    replayed = evaluation.CUDAGraph(model)
    loader = [samples(8), samples(5, seed=2), samples(8, seed=3)]
    for _ in range(3):
        assert torch.equal(outputs_of(replayed, loader), predict(model, loader)[0])
        with torch.no_grad():
            model.conv.weight.mul_(0.5)
    assert recorded == [(8, 2, 4, 4), (5, 2, 4, 4)]
    outputs_of(replayed, [samples(n) for n in range(1, 9)])
    assert len(replayed.graphs) == evaluation.MAX_GRAPHS


def test_a_model_that_cannot_be_recorded_runs_as_it_is(monkeypatch):
    calls = []

    def record(model, inputs):
        calls.append(inputs)
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(evaluation, "record", record)
    model = net().eval()
    replayed = evaluation.CUDAGraph(model)
    for _ in range(2):
        assert torch.equal(outputs_of(replayed, [samples(8)]), predict(model, [samples(8)])[0])
    assert len(calls) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_on_a_gpu_replayed_passes_are_those_of_the_model_after_every_edit():
    model = net().cuda().eval()
    forget, retain = (i.to("cuda") for i in importances(model))
    loader = [samples(8), samples(5, seed=2)]
    replayed = evaluation.CUDAGraph(model)
    plan = pf.EditPlan(model, forget, retain, [20.0, 5.0, 1.0])
    for k in (0, 1, 2, 0):
        plan.apply(k)
        torch.testing.assert_close(outputs_of(replayed, loader), predict(model, loader)[0])
    assert len(replayed.graphs) == 2
    want = pf.ptn_search(model.cpu(), forget.to("cpu"), retain.to("cpu"), loader, mode="reference")
    for strategy in ("sequential", "bisect", "batched"):
        got = pf.ptn_search(model.cuda(), forget, retain, loader, mode="reference", strategy=strategy)
        assert got.kept.step == want.kept.step
