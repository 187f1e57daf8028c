"""Importances of models and parameters of other kinds: scripted, traced, in 16 bits, empty."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import potion_fast as pf
from helpers.loops import LABELS, loop
from helpers.toys import batches
from potion_fast.errors import ModelError, SearchError
from potion_fast.search import STRATEGIES

INPUTS = torch.randn(23, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3)).double()


KINDS: dict[str, Callable[[], nn.Module]] = {
    "torch.jit.script": lambda: torch.jit.script(plain()),
    "torch.jit.trace": lambda: torch.jit.trace(plain(), INPUTS[:2]),
    "part of it scripted": lambda: nn.Sequential(torch.jit.script(plain()[:2]), *plain()[2:]),
}


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # TorchScript is to go
@pytest.mark.parametrize("objective", ["xlf", "ssd"])
@pytest.mark.parametrize("group_size", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_scripted_models_have_the_importances_of_the_loop(kind, group_size, objective):
    want = list(loop(plain(), INPUTS, objective, group_size).values())
    model = KINDS[kind]()
    got = pf.importance(model, batches(INPUTS, LABELS[:23], 8), objective, group_size=group_size, dtype=torch.float64)
    for name, right in zip(got.shapes, want[-len(got.shapes) :], strict=True):
        torch.testing.assert_close(got[name], right, rtol=1e-10, atol=1e-12)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_a_scripted_model_is_healed(blobs):
    result = pf.unlearn(torch.jit.script(blobs.model), blobs.retain(), blobs.forget())
    want = pf.unlearn(blobs.model, blobs.retain(), blobs.forget())
    assert result.reason == want.reason and isinstance(result.model, torch.jit.ScriptModule)
    assert blobs.accuracy(result.model, triggered=True) == blobs.accuracy(want.model, triggered=True)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_stacked_weights_of_a_scripted_model_are_refused_in_a_sentence(blobs):
    class Unread:
        def __iter__(self):
            raise AssertionError("this loader must not be read")

    with pytest.raises(SearchError, match='another strategy than "batched"'):
        pf.unlearn(torch.jit.script(blobs.model), Unread(), blobs.forget(), strategy="batched")


def test_an_exported_program_is_named():
    inputs = INPUTS.float()
    exported = torch.export.export(plain().float().eval(), (inputs[:2],)).module()
    for call in (
        lambda: pf.importance(exported, [(inputs, LABELS[:23])], group_size=1),
        lambda: pf.unlearn(exported, [(inputs, LABELS[:23])], [(inputs[:2], LABELS[:2])]),
    ):
        with pytest.raises(ModelError, match=r"torch\.export"):
            call()


class WithEmpty(nn.Module):
    """Empty parameters, in a layer and alone, read and not."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.none = nn.Linear(6, 3), nn.Linear(6, 0)
        self.read, self.unread = nn.Parameter(torch.zeros(0, 4)), nn.Parameter(torch.zeros(0))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + self.read.sum() + self.none(x).sum(1, keepdim=True)


@pytest.mark.filterwarnings("ignore:Initializing zero-element:UserWarning")
@pytest.mark.parametrize("objective", ["xlf", "ssd", ["xlf", 0.5]])
@pytest.mark.parametrize("group_size", [1, 4, "batch"])
def test_empty_parameters_have_no_importance_and_do_no_harm(group_size, objective):
    torch.manual_seed(0)
    model = WithEmpty().double()
    got = pf.importance(model, [(INPUTS, LABELS[:23])], objective, group_size=group_size, dtype=torch.float64)
    first = got[0] if isinstance(got, list) else got
    chosen = objective if isinstance(objective, str) else objective[0]
    assert list(first.shapes) == ["inner.weight", "inner.bias"]
    want = loop(model, INPUTS, chosen, 23 if group_size == "batch" else group_size)
    for name, right in ((name, want[name]) for name in first.shapes):
        torch.testing.assert_close(first[name], right, rtol=1e-10, atol=1e-12)


class Adding(nn.Module):
    """Adds the sum of nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(0))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.nothing.sum()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_model_with_empty_parameters_is_healed(blobs, strategy):
    model = nn.Sequential(blobs.model, Adding())
    want = pf.unlearn(blobs.model, blobs.retain(), blobs.forget(), strategy=strategy)
    got = pf.unlearn(model, blobs.retain(), blobs.forget(), strategy=strategy)
    assert got.kept.dampened == want.kept.dampened > 0


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-2), (torch.bfloat16, 1e-1)])
@pytest.mark.parametrize("objective", ["xlf", "ssd"])
@pytest.mark.parametrize("group_size", [1, 4, "batch"])
def test_weights_of_16_bits_have_the_importances_of_the_loop_up_to_their_rounding(
    dtype, tolerance, group_size, objective
):
    model, inputs = plain().to(dtype), INPUTS.to(dtype)
    want = loop(plain().to(dtype).double(), inputs.double(), objective, 23 if group_size == "batch" else group_size)
    got = pf.importance(model, [(inputs, LABELS[:23])], objective, group_size=group_size)
    for name, right in want.items():
        error = torch.linalg.vector_norm(got[name].double() - right)
        assert error <= tolerance * torch.linalg.vector_norm(right), name
    with pytest.raises(ModelError, match="only float32 weights can be dampened"):
        pf.unlearn(model, [(inputs, LABELS[:23])], [(inputs[:2], LABELS[:2])])
