"""Rows that do not belong to samples in equal number, or whose places data decides, against the loop in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from helpers.loops import assert_equals_loop

CASES = pytest.mark.parametrize("size", [3, 5, 12])
GROUPS = pytest.mark.parametrize("group_size", [1, 4])


class Tokens(nn.Module):
    """An embedding, a layer on each token, a head; tokens 0 are padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.inner, self.head = nn.Embedding(20, 6, padding_idx=0), nn.Linear(6, 8), nn.Linear(8, 3)
        self.place = nn.Parameter(0.1 * torch.randn(1, 6))

    def forward(self, x: Tensor) -> Tensor:
        mask = x != 0
        return self.head(self.hidden(x, mask) / mask.sum(1, keepdim=True))

    def hidden(self, x: Tensor, mask: Tensor) -> Tensor:  # [B, T] -> [B, 8]
        raise NotImplementedError


class Unpadded(Tokens):
    """The real tokens alone, put back to their places."""

    def hidden(self, x: Tensor, mask: Tensor) -> Tensor:
        rows = self.inner(self.embed(x)[mask]).tanh()
        out = rows.new_zeros(*x.shape, 8)
        out[mask] = rows
        return out.sum(1)


class Added(Tokens):
    """The real tokens alone, added up by the sample that each is of."""

    def hidden(self, x: Tensor, mask: Tensor) -> Tensor:
        sample, position = mask.nonzero(as_tuple=True)
        rows = self.inner(self.embed(x[sample, position]) + self.place).tanh()
        return rows.new_zeros(len(x), 8).index_add(0, sample, rows)


class Sliced(Tokens):
    """Python cuts each text to its length."""

    def hidden(self, x: Tensor, mask: Tensor) -> Tensor:
        lengths = mask.sum(1).tolist()
        rows = self.inner(torch.cat([self.embed(row[:n]) for row, n in zip(x, lengths, strict=True)])).tanh()
        return torch.stack([part.sum(0) for part in rows.split(lengths)])


class OneByOne(Tokens):
    """The same, by a read for each sample."""

    def hidden(self, x: Tensor, mask: Tensor) -> Tensor:
        rows = self.inner(torch.cat([self.embed(row[: int(row.count_nonzero())]) for row in x])).tanh()
        return torch.stack([part.sum(0) for part in rows.split([int(n) for n in mask.sum(1)])])


class Sorted(Tokens):
    """The samples of a batch in the order of their lengths, as a packed sequence wants them, and back."""

    def hidden(self, x: Tensor, mask: Tensor) -> Tensor:
        order = mask.sum(1).argsort(descending=True, stable=True)
        rows = self.inner((self.embed(x[order]) + self.place).flatten(0, 1)).tanh().unflatten(0, x.shape)
        return (rows * mask[order][..., None]).sum(1)[order.argsort()]


class SortedOnHost(Tokens):
    """The same, where Python sorts."""

    def hidden(self, x: Tensor, mask: Tensor) -> Tensor:
        lengths = mask.sum(1).tolist()
        order = sorted(range(len(x)), key=lambda k: -lengths[k])
        rows = self.inner(self.embed(x[order])).tanh()
        back = sorted(range(len(x)), key=lambda k: order[k])
        return (rows * mask[order][..., None]).sum(1)[back]


class SortedByFirstToken(Tokens):
    """All tokens of a batch in the order of their numbers."""

    def hidden(self, x: Tensor, mask: Tensor) -> Tensor:
        flat, order = x.flatten().sort(stable=True)
        rows = self.inner(self.embed(flat)).tanh()
        rows = torch.zeros_like(rows).scatter(0, order[:, None].expand(-1, 8), rows)
        return (rows.unflatten(0, x.shape) * mask[..., None]).sum(1)


class Packed(Tokens):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 8, batch_first=True)

    def hidden(self, x: Tensor, mask: Tensor) -> Tensor:
        lengths = mask.sum(1).cpu()
        packed = pack_padded_sequence(self.embed(x), lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True)
        return self.inner(states.sum(1)[:, :6]).tanh()


class Experts(Tokens):
    """Each token goes to the expert that its number says, by a mask or by a list of places."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(6, 3)
        self.experts = nn.ModuleList(nn.Linear(6, 8) for _ in range(3))

    def hidden(self, x: Tensor, mask: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(0, 1)
        weights, chosen = self.gate(tokens).softmax(-1).topk(2)
        out = tokens.new_zeros(len(tokens), 8)
        for k, expert in enumerate(self.experts):
            row, place = torch.where(chosen == k)
            out = out.index_add(0, row, expert(tokens[row]).tanh() * weights[row, place, None])
        return (out.unflatten(0, x.shape) * mask[..., None]).sum(1) + self.inner(self.embed(x).mean(1))


class Bags(Tokens):
    """Bags of tokens whose starts data decides."""

    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(20, 6, mode="sum")

    def hidden(self, x: Tensor, mask: Tensor) -> Tensor:
        lengths = mask.sum(1)
        return self.inner(self.bag(x[mask], lengths.cumsum(0) - lengths)).tanh()


class Repeated(Tokens):
    """A row of each sample as often as it has tokens."""

    def hidden(self, x: Tensor, mask: Tensor) -> Tensor:
        lengths = mask.sum(1)
        sample = torch.arange(len(x)).repeat_interleave(lengths)
        rows = self.inner(self.embed(x[:, 0])[sample]).tanh()
        return rows.new_zeros(len(x), 8).index_add(0, sample, rows)


class Branches(Tokens):
    """Python asks whether any text of the batch is full, which changes nothing for a text."""

    def hidden(self, x: Tensor, mask: Tensor) -> Tensor:
        states = self.inner(self.embed(x)).tanh() * mask[..., None]
        return states.sum(1) if mask.all() or bool(mask[:, 0].any()) else states.sum(1)


class LastToken(Tokens):
    """The last token of each text, in three ways: rows still belong to samples."""

    def hidden(self, x: Tensor, mask: Tensor) -> Tensor:
        last = mask.sum(1) - 1
        states = self.inner(self.embed(x)).tanh()
        one = states[torch.arange(len(x)), last]
        two = states.gather(1, last[:, None, None].expand(-1, 1, 8))[:, 0]
        three = states.masked_fill(~mask[..., None], -9).sort(1).values[:, -1]
        return self.head.weight.new_ones(()) * (one + two + three) * mask.sum(1, keepdim=True)


class Attention(Tokens):
    """Masks, positions and choices that stay within a sample."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Embedding(9, 6)

    def hidden(self, x: Tensor, mask: Tensor) -> Tensor:
        states = self.embed(x) + self.positions(mask.cumsum(1) - 1) + self.place
        scores = (states @ states.mT).masked_fill(~mask[:, None], float("-inf")).softmax(-1)
        best = scores.sum(1).topk(2, dim=1).indices
        picked = torch.take_along_dim(scores @ states, best[..., None], 1)
        picked = torch.where(mask[:, :2, None], picked, torch.zeros_like(picked))
        return self.inner(picked).tanh().sum(1)


LAYER, HEAD = ("inner.weight", "inner.bias"), ("head.weight", "head.bias")
# The parameters that must have no rule, and whether others may not either.
DECIDED: dict[str, tuple[type[Tokens], tuple[str, ...]]] = {
    "unpadded": (Unpadded, LAYER),
    "added": (Added, (*LAYER, "embed.weight", "place")),
    "sliced": (Sliced, (*LAYER, "embed.weight")),
    "one-by-one": (OneByOne, (*LAYER, "embed.weight")),
    "sorted": (Sorted, (*LAYER, "embed.weight", "place")),
    "sorted-on-host": (SortedOnHost, (*LAYER, "embed.weight")),
    "all-tokens-sorted": (SortedByFirstToken, (*LAYER, "embed.weight")),
    "packed": (Packed, LAYER),
    "experts": (Experts, tuple(f"experts.{k}.{name}" for k in range(3) for name in ("weight", "bias"))),
    "bags": (Bags, ("bag.weight",)),
    "repeated": (Repeated, LAYER),
}
KEPT: dict[str, type[Tokens]] = {"branches": Branches, "last-token": LastToken, "attention": Attention}


def texts(lengths: list[int], seed: int = 0) -> Tensor:
    """Tokens [B, 5] of texts with these lengths, padded with 0."""
    tokens = torch.randint(1, 20, (len(lengths), 5), generator=torch.Generator().manual_seed(seed))
    return tokens.where(torch.arange(5) < torch.tensor(lengths)[:, None], 0)


LENGTHS = {
    "first-alike": [3, 3, 3, 2, 4, 3, 3, 5, 1, 3, 3, 3],
    "other-total": [3, 3, 3, 2, 5, 1, 4, 4, 5, 5, 1, 2],
    "in-order": [5, 4, 3, 2, 5, 1, 1, 5, 2, 3, 1, 4],
}


def model_of(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make().double()


@pytest.mark.filterwarnings("ignore:no gradient reaches")
@CASES
@GROUPS
@pytest.mark.parametrize("objective", ["xlf", "ssd"])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("kind", DECIDED)
def test_rows_that_data_decides_on_have_no_rule(kind: str, lengths: str, objective: str, group_size: int, size) -> None:
    make, without = DECIDED[kind]
    got = assert_equals_loop(model_of(make), texts(LENGTHS[lengths]), objective, group_size, batch=size)
    if size >= 2 * group_size:  # otherwise each group has a backward pass of its own
        expected = [name for name in without if got[name].any()]
        assert not set(expected) - set(got.fallback), got.fallback


@CASES
@GROUPS
@pytest.mark.parametrize("objective", ["xlf", "ssd"])
@pytest.mark.parametrize("kind", KEPT)
def test_what_stays_within_a_sample_keeps_its_rule(kind: str, objective: str, group_size: int, size: int) -> None:
    inputs = texts([max(2, length) for length in LENGTHS["other-total"]])
    model = model_of(KEPT[kind])
    if kind != "attention":
        del model.place
    got = assert_equals_loop(model, inputs, objective, group_size, batch=size)
    assert got.fallback == ()
