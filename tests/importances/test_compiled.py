"""Passes whose model torch.compile has compiled, against the loop over groups in float64."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from test_engine import Recurrent, gpt2
from torch import Tensor, nn

import potion_fast as pf
from helpers.loops import LABELS, images, loop, perturbed
from helpers.networks import Twice
from helpers.toys import assert_same_weights, batches, weights
from potion_fast.bench.models.resnet9 import ResNet9
from potion_fast.distributed import unwrap_compile
from potion_fast.errors import ImportanceError
from potion_fast.importances.compiled import COMPILED_SHAPES, EAGER_BATCHES

pytestmark = pytest.mark.filterwarnings("ignore")  # torch.compile warns of its own parts


class Graphs:
    """Runs the graphs as they are, and counts them; with `fails`, what it compiles raises that."""

    def __init__(self) -> None:
        self.count = 0
        self.fails: Exception | None = None

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        self.count += 1

        def run(*args: Any) -> Any:
            if self.fails is not None:
                failure, self.fails = self.fails, None
                raise failure
            return graph(*args)

        return run


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Graphs]:
    found = Graphs()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=found))
    yield found
    torch._dynamo.reset()


def assert_near(got: pf.Importance, want: dict[str, Tensor], precision: float = 1e-12) -> None:
    assert list(got.shapes) == list(want)
    for name, right in want.items():
        error = torch.linalg.vector_norm(got[name].double() - right)
        assert error <= precision * torch.linalg.vector_norm(right), f"{name}: {error}"


class Positions(nn.Module):
    """Looks its positions up once for all samples, and has a parameter that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(10, 6), nn.Embedding(5, 6)
        self.query = nn.Parameter(torch.randn(1, 1, 6))
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 3)
        self.unread = nn.Parameter(torch.randn(4))

    def forward(self, tokens: Tensor) -> Tensor:  # [B, 5] -> [B, 3]
        x = self.words(tokens) + self.places(torch.arange(5)[None])
        return self.head(self.norm(torch.tanh(x * self.query)).mean(1))


NETWORKS = {
    "called-twice": lambda: (Twice(), images(70, 8)),
    "gpt2": gpt2,
    "resnet9": lambda: (ResNet9(3, width=8), images(70, 12)),
    "positions": lambda: (Positions(), torch.randint(10, (70, 5), generator=torch.Generator().manual_seed(0))),
}


@pytest.mark.parametrize("group_size", [1, 3])
@pytest.mark.parametrize("objective", ["xlf", "ssd"])
@pytest.mark.parametrize("network", NETWORKS)
def test_compiled_batches_give_what_the_loop_gives(
    graphs: Graphs, network: str, objective: str, group_size: int
) -> None:
    model, inputs = NETWORKS[network]()
    perturbed(model, inputs)
    before = weights(model)
    data = batches(inputs, LABELS[: len(inputs)], 15)
    got = pf.importance(model, data, objective, group_size=group_size, dtype=torch.float64, compiled=True)
    assert graphs.count == 1  # of the batches of 15; the last one is smaller
    assert_near(got, loop(model, inputs, objective, group_size))
    assert_same_weights(model, before)
    assert all(p.requires_grad for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_several_objectives_and_whole_batches_as_groups(graphs: Graphs) -> None:
    model, inputs = NETWORKS["resnet9"]()
    perturbed(model, inputs)
    data = batches(inputs, LABELS[:70], 14)
    for got, objective in zip(
        pf.importance(model, data, ["xlf", "lf", "ssd"], group_size=1, dtype=torch.float64, compiled=True),
        ("xlf", "lf", "ssd"),
        strict=True,
    ):
        assert_near(got, loop(model, inputs, objective))
    assert graphs.count == 2  # the norms together, the cross-entropy
    whole = pf.importance(model, data, group_size="batch", dtype=torch.float64, compiled=True)
    assert_near(whole, loop(model, inputs, group_size=14))
    assert graphs.count == 3


@pytest.mark.parametrize("amp", [None, torch.bfloat16])
@pytest.mark.parametrize(
    "device",
    [
        pytest.param("cpu", marks=pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")),
        pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")),
    ],
)
def test_code_that_torch_compile_makes_gives_the_same(device: str, amp: torch.dtype | None) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Flatten(), nn.LayerNorm(288), nn.GELU(), nn.Linear(288, 3))
    model, data = model.to(device), batches(images(40, 8).float().to(device), LABELS[:40].to(device), 10)
    got = pf.importance(model, data, group_size=1, amp=amp, compiled=True)
    want = pf.importance(model, data, group_size=1, amp=amp)
    precision = 2e-2 if amp else 1e-5 if device == "cpu" else 1e-3  # TF32
    assert_near(got, {name: want[name].double() for name in want.shapes}, precision)


def test_only_sizes_that_come_often_are_compiled(graphs: Graphs) -> None:
    model, inputs = NETWORKS["resnet9"]()
    perturbed(model, inputs)
    pf.importance(model, [(inputs[:9],)] * EAGER_BATCHES, group_size=1, compiled=True)
    assert graphs.count == 0
    sizes = range(7, 7 + COMPILED_SHAPES + 2)
    pf.importance(
        model, [(inputs[:size],) for size in sizes for _ in range(EAGER_BATCHES + 2)], group_size=1, compiled=True
    )
    assert graphs.count == COMPILED_SHAPES


def test_a_compiled_batch_that_runs_out_of_memory_is_halved(graphs: Graphs) -> None:
    model, inputs = NETWORKS["resnet9"]()
    perturbed(model, inputs)
    want = loop(model, inputs[:60])

    class Data:
        def __iter__(self) -> Iterator[tuple[Tensor]]:
            for number, batch in enumerate(inputs[:60].split(12)):
                if number == 3:
                    graphs.fails = torch.OutOfMemoryError("CUDA out of memory")
                yield (batch,)

    assert_near(pf.importance(model, Data(), group_size=1, dtype=torch.float64, compiled=True), want)
    assert graphs.count == 2 and graphs.fails is None  # 12 samples, and 6 from the third time on


def test_what_torch_compile_refuses_is_an_error(graphs: Graphs) -> None:
    inputs = torch.randn(40, 5, 4)
    with pytest.raises(ImportanceError, match=r"torch.compile does not take .*; leave out compiled"):
        pf.importance(Recurrent(True), [(inputs[:8],)] * 4, group_size=1, compiled=True)
    with pytest.raises(ImportanceError, match=r"torch.compile does not take .*; leave out compiled"):
        pf.importance(
            nn.Linear(4, 3),
            [(inputs[:8, 0],)] * 4,
            lambda outputs, labels: outputs.norm(dim=1) if outputs.sum() > -1e9 else outputs[:, 0],
            group_size=1,
            compiled=True,
        )


def test_a_bad_sample_of_a_compiled_batch_is_named(graphs: Graphs) -> None:
    inputs = torch.randn(8, 4)
    spoiled = inputs.clone()
    spoiled[5, 1] = torch.nan
    with pytest.raises(ImportanceError, match="the loss of sample 29 is nan"):
        pf.importance(nn.Linear(4, 3), [(inputs,)] * 3 + [(spoiled,)], group_size=1, compiled=True)


def test_names_are_those_of_the_model_that_was_compiled(graphs: Graphs) -> None:
    model, inputs = NETWORKS["resnet9"]()
    model.float()
    wrapped, data = torch.compile(model), batches(inputs.float(), LABELS[:70], 14)
    forget = pf.importance(wrapped, data[:1], group_size=1)
    assert list(forget.shapes) == [name for name, _ in model.named_parameters()]
    result = pf.unlearn(wrapped, data, data[:1], max_steps=3)
    want = pf.unlearn(model, data, data[:1], max_steps=3)
    assert [step.dampened for step in result.trace] == [step.dampened for step in want.trace]
    assert_same_weights(result.model._orig_mod, weights(want.model))
    forget.check_model(model)
    forget.check_model(wrapped)


def test_a_model_whose_length_is_zero_is_unwrapped_too() -> None:
    class Empty(nn.Linear):
        def __len__(self) -> int:
            return 0

    model = Empty(2, 2)
    assert unwrap_compile(torch.compile(model)) is model and unwrap_compile(model) is model
