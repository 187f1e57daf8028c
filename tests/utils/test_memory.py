"""Memory: what is needed is checked before any work, and what runs out of memory continues in smaller parts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import potion_fast as pf
from helpers.toys import Blobs, Net, assert_same_weights, batches, net, samples, weights
from potion_fast.errors import DataError, OutOfMemoryError
from potion_fast.importances import micro_batches
from potion_fast.importances.micro_batches import MicroBatches, split
from potion_fast.utils import memory
from potion_fast.utils.batches import Chunk, chunks
from potion_fast.utils.memory import available, check, peak_of

CPU = torch.device("cpu")


class Cramped(Net):
    """Runs out of memory above so many samples, in the middle of the network's forward or backward pass."""

    def __init__(self, most: int, where: str, kind: str = "cuda") -> None:
        super().__init__()
        self.most, self.where, self.kind = most, where, kind
        self.seen = SimpleNamespace(sizes=[])  # a list of its own would be put back after a pass

    def forward(self, x: Tensor) -> Tensor:
        self.seen.sizes.append(len(x))
        too_many = len(x) > self.most
        if too_many and self.where == "forward":
            self.run_out()
        x = torch.celu(self.norm(self.conv(x))).flatten(1)
        if too_many and self.where == "backward" and x.requires_grad:
            x.register_hook(lambda gradient: self.run_out())  # after the head's and the shared layer's importances
        return self.head(torch.tanh(self.twice(torch.tanh(self.twice(x)))))

    def run_out(self) -> None:
        if self.kind == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory")
        torch.empty(2**60, dtype=torch.uint8)  # what a CPU that is full says


def cramped(most: int, where: str, kind: str = "cuda") -> Cramped:
    model = Cramped(most, where, kind).double()
    model.load_state_dict(net(dtype=torch.float64).state_dict())
    return model


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("objective", ["xlf", "ssd", ["xlf", "lf", "ssd"]])
@pytest.mark.parametrize("group_size", [1, 4, 20, 45, "batch"])  # within a micro-batch, above it, above a batch
def test_a_pass_that_runs_out_of_memory_goes_on_with_fewer_samples_and_gives_the_same(where, objective, group_size):
    data = batches(*samples(75, dtype=torch.float64), 30)
    options = {"objective": objective, "group_size": group_size, "dtype": torch.float64}
    model = cramped(6, where)
    got, want = pf.importance(model, data, **options), pf.importance(net(dtype=torch.float64), data, **options)
    sizes = model.seen.sizes
    assert max(sizes) > 6 and sizes.count(max(sizes)) == 1  # halved once and for all
    for one, other in zip(*(i if isinstance(i, list) else [i] for i in (got, want)), strict=True):
        assert (one.samples, one.terms) == (other.samples, other.terms)
        assert torch.linalg.vector_norm(one.sums - other.sums) <= 1e-12 * torch.linalg.vector_norm(other.sums)


def test_a_cpu_that_is_full_is_answered_alike_and_other_errors_are_not():
    data = batches(*samples(20, dtype=torch.float64), 20)
    got = pf.importance(cramped(5, "backward", "cpu"), data, group_size=1, dtype=torch.float64)
    torch.testing.assert_close(
        got.sums,
        pf.importance(net(dtype=torch.float64), data, group_size=1, dtype=torch.float64).sums,
        rtol=1e-12,
        atol=0,
    )
    model = nn.Sequential(nn.Flatten(), nn.Linear(33, 3))
    with pytest.raises(DataError, match="shapes cannot be multiplied"):
        pf.importance(model, batches(*samples(20), 20), group_size=1)


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_where_one_sample_is_too_much_the_error_is_ours_and_nothing_is_left_behind(where):
    model = cramped(0, where)
    before = weights(model)
    with pytest.raises(OutOfMemoryError, match=r"single sample; .* available on cpu"):
        pf.importance(model, batches(*samples(20, dtype=torch.float64), 20), group_size=1)
    assert_same_weights(model, before)
    assert not any(module._forward_hooks for module in model.modules())


def wide() -> nn.Module:
    """16 kB of activations to a sample: the outputs of two layers, and the gradients at them."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(32, 1000), nn.Tanh(), nn.Linear(1000, 3))


@pytest.mark.parametrize(("free", "least", "most"), [(10_000_000, 64, 64), (700_000, 15, 60), (150_000, 1, 12)])
def test_as_many_samples_go_at_once_as_fit_into_free_memory(monkeypatch, free, least, most):
    sizes: list[int] = []
    model, data = wide(), samples(64)
    want = pf.importance(model, batches(*data, 64), group_size=1).sums
    model.register_forward_hook(lambda module, args, output: sizes.append(len(output)))
    monkeypatch.setattr("potion_fast.importances.local_pass.check", lambda *args: None)
    monkeypatch.setattr(memory, "available", lambda device: free)
    torch.testing.assert_close(pf.importance(model, batches(*data, 64), group_size=1).sums, want)
    assert least <= max(sizes) <= most


def test_where_one_sample_does_not_fit_a_few_suffice_for_the_error(monkeypatch):
    sizes: list[int] = []
    model = wide()
    model.register_forward_hook(lambda module, args, output: sizes.append(len(output)))
    monkeypatch.setattr("potion_fast.importances.local_pass.check", lambda *args: None)
    monkeypatch.setattr(memory, "available", lambda device: 10_000)
    with pytest.raises(OutOfMemoryError, match="the activations of one sample"):
        pf.importance(model, batches(*samples(64), 64), group_size=1)
    assert max(sizes) == micro_batches.PROBE_SIZES[-1]


def test_what_a_few_samples_leave_behind_is_undone_to_the_bit(monkeypatch):
    data = batches(*samples(40), 10)
    want = pf.importance(net(), data, group_size=1)
    monkeypatch.setattr(micro_batches, "PROBE_SIZES", (3, 8))
    assert torch.equal(pf.importance(net(), data, group_size=1).sums, want.sums)
    monkeypatch.setattr(micro_batches, "PROBE_SIZES", (3, 100))  # never measured
    assert torch.equal(pf.importance(net(), data, group_size=1).sums, want.sums)


@pytest.mark.parametrize("size", [1, 3, 5, 8, 20, "batch"])
@pytest.mark.parametrize("most", [1, 2, 4, 7, 100])
def test_a_split_piece_holds_the_same_groups(size, most):
    inputs = torch.arange(24)
    for chunk in chunks(batches(inputs, inputs, 10), size):
        parts = split(chunk, most)
        assert torch.equal(torch.cat([part.inputs for part in parts]), chunk.inputs)
        assert torch.equal(torch.cat([part.labels for part in parts]), chunk.labels)
        assert max(len(part.inputs) for part in parts) <= most
        assert sum(part.groups for part in parts if part.closes) == (chunk.groups if chunk.closes else 0)
        assert all(part.groups == 1 and len(part.inputs) < len(chunk.inputs) for part in parts if not part.closes) or (
            not chunk.closes
        )
    assert split(Chunk(inputs, None, 24, True), most)[0].labels is None


def test_what_is_live_at_once_is_counted():
    with peak_of(CPU) as peak:
        a = torch.ones(1000)  # 4000 bytes
        b = a.view(10, 100) + 1  # 4000 more
        del a
        c = b.T.reshape(-1).mul_(2)  # 4000 more, of which the first are free again
    assert peak == [8000]
    assert len(c) == 1000


def test_bytes_that_are_there_are_those_of_the_system(tmp_path, monkeypatch):
    assert 2**20 < available(CPU) < 2**50
    (tmp_path / "meminfo").write_text("MemTotal:  900 kB\nMemAvailable:  123 kB\n")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    assert available(CPU) == 123 * 1024
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "missing")
    assert available(CPU) > 2**20


def test_an_error_names_what_is_needed_for_what_and_what_there_is():
    check(CPU, {"a": 5, "b": 5}, lambda device: 10)
    check(CPU, {"a": 2**60}, lambda device: None)
    with pytest.raises(OutOfMemoryError, match=r"3\.00 GB .* cpu and 20\.00 MB are available: 1\.00 MB for a, .* b"):
        check(CPU, {"a": 10**6, "b": 2_999_000_000}, lambda device: 20_000_000)


class Unread:
    def __iter__(self):
        raise AssertionError("no data is read before memory is checked")

    batch_sampler = None


@pytest.mark.parametrize(("inplace", "numbers"), [(True, 4.35), (False, 5.35)])
def test_unlearning_says_before_any_work_that_it_will_not_fit(monkeypatch, inplace, numbers):
    blobs = Blobs()
    n = sum(parameter.numel() for parameter in blobs.model.parameters())
    options = {"group_size": 1, "inplace": inplace}
    monkeypatch.setattr(memory, "available", lambda device: int(4 * (numbers - 0.1) * n))
    with pytest.raises(OutOfMemoryError, match="the plan of edits"):
        pf.unlearn(blobs.model, Unread(), Unread(), **options)
    monkeypatch.setattr(memory, "available", lambda device: int(4 * (numbers + 0.1) * n) + 200_000)
    assert pf.unlearn(blobs.model, blobs.retain(), blobs.forget(), **options).reason


def test_a_pass_says_before_any_work_that_its_sums_will_not_fit(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda device: 1000)
    with pytest.raises(OutOfMemoryError, match="the sums"):
        pf.importance(net(), Unread(), group_size=1)


def test_a_piece_that_fits_is_not_cut():
    seen: list[int] = []
    micro = MicroBatches(lambda chunk: seen.append(len(chunk.inputs)), list, CPU)
    for inputs in (torch.ones(3, 2), torch.ones(200, 2), torch.ones(1000, 2)):
        micro.add(Chunk(inputs, None, len(inputs), True))
    assert seen == [3, 3, 3, 6, 200, 1000]
