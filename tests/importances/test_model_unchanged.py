"""The caller's model is as it was after a pass, an evaluation and a search, whether they failed or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import spectral_norm, weight_norm

import helpers.loops
import potion_fast as pf
from helpers.loops import loop
from potion_fast.errors import ImportanceError, ModelError
from potion_fast.utils.copies import copy_model
from potion_fast.utils.predict import predict

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

TOKENS = torch.randint(0, 20, (24, 5), generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(24) % 3


class Base(nn.Module):
    """An embedding, a layer and a head; in train mode but for one dropout."""

    def __init__(self, embedding: nn.Module | None = None) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8) if embedding is None else embedding
        self.inner, self.norm, self.head = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.drop = nn.Dropout(0.5).eval()

    def features(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.drop(self.norm(self.inner(x if x.ndim == 2 else x.mean(1)).tanh()))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class Keeps(Base):
    """Keeps features, counts, caches and notes, in attributes, containers and buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.history, self.cache, self.kept = 0, [], {"last": None}, torch.zeros(2)
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        self.latest = features
        self.calls += 1
        self.history.append(len(x))
        self.cache["last"] = features.detach()
        self.kept += 1
        self.mean = 0.9 * self.mean + 0.1 * features.detach().mean(0)
        self.steps += 1
        return self.head(features)


class Clamps(Base):
    """Keeps its weights small, in place."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.inner.weight.clamp_(-0.2, 0.2)
        self.head.weight.data.clamp_(-0.2, 0.2)
        return super().forward(x)


class Replaces(Base):
    """Gives a weight other memory."""

    def forward(self, x: Tensor) -> Tensor:
        self.inner.weight.data = F.normalize(self.inner.weight.data, dim=1)
        return super().forward(x)


class Merging(nn.Linear):
    """Adds its adapter to its frozen weight in eval mode."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.weight.requires_grad_(False)
        self.adapter, self.merged = nn.Parameter(torch.randn(outputs, inputs) / 7), False

    def train(self, mode: bool = True) -> Merging:
        if mode == self.merged:
            self.weight.data += self.adapter.detach() * (-1 if mode else 1)
            self.merged = not mode
        return super().train(mode)


class Merges(Base):
    """One of its layers merges an adapter into its weight; the others have importances."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Merging(8, 8)
        self.inner.adapter.requires_grad_(False)


class Hooks(Base):
    """Registers a hook each time that it is called."""

    def forward(self, x: Tensor) -> Tensor:
        self.inner.register_forward_hook(lambda module, args, output: None)
        return super().forward(x)


def normed(how: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        model = Base()
        how(model.inner)
        return model

    return make


KINDS: dict[str, Callable[[], nn.Module]] = {
    "plain": Base,
    "Embedding(max_norm)": lambda: Base(nn.Embedding(20, 8, max_norm=1.0)),
    "EmbeddingBag(max_norm)": lambda: Base(nn.EmbeddingBag(20, 8, max_norm=1.0)),
    "keeps what it computes": Keeps,
    "clamps its weights": Clamps,
    "replaces its weights": Replaces,
    "merges an adapter": Merges,
    "registers hooks": Hooks,
    "weight_norm": normed(weight_norm),
    "spectral_norm": normed(spectral_norm),
}


def made(kind: str) -> nn.Module:
    torch.manual_seed(0)
    model = KINDS[kind]().train()
    model.drop.eval()
    model.norm.running_mean += 0.1
    model.head.weight.grad = torch.ones_like(model.head.weight)
    model.inner.bias.requires_grad_(False)
    model.embed.register_forward_hook(lambda module, args, output: None)
    return model


def state(value: Any, depth: int = 4) -> Any:
    """All that a model is, as plain values: tensors by their bits and their memory, modules by their attributes."""
    if isinstance(value, nn.Module):
        return {name: state(part, depth) for name, part in vars(value).items()}
    if isinstance(value, Tensor):
        bits = value.detach().contiguous().clone().view(-1).view(torch.uint8).tolist()
        gradient = state(value.grad, depth) if value.is_leaf else None
        return id(value), value.data_ptr(), bits, value.requires_grad, gradient
    if isinstance(value, dict):
        return [(key, state(part, depth)) for key, part in value.items()]
    if isinstance(value, (list, tuple, set)):
        return [state(part, depth) for part in value]
    return value if isinstance(value, (int, float, str, bool, type(None))) else id(value)


class BrokenError(Exception):
    """What the loader raises."""


def breaking(batches: list[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    yield from batches[:2]
    raise BrokenError


def without_number(outputs: Tensor, labels: Tensor) -> Tensor:
    losses = torch.linalg.vector_norm(outputs, dim=1)
    return losses * torch.where(labels == 2, torch.nan, 1.0)


def batches(size: int = 8) -> list[tuple[Tensor, Tensor]]:
    return list(zip(TOKENS.split(size), LABELS.split(size), strict=True))


def learnt(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """S_f whose labels the model gives."""
    return [(TOKENS[:4], copy_model(model).eval()(TOKENS[:4]).argmax(1))]


@pytest.mark.parametrize("group_size", [1, 3, "batch"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_pass_and_a_prediction_leave_the_model_as_it_was(kind, group_size):
    model = made(kind)
    before = state(model)
    pf.importance(model, batches(), group_size=group_size)
    assert state(model) == before
    with pytest.raises(BrokenError):
        pf.importance(model, breaking(batches()), group_size=group_size)
    assert state(model) == before
    with pytest.raises(ImportanceError, match="nan"):
        pf.importance(model, batches(), without_number, group_size=group_size)
    assert state(model) == before
    predict(model, batches())
    assert state(model) == before
    with pytest.raises(BrokenError):
        predict(model, breaking(batches()))
    assert state(model) == before


@pytest.mark.filterwarnings("ignore::potion_fast.errors.PotionWarning")
@pytest.mark.parametrize("strategy", ["sequential", "bisect", "minimal"])
@pytest.mark.parametrize("kind", KINDS)
def test_unlearning_leaves_the_callers_model_as_it_was_and_heals_what_it_is_to_heal(kind, strategy):
    model = made(kind)
    found, before = learnt(made(kind)), state(model)
    result = pf.unlearn(model, batches(), found, strategy=strategy)
    assert state(model) == before and result.kept is not None
    with pytest.raises(BrokenError):
        pf.unlearn(model, breaking(batches()), found, strategy=strategy)
    assert state(model) == before
    with pytest.raises(BrokenError):
        pf.unlearn(model, breaking(batches()), found, strategy=strategy, inplace=True)
    assert state(model) == before
    healed = pf.unlearn(model, batches(), found, strategy=strategy, inplace=True)
    for ours, theirs in zip(healed.model.parameters(), result.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    modes = [module.training for module in made(kind).modules()]
    assert [module.training for module in model.modules()] == modes == [m.training for m in result.model.modules()]


@pytest.mark.parametrize("objective", ["xlf", "ssd"])
@pytest.mark.parametrize("group_size", [1, 4])
@pytest.mark.parametrize("kind", ["Embedding(max_norm)", "EmbeddingBag(max_norm)", "clamps its weights"])
def test_models_that_write_to_their_weights_have_the_importances_of_the_loop(kind, group_size, objective, monkeypatch):
    monkeypatch.setattr(helpers.loops, "LABELS", LABELS)
    want = loop(made(kind).double().eval(), TOKENS, objective, group_size)
    model = made(kind).double()
    got = pf.importance(model, batches(6), objective, group_size=group_size, dtype=torch.float64)
    for name in got.shapes:
        torch.testing.assert_close(got[name], want[name], rtol=1e-9, atol=1e-11)


class Late(Base):
    """Writes to a weight from the third batch on."""

    def forward(self, x: Tensor) -> Tensor:
        if 7 in x[0]:
            with torch.no_grad():
                self.inner.weight.mul_(0.9)
        return super().forward(x)


def test_a_weight_that_is_written_to_in_a_later_batch_alone_is_named():
    torch.manual_seed(0)
    first, later = torch.zeros(8, 5, dtype=torch.long), torch.full((8, 5), 7)
    with pytest.raises(ModelError, match="'inner.weight' in its forward pass, and not when it was first called"):
        pf.importance(Late().eval(), [(first, LABELS[:8]), (later, LABELS[:8])], group_size="batch")


def test_ordinary_models_are_neither_copied_nor_watched_beyond_the_first_call(monkeypatch):
    from potion_fast.utils import unchanged

    watches = []

    class Counted(unchanged.Watch):
        def __init__(self) -> None:
            super().__init__()
            watches.append(self)

    monkeypatch.setattr(unchanged, "Watch", Counted)
    model = made("plain").eval()
    pf.importance(model, batches(), group_size=1)
    (watch,) = watches
    assert not watch.wrote
    assert not any(noted.copied is not None for noted in watch.tensors if isinstance(noted.tensor, nn.Parameter))


class Biased(nn.Module):
    """A layer whose bias is looked up in a table and kept from the first call on, in one of three ways."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.table, self.layer = nn.Parameter(torch.randn(5)), nn.Linear(4, 3)
        self.where, self.kept, self.cache = where, None, {}

    def _bias(self) -> Tensor:
        bias = self.table[torch.tensor([0, 2, 2])].sin()
        if self.where == "entry":
            return self.cache.setdefault("bias", bias)
        if self.where == "new attribute" and not hasattr(self, "found"):
            self.found = bias
        elif self.where == "attribute" and self.kept is None:
            self.kept = [bias]
        return {"attribute": lambda: self.kept[0], "new attribute": lambda: self.found}.get(self.where, lambda: bias)()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).tanh() + self._bias()


@pytest.mark.parametrize("group_size", [1, 4, "batch"])
@pytest.mark.parametrize("where", ["entry", "attribute", "new attribute"])
def test_what_is_kept_from_an_earlier_call_is_computed_again(where: str, group_size) -> None:
    torch.manual_seed(0)
    model, plain, inputs = Biased(where).double(), Biased("nowhere").double(), torch.randn(9, 4, dtype=torch.float64)
    plain.load_state_dict(model.state_dict())
    want = loop(plain, inputs, group_size=[3, 3, 3] if group_size == "batch" else group_size)
    got = pf.importance(model, inputs.split(3), "xlf", group_size=group_size, dtype=torch.float64)
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, rtol=1e-12, atol=0)
    assert model.kept is None and not model.cache and not hasattr(model, "found")
