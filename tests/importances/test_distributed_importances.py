"""Importances on several processes: the sums, counts and groups of one, each sample once, errors on all ranks."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, RandomSampler, TensorDataset, default_collate
from torch.utils.data.distributed import DistributedSampler

import potion_fast as pf
from helpers.processes import SLOWEST, in_processes
from helpers.toys import batches, net, samples
from potion_fast.distributed import ShareSampler
from potion_fast.errors import FileError, ImportanceError, PotionError
from potion_fast.importances.checkpoints import FILE_KEY
from potion_fast.utils.checksummed import load_checksummed, save_checksummed

pytestmark = pytest.mark.usefixtures("one_thread")
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-13}


def data(n: int, dtype: torch.dtype = torch.float32) -> TensorDataset:
    return TensorDataset(*samples(n, dtype=dtype))


def loader_of(dataset: TensorDataset, size: int = 4, **options: object) -> DataLoader:
    return DataLoader(dataset, size, sampler=ShareSampler(dataset), **options)


def assert_sums_of(got: pf.Importance, want: pf.Importance) -> None:
    """The same counts, and every parameter's sums to the tolerance of its norm."""
    assert (got.samples, got.terms, got.fingerprint) == (want.samples, want.terms, want.fingerprint)
    assert got.sums.dtype == want.sums.dtype and got.shapes == want.shapes
    for name, part in want.parts():
        error = torch.linalg.vector_norm(got.sums[part] - want.sums[part])
        assert error <= TOLERANCE[want.sums.dtype] * torch.linalg.vector_norm(want.sums[part]), f"{name}: {error}"


def assert_all_same_bits(results: list[pf.Importance]) -> None:
    for other in results[1:]:
        assert torch.equal(other.sums, results[0].sums) and (other.samples, other.terms) == (
            results[0].samples,
            results[0].terms,
        )


def shared_pass(n: int, dtype: torch.dtype, ddp: bool, objective: object, group_size: object) -> list[pf.Importance]:
    model = net(dtype=dtype)
    model = DistributedDataParallel(model, find_unused_parameters=True) if ddp else model
    result = pf.importance(model, loader_of(data(n, dtype)), objective, group_size=group_size, dtype=dtype)
    return result if isinstance(result, list) else [result]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("n", [3, 26])  # on four ranks the first leaves one without a sample
def test_ranks_together_give_what_one_process_gives(tmp_path, ranks, n, dtype):
    want = pf.importance(
        net(dtype=dtype), batches(*samples(n, dtype=dtype), 4), ["xlf", "lf", "ssd"], group_size=1, dtype=dtype
    )
    got = in_processes(ranks, shared_pass, n, dtype, False, ["xlf", "lf", "ssd"], 1, folder=tmp_path)
    for k, one in enumerate(want):
        assert_all_same_bits([results[k] for results in got])
        assert_sums_of(got[0][k], one)


@pytest.mark.parametrize("group_size", [3, 5, "batch"])
def test_groups_are_those_of_one_process(tmp_path, group_size):
    """26 samples of groups of 5 leave a smaller one at the end, which is the last rank's."""
    loader = batches(*samples(26, dtype=torch.float64), 4)
    want = pf.importance(net(dtype=torch.float64), loader, "ssd", group_size=group_size, dtype=torch.float64)
    got = in_processes(4, shared_pass, 26, torch.float64, False, "ssd", group_size, folder=tmp_path)
    assert_all_same_bits([results[0] for results in got])
    assert_sums_of(got[0][0], want)


def test_distributed_data_parallel_is_unwrapped(tmp_path):
    plain = in_processes(2, shared_pass, 13, torch.float32, False, None, 1, folder=tmp_path)
    wrapped = in_processes(2, shared_pass, 13, torch.float32, True, None, 1, folder=tmp_path)
    assert wrapped[0][0].shapes == plain[0][0].shapes
    assert_all_same_bits([plain[0][0], *(results[0] for results in wrapped)])


def bytes_sent() -> tuple[int, int]:
    """What the operating system saw this process write during a pass, and 4 bytes for each of the parameters."""
    model = nn.Linear(2**9, 2**11)
    loader = loader_of(TensorDataset(torch.randn(8, 2**9), torch.zeros(8, dtype=torch.int64)))
    counted = Path("/proc/self/io")
    before = int(counted.read_text().split("wchar: ")[1].split()[0])
    pf.importance(model, loader, group_size=1)
    after = int(counted.read_text().split("wchar: ")[1].split()[0])
    return after - before, 4 * sum(p.numel() for p in model.parameters())


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="Linux counts what a process sends")
@pytest.mark.parametrize("ranks", [2, 4])
def test_a_rank_sends_the_sums_once_around(tmp_path, ranks):
    for sent, weights in in_processes(ranks, bytes_sent, folder=tmp_path):
        print(f"{ranks} ranks: {sent} bytes sent, {sent / weights:.3f} x 4 P")
        assert 2 * (1 - 1 / ranks) * weights <= sent <= 2.1 * weights


def kinds_of_loader() -> list[object]:
    """What each way to tell a share gives: samples, or the error's words."""
    even, odd, model, world = data(8), data(9), net(), dist.group.WORLD
    own = batches(*samples(4, seed=dist.get_rank()), 2)
    part = dist.new_group([0])
    shuffled = RandomSampler(odd, generator=torch.Generator().manual_seed(dist.get_rank() + 7))

    def samples_of(loader: object, **options: object) -> object:
        try:
            return pf.importance(model, loader, **{"group_size": 1, **options}).samples
        except PotionError as error:
            return f"{type(error).__name__}: {error}"

    return [
        samples_of(own),
        samples_of(own, process_group=False),
        samples_of(own, process_group=world),
        samples_of(DataLoader(even, 3, sampler=DistributedSampler(even, shuffle=False))),
        samples_of(DataLoader(odd, 3, sampler=DistributedSampler(odd))),
        samples_of(DataLoader(odd, 3, sampler=DistributedSampler(odd, drop_last=True))),
        samples_of(loader_of(odd), process_group=False),
        samples_of(loader_of(odd, size=2, drop_last=True)),
        samples_of(DataLoader(odd, 2, sampler=ShareSampler(shuffled))),
        samples_of(loader_of(even), process_group=part),
        samples_of(own, process_group=part),
        samples_of([], process_group=world),
        samples_of(loader_of(even), group_size=dist.get_rank() + 1),
    ]


def test_a_share_is_recognised_by_the_sampler_or_the_process_group(tmp_path):
    first, second = in_processes(2, kinds_of_loader, folder=tmp_path)
    wanted = [
        ("ImportanceError: torch.distributed runs on 2 ranks", None),
        (4, None),
        (8, None),
        (8, None),
        ("DataError: the loader's DistributedSampler repeats samples: 10 on 2 ranks for 9; use potion_fast", None),
        ("DataError: the loader's DistributedSampler drops samples: 8 on 2 ranks for 9", None),
        (4, 5),
        ("DataError: rank 1: the loader gave 4 of the 5", "DataError: the loader gave 4 of the 5"),
        ("ImportanceError: the ranks do not compute the same: samples is 9, CRC-32", None),
        ("DataError: the loader's ShareSampler shares among another group", "ImportanceError: this process is not in"),
        (4, "ImportanceError: this process is not in the group"),
        ("DataError: the loader gave no samples", None),
        ("ImportanceError: the ranks do not compute the same: group size is 1 on rank 0 and 2 on rank 1", None),
    ]
    for got, want in zip(zip(first, second, strict=True), wanted, strict=True):
        for one, words in zip(got, (want[0], want[0] if want[1] is None else want[1]), strict=True):
            assert one == words if isinstance(words, int) else str(one).startswith(words), (one, words)


def failing(bad: int, folder: str) -> tuple[str, float]:
    """Rank `bad` meets a sample that is not finite; the others' are well."""
    inputs, labels = samples(24)
    if dist.get_rank() == bad:
        inputs[:] = torch.nan
    start = time.monotonic()
    with pytest.raises(PotionError) as caught:
        pf.importance(net(), loader_of(TensorDataset(inputs, labels)), group_size=1, checkpoint=Path(folder) / "pass")
    return f"{type(caught.value).__name__}: {caught.value}", time.monotonic() - start


def test_an_error_on_one_rank_is_raised_on_all(tmp_path):
    results = in_processes(3, failing, 1, str(tmp_path), folder=tmp_path)
    words = "the loss of sample 0 is nan; look for bad inputs or weights"
    others = f"ImportanceError: rank 1: {words}"
    assert [text for text, _ in results] == [others, f"ImportanceError: {words}", others]
    assert max(seconds for _, seconds in results) < SLOWEST
    assert sorted(path.name for path in tmp_path.glob("pass*")) == ["pass.rank0", "pass.rank2"]


class Dying(TensorDataset):
    """Kills its process over one of its samples."""

    last = -1

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        if index == self.last:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def kept_pass(folder: str, n: int, die_at: int, options: dict[str, object]) -> tuple[pf.Importance, int] | str:
    """A pass with checkpoints after every batch of 2; the rank that reads a certain sample dies of it.

    Returns the importances and how many samples were read here, or an error's words.
    """
    dtype = options.get("dtype", torch.float32)
    dataset = Dying(*samples(n, dtype=dtype))
    dataset.last = die_at
    loader, read = loader_of(dataset, 2, collate_fn=lambda rows: read.append(len(rows)) or default_collate(rows)), []
    try:
        result = pf.importance(
            net(dtype=dtype),
            loader,
            checkpoint=Path(folder) / "pass",
            checkpoint_seconds=0,
            resume=True,
            **{"group_size": 1, **options},
        )
    except PotionError as error:
        return str(error)
    return result, sum(read)


@pytest.mark.parametrize("options", [{}, {"dtype": torch.float64, "group_size": 3, "objective": "ssd"}], ids=str)
def test_a_pass_killed_on_four_processes_ends_on_three(tmp_path, options):
    n, dtype = 43, options.get("dtype", torch.float32)
    want = pf.importance(net(dtype=dtype), batches(*samples(n, dtype=dtype), 2), **{"group_size": 1, **options})
    lost = in_processes(4, kept_pass, str(tmp_path), n, 17, options, folder=tmp_path, killed=[1])
    assert all("one may be lost; start again, with resume=True" in error for r, error in enumerate(lost) if r != 1)
    kept = sorted(path.name for path in tmp_path.glob("pass*"))
    assert kept == [f"pass.rank{rank}" for rank in range(4)]
    files = {path: path.read_bytes() for path in tmp_path.glob("pass*")}
    again = in_processes(3, kept_pass, str(tmp_path), n, 17, options, folder=tmp_path, killed=[1])
    assert again[1] is None and all("one may be lost" in again[rank] for rank in (0, 2))
    for path in files.keys() - set(tmp_path.glob("pass*")):
        path.write_bytes(files[path])  # as by a process that is killed before it removes what it took over
    ended = in_processes(3, kept_pass, str(tmp_path), n, -1, options, folder=tmp_path)
    results, read = zip(*ended, strict=True)
    assert 0 < sum(read) < n / 4  # of a rank's share, what was not done
    assert_all_same_bits(list(results))
    assert_sums_of(results[0], want)
    assert not list(tmp_path.glob("pass*"))


def interrupted(path: Path, count: int, **options: object) -> None:
    """A pass by one process that ends over sample 5 of the 9."""
    dataset = data(9)

    def collate(rows: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        nonlocal count
        count -= 1
        if count < 0:
            raise OSError("the disk is gone")
        return default_collate(rows)

    with pytest.raises(OSError, match="the disk is gone"):
        pf.importance(net(), loader_of(dataset, 2, collate_fn=collate), checkpoint=path, **{"group_size": 1, **options})


def test_one_process_resumes_from_files_of_ranks(tmp_path):
    path, rank = tmp_path / "pass", tmp_path / "pass.rank0"
    want = pf.importance(net(), loader_of(data(9), 2), group_size=1)
    interrupted(path, 3)
    assert rank.exists() and not path.exists()
    rank.rename(tmp_path / "pass.rank7")
    assert_sums_of(pf.importance(net(), loader_of(data(9), 3), group_size=1, checkpoint=path, resume=True), want)
    assert not list(tmp_path.iterdir())


def test_without_resume_what_was_kept_is_removed(tmp_path):
    path = tmp_path / "pass"
    interrupted(path, 3)
    (tmp_path / "pass.rank0").rename(tmp_path / "pass.rank7")
    interrupted(path, 0)
    assert not list(tmp_path.iterdir())


def test_files_that_do_not_belong_together_are_an_error(tmp_path):
    path, rank = tmp_path / "pass", tmp_path / "pass.rank0"
    interrupted(path, 3)
    with pytest.raises(ImportanceError, match="its samples was 9 in their order and is 8"):
        pf.importance(net(), loader_of(data(8), 2), group_size=1, checkpoint=path, resume=True)
    content, sums = load_checksummed(rank, FILE_KEY, "interrupted pass")
    assert content["done"] == [[0, 6]] and content["terms"] == 6
    for done, terms, words in (
        ([[5, 8]], 3, "the sample 5 of the order comes twice"),
        ([[8, 10]], 2, "it is damaged"),
        ([[4, 2]], 0, "it is damaged"),
        ([[6, 8]], 3, "it is damaged"),
        (None, 0, "it is damaged"),
    ):
        save_checksummed(tmp_path / "pass.rank1", FILE_KEY, {**content, "done": done, "terms": terms}, sums)
        with pytest.raises(FileError, match=words):
            pf.importance(net(), loader_of(data(9), 2), group_size=1, checkpoint=path, resume=True)
    (tmp_path / "pass.rank1").unlink()
    rank.write_bytes(rank.read_bytes()[:-5])
    with pytest.raises(FileError, match="truncated"):
        pf.importance(net(), loader_of(data(9), 2), group_size=1, checkpoint=path, resume=True)
