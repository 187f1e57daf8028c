"""A copy of a model shares nothing with it, whatever the model is and keeps."""

from __future__ import annotations

import functools
import io
import queue
import threading
import types
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from helpers.toys import assert_same_weights, weights
from potion_fast.errors import ModelError
from potion_fast.utils.copies import copy_model


class KeepsFeatures(nn.Module):
    """Keeps what it computed, also within containers."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.history: list[dict[str, Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.features = self.inner(x).relu()
        self.history.append({"features": self.features})
        return self.head(self.features)


class KeepsView(nn.Module):
    """Reads its weight through a view that was taken when it was made."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Parameter(torch.randn(5, 6))
        self.weight = self.both[1:4]

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight)


class Holding(nn.Module):
    """Holds something that belongs to the process."""

    def __init__(self, held: object) -> None:
        super().__init__()
        self.inner, self.held = nn.Linear(6, 3), held

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def sequence(how: Callable[[nn.Module], nn.Module] = lambda layer: layer) -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)).eval()
    how(model[0])
    return model


def rnn_with_weight_norm() -> nn.Module:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = weight_norm(nn.LSTM(6, 4), "weight_hh_l0"), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x[None])[0][0])

    return Last()


def made_under_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return sequence()


KINDS = {
    "keeps features": KeepsFeatures,
    "keeps a view": KeepsView,
    "weight_norm": lambda: sequence(weight_norm),
    "spectral_norm": lambda: sequence(spectral_norm),
    "pruning": lambda: sequence(lambda layer: prune.l1_unstructured(layer, "weight", 0.5)),
    "parametrizations": lambda: sequence(parametrizations.weight_norm),
    "an LSTM with weight_norm": rnn_with_weight_norm,
    "inference mode": made_under_inference_mode,
    "scripted": lambda: torch.jit.script(sequence()),
    "traced": lambda: torch.jit.trace(sequence(), torch.zeros(2, 6)),
    "compiled": lambda: torch.compile(sequence(), backend="eager"),
    "a lock": lambda: Holding(threading.Lock()),
    "an event": lambda: Holding(threading.Event()),
    "a queue": lambda: Holding({"queue": queue.Queue()}),
    "a thread": lambda: Holding([threading.Thread()]),
    "a module": lambda: Holding(types),
    "a generator": lambda: Holding(i for i in range(3)),
    "an open file": lambda: Holding(open(__file__, "rb")),  # noqa: SIM115
    "random numbers": lambda: Holding(torch.Generator()),
    "a lambda": lambda: Holding(lambda x: x + 1),
}


@pytest.mark.filterwarnings("ignore")  # of old torch functions, and files that are closed late
@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("run", [False, True], ids=["new", "has run"])
def test_a_copy_computes_the_same_and_shares_no_weight(make, run):
    torch.manual_seed(0)
    model = make()
    x = torch.randn(4, 6)
    if run:
        with torch.inference_mode(next(model.parameters()).is_inference()):
            model(x)
    before = weights(model)
    copied = copy_model(model)
    assert_same_weights(copied, before)
    with torch.no_grad():
        want = model(x)
        torch.testing.assert_close(copied(x), want, rtol=1e-6, atol=1e-6)
        for parameter in copied.parameters():
            parameter += 1
        assert not torch.allclose(copied(x), want)
    assert_same_weights(model, weights(model))
    with torch.no_grad():
        torch.testing.assert_close(model(x), want, rtol=0, atol=0)
    assert not {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in copied.parameters()}
    assert not any(p.is_inference() for p in copied.parameters())
    copied(x).sum().backward()
    trained = [p for p in copied.parameters() if p.requires_grad]
    assert trained and any(p.grad is not None for p in trained) and all(p.grad is None for p in model.parameters())


def test_what_was_computed_is_copied_without_its_history():
    model = KeepsFeatures()
    model(torch.ones(2, 6))
    copied = copy_model(model)
    assert copied.features is copied.history[0]["features"] is not model.features
    assert torch.equal(copied.features, model.features) and not copied.features.requires_grad
    assert model.features.grad_fn is not None


def test_what_belongs_to_the_process_is_shared_whole():
    held = {"queue": queue.Queue(), "lock": threading.Lock(), "numbers": [1]}
    copied = copy_model(Holding(held))
    assert copied.held["queue"] is held["queue"] and copied.held["lock"] is held["lock"]
    assert copied.held["numbers"] == [1] and copied.held["numbers"] is not held["numbers"]


class Recorder:
    """Holds a lock and, unlike what belongs to the process, a layer."""

    def __init__(self, layer: nn.Module) -> None:
        self.lock, self.layer = threading.Lock(), layer


def test_an_object_with_a_lock_that_holds_a_layer_too_is_copied():
    model = Holding(None)
    model.held = Recorder(model.inner)
    copied = copy_model(model)
    assert copied.held is not model.held and copied.held.layer is copied.inner is not model.inner
    assert copied.held.lock is model.held.lock


def test_gradient_hooks_and_attributes_of_parameters_are_kept():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    mask = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    model[0].weight.register_hook(lambda gradient: gradient * mask)
    finished = []
    model[1].bias.register_post_accumulate_grad_hook(finished.append)
    model[1].weight.no_weight_decay = True
    copied = copy_model(model)
    copied(torch.ones(1, 2)).sum().backward()
    assert torch.equal(copied[0].weight.grad != 0, mask != 0)
    assert len(finished) == 1 and finished[0] is copied[1].bias
    assert copied[1].weight.no_weight_decay


def test_layers_used_twice_and_tied_weights_stay_so():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model.append(model[0])
    model[1].weight = model[0].weight
    copied = copy_model(model)
    assert copied[2] is copied[0] and copied[1].weight is copied[0].weight is not model[0].weight


def wrapped(model: nn.Module) -> nn.Module:
    """As libraries do that watch or move layers: another forward around the layer's own."""
    inner = model.inner
    forward = inner.forward

    @functools.wraps(forward)
    def timed(*args, times=1, scale=inner.bias, **keywords):
        return forward(*args, **keywords) * times + scale

    inner.forward = timed
    return model


def hooked(model: nn.Module) -> nn.Module:
    model.inner.register_forward_hook(lambda module, args, output: output + model.inner.bias)
    return model


def patched(model: nn.Module) -> nn.Module:
    model.forward = types.MethodType(lambda self, x: 2 * self.inner(x), model)
    return model


def recursive(model: nn.Module) -> nn.Module:
    def forward(x, again=True):
        return forward(x, False) if again else model.inner(x)

    model.forward = forward
    return model


@pytest.mark.parametrize("change", [wrapped, hooked, patched, recursive])
def test_functions_made_around_a_layer_use_the_layer_of_the_copy(change):
    model = change(Holding(None))
    copied = copy_model(model)
    x = torch.ones(1, 6)
    want = model(x)
    torch.testing.assert_close(copied(x), want)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert not copied(x).any() and torch.equal(model(x), want)


class Refuses:
    def __init__(self) -> None:
        self.weight = torch.ones(1)

    def __deepcopy__(self, memo):
        raise RuntimeError("there is only one of these")


def test_the_layer_and_the_attribute_that_have_no_copy_are_named():
    model = nn.Sequential(nn.Linear(6, 6), Holding(Refuses()))
    with pytest.raises(ModelError, match=r"layer '1' holds 'held', a Refuses: there is only one .*; do that"):
        copy_model(model, "; do that")
    with pytest.raises(ModelError, match="which itself holds 'held'"):
        copy_model(model[1])


def test_running_out_of_memory_is_said_as_such():
    class Large:
        def __deepcopy__(self, memo):
            raise MemoryError

    with pytest.raises(MemoryError):
        copy_model(Holding(Large()))


def test_open_streams_in_memory_are_copied():
    model = Holding(io.BytesIO(b"abc"))
    assert copy_model(model).held.getvalue() == b"abc"
