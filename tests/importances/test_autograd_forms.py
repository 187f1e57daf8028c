"""Models that use autograd in ways of their own, against the loop over groups in float64."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import potion_fast as pf
from helpers.loops import LABELS, assert_equals_loop
from helpers.toys import batches
from potion_fast.errors import ImportanceError

GROUPS = pytest.mark.parametrize("group_size", [1, 4, 9])
OBJECTIVES = pytest.mark.parametrize("objective", ["xlf", "ssd"])


class Layers(nn.Module):
    """Three linear layers, for subclasses that call them in ways of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)


class Fixed(Layers):
    """Features that are not trained on the way."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.first(x).tanh()
        return self.head(self.second(x).tanh())


class Gate(Layers):
    """The same layer with a gradient and without."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            gate = self.second(self.first(x).tanh()).sigmoid().round()
        return self.head(self.second(self.first(x).tanh()) * (0.5 + gate))


class Watched(Layers):
    """A value that is kept and not differentiated, in two ways, after the output is made."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.second(self.first(x).tanh())
        output = self.head(hidden)
        self.watched = self.head(hidden.detach()).mean().detach()
        with torch.inference_mode():
            self.spread = self.head(hidden).std()
        return output


class Detached(Layers):
    """Straight through: the forward value is rounded, the gradient is that of the value itself."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.second(self.first(x).tanh())
        return self.head(hidden + (hidden.round() - hidden).detach())


class Rounding(torch.autograd.Function):
    """Straight through, as a Function."""

    @staticmethod
    def forward(context, x):
        return x.mul(4).round() / 4

    @staticmethod
    def backward(context, gradient):
        return 2 * gradient


class WithFunction(Layers):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(Rounding.apply(self.second(Rounding.apply(self.first(x)).tanh())))


class Checkpointed(Layers):
    """Activation checkpointing around the first layers, around later ones, or around each of a sequence."""

    def __init__(self, where: str, reentrant: bool = False) -> None:
        super().__init__()
        self.where, self.reentrant = where, reentrant
        self.token = nn.Parameter(torch.randn(1, 6))

    def start(self, x: Tensor) -> Tensor:
        return torch.tanh(self.first(x) * self.token)

    def forward(self, x: Tensor) -> Tensor:
        if self.where == "sequence":
            layers = nn.Sequential(self.first, nn.Tanh(), self.second, nn.Tanh(), self.second, nn.Tanh())
            return self.head(checkpoint_sequential(layers, 3, x, use_reentrant=self.reentrant) + self.token)
        x = checkpoint(self.start, x, use_reentrant=self.reentrant) if self.where == "first" else self.start(x)
        return self.head(checkpoint(lambda x: self.second(x).tanh(), x, use_reentrant=self.reentrant))


class CheckpointedOperations(Layers):
    """Parameters that are read by operations within a checkpoint, and one of them in a layer outside as well."""

    def __init__(self, reentrant: bool = False) -> None:
        super().__init__()
        self.shift, self.scale, self.reentrant = (
            nn.Parameter(torch.randn(1, 4)),
            nn.Parameter(torch.randn(4)),
            reentrant,
        )

    def start(self, x: Tensor) -> Tensor:
        return ((x + self.shift) * self.scale).sin()

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(checkpoint(self.start, x, use_reentrant=self.reentrant)).tanh()
        return self.head(self.second(x))


class Forces(Layers):
    """The output is the gradient of an energy by the input."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            energy = self.head(self.second(self.first(x).tanh()).tanh()).square().sum()
            return -torch.autograd.grad(energy, x, create_graph=True)[0]


class Penalised(Layers):
    """Each output is scaled by how steep a layer is there; the other layers are not differentiated within."""

    def forward(self, x: Tensor) -> Tensor:
        features = self.first(x).tanh()
        with torch.enable_grad():
            point = features.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.second(point).tanh().sum(), point, create_graph=True)
        return self.head(features) * (1 + slope.square().sum(1, keepdim=True))


class OwnLeaf(Layers):
    """A leaf that the model itself makes, and the gradient of an energy by it."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            hidden = self.second(self.first(x).tanh()).tanh()
        return self.head(hidden) * self.energy(hidden)


class LeafIfNeeded(Layers):
    """As one does who wants a gradient by the input whatever the input is."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(x.tanh().sum(), x, create_graph=True)
            return self.head(self.second(self.first(x + slope).tanh()).tanh())


class Transformed(Layers):
    """Derivatives by the transforms of torch.func, of a layer and of a weight without one."""

    def __init__(self, transform: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 6))
        self.transform = transform

    def _inner(self, x: Tensor) -> Tensor:
        return (self.second(x) @ self.weight).tanh()

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.transform == "jvp":
            value, tangent = torch.func.jvp(self._inner, (x,), (torch.ones_like(x),))
            return self.head(value + tangent)
        if self.transform == "vjp":
            value, pullback = torch.func.vjp(self._inner, x)
            return self.head(value + pullback(x)[0])
        if self.transform == "grad of each":
            return self.head(torch.vmap(torch.func.grad(lambda row: self._inner(row[None]).sum()))(x))
        return self.head(torch.vmap(self._inner, 1, 1)(x.unflatten(1, (2, 3)).repeat(1, 1, 2)).sum(1))


class FixedPoint(Layers):
    """The root of z = tanh(W z + x), whose gradient a hook solves for as it comes."""

    def forward(self, x: Tensor) -> Tensor:
        x, z = self.first(x), x.new_zeros(len(x), 6)
        with torch.no_grad():
            for _ in range(20):
                z = (0.3 * self.second(z) + x).tanh()
        z = (0.3 * self.second(z) + x).tanh()
        if z.requires_grad:
            root = z.detach().requires_grad_()
            again = (0.3 * self.second(root) + x).tanh()

            def solved(gradient: Tensor) -> Tensor:
                total = gradient
                for _ in range(5):
                    total = torch.autograd.grad(again, root, total, retain_graph=True)[0] + gradient
                return total

            z.register_hook(solved)
        return self.head(z)


class Graph(Layers):
    """A product with a sparse matrix that holds a batch of graphs."""

    def forward(self, x: Tensor) -> Tensor:
        nodes = self.second(self.first(x).tanh())
        edges = torch.eye(len(x), dtype=x.dtype).to_sparse() * 2
        return self.head(torch.sparse.mm(edges, nodes).tanh())


FORMS: dict[str, tuple[Callable[[], nn.Module], set[str]]] = {
    "fixed-features": (Fixed, set()),
    "gate": (Gate, set()),
    "watched": (Watched, set()),
    "straight-through": (Detached, set()),
    "function": (WithFunction, set()),
    "checkpoint-first": (lambda: Checkpointed("first"), set()),
    "checkpoint-later": (lambda: Checkpointed("later"), set()),
    "checkpoint-sequence": (lambda: Checkpointed("sequence"), set()),
    "forces": (Forces, {"first.weight", "first.bias", "second.weight", "second.bias", "head.weight", "head.bias"}),
    "own-leaf": (OwnLeaf, set()),
    "leaf-if-needed": (LeafIfNeeded, set()),
    "checkpoint-operations": (CheckpointedOperations, set()),
    "penalised": (Penalised, {"second.weight", "second.bias"}),
    **{
        f"transform: {kind}": (
            functools.partial(Transformed, kind),
            {"second.weight", "second.bias", "weight"},
        )
        for kind in ("jvp", "vjp", "grad of each", "vmap")
    },
    "fixed-point": (FixedPoint, {"second.weight", "second.bias"}),
    "sparse-graph": (Graph, set()),
}


@pytest.mark.filterwarnings("ignore:no gradient reaches", "ignore:`torch.jit.script` is deprecated:FutureWarning")
@OBJECTIVES
@GROUPS
@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_those_of_autograd(form: str, group_size: int, objective: str) -> None:
    torch.manual_seed(0)
    make, fallback = FORMS[form]
    model, inputs = make().double(), torch.randn(9, 4, dtype=torch.float64)
    got = assert_equals_loop(model, inputs, objective, group_size)
    assert set(got.fallback) == (fallback if group_size < 9 else set())
    assert_equals_loop(model, inputs, objective, group_size, batch=2)  # groups in parts


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
@pytest.mark.parametrize("group_size", [1, 2, 8, 100, "batch"])
@pytest.mark.parametrize("where", ["first", "later", "sequence", "operations"])
def test_reentrant_checkpointing_is_refused_and_named(where: str, group_size) -> None:
    model, inputs = Checkpointed(where, reentrant=True), torch.randn(8, 4)
    if where == "operations":
        model = CheckpointedOperations(reentrant=True)
    with pytest.raises(ImportanceError, match=r"checkpointing .*use_reentrant=False"):
        pf.importance(model, batches(inputs, LABELS[:8], 4), group_size=group_size)


class Embedded(nn.Module):
    def __init__(self, embedding: nn.Module) -> None:
        super().__init__()
        self.embedding, self.head = embedding, nn.Linear(5, 3)

    def forward(self, tokens: Tensor) -> Tensor:  # [B, 6] -> [B, 3]
        rows = self.embedding(tokens)
        return self.head(torch.tanh(rows if rows.dim() == 2 else rows.mean(1)))


class Bags(nn.Module):
    """Bags [B, 6] with or without weights, or one row of tokens with offsets."""

    def __init__(self, mode: str, form: str) -> None:
        super().__init__()
        self.bag, self.form = nn.EmbeddingBag(9, 5, mode=mode, padding_idx=0 if form == "padded" else None), form
        self.sparse = nn.EmbeddingBag(9, 5, mode="sum", sparse=True)

    def forward(self, tokens: Tensor) -> Tensor:
        if self.form == "offsets":
            return self.bag(tokens.flatten(), torch.arange(len(tokens)) * tokens.shape[1])
        if self.form == "weighted":
            return self.bag(tokens, per_sample_weights=(1.0 + tokens).to(self.bag.weight.dtype))
        return self.bag(tokens) * self.sparse(tokens)


EMBEDDINGS = {
    "sparse": lambda: nn.Embedding(9, 5, sparse=True),
    "sparse-padded": lambda: nn.Embedding(9, 5, sparse=True, padding_idx=2),
    "sparse-called-twice": lambda: Halves(nn.Embedding(9, 5, sparse=True)),
    "bag-sum": lambda: Bags("sum", "plain"),
    "bag-mean": lambda: Bags("mean", "padded"),
    "bag-max": lambda: Bags("max", "plain"),
    "bag-offsets": lambda: Bags("mean", "offsets"),
    "bag-weighted": lambda: Bags("sum", "weighted"),
}


class Halves(nn.Module):
    """Reads only the first tokens by a call of its layer, and the others by name."""

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self.embedding = embedding

    def forward(self, tokens: Tensor) -> Tensor:
        by_name = nn.functional.embedding(tokens[:, 3:], self.embedding.weight, sparse=True)
        return torch.cat([self.embedding(tokens[:, :3]), by_name], 1)


@pytest.mark.filterwarnings("ignore:no gradient reaches embedding")
@OBJECTIVES
@GROUPS
@pytest.mark.parametrize("kind", EMBEDDINGS)
def test_embeddings_with_sparse_gradients_and_bags(kind: str, group_size: int, objective: str) -> None:
    torch.manual_seed(0)
    model, tokens = Embedded(EMBEDDINGS[kind]()).double(), torch.randint(0, 9, (9, 6))
    assert_equals_loop(model, tokens, objective, group_size)
    assert_equals_loop(model, tokens, objective, group_size, batch=2)


@pytest.mark.parametrize("layer", [nn.Embedding, nn.EmbeddingBag])
def test_frequencies_of_a_group_in_parts_are_refused(layer: type[nn.Module]) -> None:
    model, tokens = Embedded(layer(9, 5, scale_grad_by_freq=True)).double(), torch.randint(0, 9, (12, 6))
    assert_equals_loop(model, tokens, "ssd", 4, batch=12)
    assert_equals_loop(model, tokens, "ssd", 1, batch=3)
    with pytest.raises(ImportanceError, match=r"'embedding'.*scale_grad_by_freq.*whole groups"):
        pf.importance(model, batches(tokens, LABELS[:12], 3), group_size=4)


@OBJECTIVES
@pytest.mark.parametrize("group_size", [1, 2, 3, 4, 7, 20])
def test_batches_padded_to_several_lengths(group_size: int, objective: str) -> None:
    """Each batch as long as its longest text, as a collate function of one's own pads them."""
    torch.manual_seed(0)
    model = Embedded(nn.Embedding(9, 5, padding_idx=0)).double()
    lengths = [(3, 6), (3, 6), (4, 2), (1, 6), (5, 4)]
    loader = [(torch.randint(1, 9, shape), torch.randint(0, 3, shape[:1])) for shape in lengths]
    data = [(x[k : k + 1], y[k : k + 1]) for x, y in loader for k in range(len(x))]
    want: dict[str, Tensor] = {}
    losses = pf.importances.OBJECTIVES[objective].losses
    groups = [data[start : start + group_size] for start in range(0, len(data), group_size)]
    for group in groups:
        loss = torch.cat([losses(model(x), y) for x, y in group]).mean()
        for (name, p), g in zip(
            model.named_parameters(), torch.autograd.grad(loss, [*model.parameters()]), strict=True
        ):
            want[name] = want.get(name, torch.zeros_like(p)) + (g.square() if objective == "ssd" else g.abs())
    got = pf.importance(model, loader, objective, group_size=group_size, dtype=torch.float64)
    assert (got.samples, got.terms) == (len(data), len(groups))
    for name, right in want.items():
        torch.testing.assert_close(got[name], right / len(groups), rtol=1e-12, atol=1e-15)
