"""Importances of models that FSDP2 has sharded: each rank's shards of those of one process, on the same samples."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, Sampler, TensorDataset

import potion_fast as pf
from helpers.processes import SLOWEST, in_processes
from helpers.toys import batches
from potion_fast.distributed import ShareSampler
from potion_fast.distributed.fsdp import local
from potion_fast.errors import PotionError
from potion_fast.importances.fsdp_pass import first_of
from potion_fast.utils.batches import Chunk

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:no gradient reaches unused"),
]


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.wide = nn.Linear(width, 3 * width)
        self.narrow = nn.Linear(3 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.narrow(torch.tanh(self.wide(self.norm(x))))


class Transformer(nn.Module):
    """Patches by a convolution, position embeddings for all samples, a block that is used twice, a head on the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(2, 5, 2, stride=2)
        self.positions = nn.Parameter(torch.zeros(1, 4, 5))
        self.blocks = nn.ModuleList([Block(5), Block(5)])
        self.head = nn.Linear(5, 3)
        self.unused = nn.Parameter(torch.ones(7))

    def forward(self, x: Tensor) -> Tensor:  # [B, 2, 4, 4] -> [B, 3]
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        for block in (*self.blocks, self.blocks[0]):
            x = block(x)
        return self.head(x.mean(1))


def model_of(dtype: torch.dtype, kind: type[nn.Module] = Transformer) -> nn.Module:
    torch.manual_seed(0)
    model = kind().to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model


def sharded(model: nn.Module) -> nn.Module:
    for block in model.blocks:
        fully_shard(block)
    fully_shard(model.head)  # a layer by itself
    return fully_shard(model)


def data(n: int, dtype: torch.dtype) -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(n, 2, 4, 4, generator=generator, dtype=dtype)
    return TensorDataset(inputs, torch.randint(0, 3, (n,), generator=generator))


def shards(n: int, dtype: torch.dtype, objective: object, group_size: object, batch: int) -> object:
    """Importances of this rank's shards, and how each parameter of the model lies."""
    model, dataset = sharded(model_of(dtype)), data(n, dtype)
    before = {name: local(p).clone() for name, p in model.named_parameters()}
    loader = DataLoader(dataset, batch, sampler=ShareSampler(dataset))
    results = pf.importance(model, loader, objective, group_size=group_size, dtype=dtype)
    for name, p in model.named_parameters():
        assert p.requires_grad and p.grad is None and torch.equal(local(p), before[name])
    for result in results:
        result.check_model(model)
    return [({name: result[name] for name in result.shapes}, result.samples, result.terms) for result in results]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("ranks", "n", "objective", "group_size", "batch"),
    [
        (1, 5, ["xlf"], 1, 4),
        (2, 13, ["xlf", "lf", "ssd"], 1, 4),
        (4, 13, ["ssd"], 1, 2),  # batches of 2 and of 1, too few to check the rules with
        (4, 3, ["xlf"], 1, 4),  # a rank without a sample
        (2, 13, ["xlf", "lf"], 3, 4),
        (2, 13, ["lf"], "batch", 4),
    ],
)
def test_each_rank_has_its_shards_of_what_one_process_gives(tmp_path, ranks, n, objective, group_size, batch, dtype):
    model, dataset = model_of(dtype), data(n, dtype)
    loader = batches(*dataset.tensors, batch)
    want = pf.importance(model, loader, objective, group_size=group_size, dtype=dtype)
    got = in_processes(ranks, shards, n, dtype, objective, group_size, batch, folder=tmp_path)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-13
    for k, one in enumerate(want):
        assert one.fallback == ()
        assert {(samples, terms) for _, samples, terms in (results[k] for results in got)} == {(n, one.terms)}
        for name in one.shapes:
            whole = torch.cat([results[k][0][name] for results in got])
            assert whole.shape == one[name].shape, name
            error = torch.linalg.vector_norm(whole - one[name])
            assert error <= tolerance * torch.linalg.vector_norm(one[name]), f"{name}: {error}"


def part_of_shards(order: list[int]) -> object:
    """Importances of this rank's shards, from the first samples of each rank's share of an order."""
    dataset = data(20, torch.float64)
    loader = DataLoader(dataset, 3, sampler=ShareSampler(SubsetOf(order)))
    some = pf.importance(sharded(model_of(torch.float64)), loader, "xlf", group_size=2, dtype=torch.float64, samples=7)
    return {name: some[name] for name in some.shapes}, some.samples, some.total


class SubsetOf(Sampler[int]):
    """Indices in this order."""

    def __init__(self, indices: list[int]) -> None:
        self.indices = indices

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


def test_ranks_read_a_part_of_their_shares(tmp_path):
    order = torch.randperm(20, generator=torch.Generator().manual_seed(2)).tolist()
    got = in_processes(2, part_of_shards, order, folder=tmp_path)
    assert [counts for _, *counts in got] == 2 * [[8, 20]]
    inputs, labels = data(20, torch.float64)[order[:4] + order[10:14]]
    want = pf.importance(model_of(torch.float64), [(inputs, labels)], "xlf", group_size=2, dtype=torch.float64)
    for name in want.shapes:
        torch.testing.assert_close(torch.cat([shards[name] for shards, *_ in got]), want[name], rtol=1e-12, atol=0)


class Peeking(Transformer):
    """Reads a weight by name, beside the calls of its layer."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.patches.weight.sum()


class Sometimes(Transformer):
    """Reads a parameter in some batches only."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (self.unused.sum() if (x > 3).any() else 1)


def refused() -> list[str]:
    """The errors of passes that cannot be exact, or go wrong on one rank."""
    dtype, said = torch.float32, []

    def tried(model: nn.Module, dataset: TensorDataset, **options: object) -> None:
        start = time.monotonic()
        loader = DataLoader(dataset, 4, sampler=ShareSampler(dataset))
        with pytest.raises(PotionError) as caught:
            pf.importance(model, loader, **{"group_size": 1, **options})
        assert time.monotonic() - start < SLOWEST
        said.append(str(caught.value))

    plain, nan, large = data(12, dtype), data(12, dtype), data(12, dtype)
    nan.tensors[0][10] = torch.nan  # the second rank's
    large.tensors[0][7] = 4
    tried(sharded(model_of(dtype, Peeking)), plain)
    tried(sharded(model_of(dtype, Sometimes)), large)
    tried(sharded(model_of(dtype)), nan)
    tried(sharded(model_of(dtype)), plain, checkpoint="pass")
    tried(sharded(model_of(dtype)), plain, process_group=False)
    tried(sharded(model_of(dtype)), plain, group_size=5)
    tried(sharded(model_of(dtype)), plain, compiled=True)
    tried(sharded(model_of(dtype)), plain, samples="auto")
    dist.barrier()
    return said


def test_a_sample_is_sent_without_the_batch_that_it_is_of():
    chunk = Chunk(torch.arange(12.0).view(4, 3), torch.arange(4), 4, True)
    for sent, wanted in zip(first_of(chunk), (chunk.inputs[:1], chunk.labels[:1]), strict=True):
        assert torch.equal(sent, wanted)
        assert sent.untyped_storage().nbytes() == wanted.numel() * wanted.element_size()
    assert first_of(Chunk(chunk.inputs, None, 4, True))[1] is None


def test_what_cannot_be_exact_is_an_error_on_all_ranks(tmp_path):
    first, second = in_processes(2, refused, folder=tmp_path)
    for got in (first, second):
        peeking, sometimes, nan, checkpoint, alone, large, compiled, auto = got
        assert "patches.weight, and without one a sharded model's cannot be had" in peeking
        assert "no rule gives the importances of unused, which the first sample did not use" in sometimes
        assert "the loss of sample 4 is nan" in nan
        assert "keeps no checkpoints" in checkpoint
        assert "sharded the model among 2 ranks, and 1 give samples" in alone
        assert "a batch must hold a whole group" in large
        assert "is not compiled; leave out compiled" in compiled
        assert "give a number of samples" in auto
    assert second[2].startswith("the loss") and first[2].startswith("rank 1: ")
