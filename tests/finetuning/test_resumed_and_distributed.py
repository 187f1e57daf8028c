"""Fine-tuning that was interrupted, and that several processes share: the same bits as in one go."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from helpers.processes import in_processes
from helpers.toys import Blobs
from potion_fast.errors import DataError, FileError
from potion_fast.finetuning import finetune
from potion_fast.finetuning.checkpoint import FILE_KEY
from potion_fast.finetuning.steps import Steps
from potion_fast.utils.checksummed import load_checksummed

pytestmark = pytest.mark.usefixtures("one_thread")


class StoppedError(Exception):
    pass


class Stopping(TensorDataset):
    """Adds noise, as augmentation does, and fails once so many samples were read; None for never."""

    def __init__(self, blobs, after=None):
        super().__init__(blobs.inputs, blobs.labels)
        self.after, self.reads = after, 0

    def __getitem__(self, index):
        self.reads += 1
        if self.after is not None and self.reads > self.after:
            raise StoppedError
        x, y = super().__getitem__(index)
        return x + 0.05 * torch.randn(12), y


@pytest.fixture(scope="module")
def blobs() -> Blobs:
    return Blobs(n=400, poisoned=60)


def tuned(blobs, train_set, model=None, **options):
    model = blobs.model if model is None else model
    options = {"found": range(10), "max_damage": 5.0, **options}
    return finetune(model, train_set, range(60), blobs.clean[:60], **options)


def weights(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


@pytest.mark.parametrize(("workers", "after"), [(0, 3), (0, 30), (0, 40), (0, 50), (1, 40)])
def test_a_resumed_one_gives_the_same_bits(blobs, tmp_path, monkeypatch, workers, after):
    """Stopped before the first checkpoint, and behind each of the others."""
    path, loader = tmp_path / "state.safetensors", DataLoader(Stopping(blobs), num_workers=workers)
    want = tuned(blobs, loader)
    step, done = Steps.step, []

    def stopping(self, *args):
        done.append(args)
        if len(done) > after:
            raise StoppedError
        return step(self, *args)

    with monkeypatch.context() as patched, pytest.raises(StoppedError):
        patched.setattr(Steps, "step", stopping)
        tuned(blobs, loader, checkpoint=path)
    assert path.exists() == (after > 3)
    got = tuned(blobs, loader, checkpoint=path, resume=True)
    assert torch.equal(weights(got.model), weights(want.model))
    assert got.trace == want.trace and (got.kept, got.reason) == (want.kept, want.reason)
    assert got.cost.backward == want.cost.backward
    assert not path.exists()


def test_files_of_another_fine_tuning_damaged_or_foreign_are_refused(blobs, tmp_path):
    path = tmp_path / "state.safetensors"
    with pytest.raises(StoppedError):
        tuned(blobs, Stopping(blobs, 1900), checkpoint=path)
    content, tensors = load_checksummed(path, FILE_KEY, "interrupted fine-tuning")
    assert content["state"]["step"] > 0 and torch.isfinite(tensors["weights"]).all()
    json.dumps(content)
    with pytest.raises(DataError, match="its seed was 0 and is 1 now"):
        tuned(blobs, Stopping(blobs), checkpoint=path, resume=True, seed=1)
    other = Blobs(seed=1, n=400, poisoned=60)
    with pytest.raises(DataError, match="another fine-tuning"):
        tuned(blobs, Stopping(blobs), other.model, checkpoint=path, resume=True)
    damaged = bytearray(path.read_bytes())
    damaged[-100] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(FileError, match="damaged"):
        tuned(blobs, Stopping(blobs), checkpoint=path, resume=True)
    path.write_bytes(b"no file of ours")
    with pytest.raises(FileError, match="cannot be read"):
        tuned(blobs, Stopping(blobs), checkpoint=path, resume=True)
    with pytest.raises(FileError, match="does not exist"):
        tuned(blobs, Stopping(blobs), checkpoint=tmp_path / "nowhere" / "file")


def shared(ddp: bool, folder) -> tuple[torch.Tensor, list, int, torch.Tensor]:
    blobs = Blobs(n=400, poisoned=60)
    model = DistributedDataParallel(blobs.model) if ddp else blobs.model
    path = folder / "state.safetensors"
    torch.manual_seed(torch.distributed.get_rank())
    result = tuned(blobs, TensorDataset(blobs.inputs, blobs.labels), model, checkpoint=path)
    return weights(result.model), result.trace, result.cost.backward, torch.rand(2)


@pytest.mark.parametrize(("ranks", "ddp"), [(2, True), (3, False)])
def test_ranks_share_each_batch_and_end_with_the_same_bits(blobs, tmp_path, ranks, ddp):
    want = tuned(blobs, TensorDataset(blobs.inputs, blobs.labels))
    results = in_processes(ranks, shared, ddp, tmp_path, folder=tmp_path)
    for rank, (got, trace, backward, drawn) in enumerate(results):
        assert torch.equal(got, results[0][0]) and trace == results[0][1]
        torch.testing.assert_close(got, weights(want.model), rtol=1e-3, atol=1e-3)
        assert [entry.step for entry in trace] == [entry.step for entry in want.trace]
        assert backward == want.cost.backward
        torch.manual_seed(rank)
        assert torch.equal(drawn, torch.rand(2))
    assert not list(tmp_path.glob("*.safetensors"))


def resumed_together(folder) -> torch.Tensor:
    blobs = Blobs(n=400, poisoned=60)
    path = folder / "state.safetensors"
    whole = tuned(blobs, Stopping(blobs))
    with (
        pytest.raises(Exception, match="StoppedError") if torch.distributed.get_rank() else pytest.raises(StoppedError)
    ):
        tuned(blobs, Stopping(blobs, 1000 if torch.distributed.get_rank() == 0 else None), checkpoint=path)
    torch.distributed.barrier()
    again = tuned(blobs, Stopping(blobs), checkpoint=path, resume=True)
    return torch.stack([weights(whole.model), weights(again.model)])


def test_an_error_on_one_rank_is_raised_on_all_and_they_resume_together(tmp_path):
    one, other = in_processes(2, resumed_together, tmp_path, folder=tmp_path)
    assert torch.equal(one, other) and torch.equal(one[0], one[1])


def refused(folder) -> str:
    blobs = Blobs(n=400, poisoned=60)
    with pytest.raises(Exception, match="the ranks do not compute the same") as error:
        tuned(blobs, TensorDataset(blobs.inputs, blobs.labels), seed=torch.distributed.get_rank())
    return type(error.value).__name__


def test_ranks_with_other_seeds_are_refused(tmp_path):
    assert in_processes(2, refused, tmp_path, folder=tmp_path) == ["ImportanceError"] * 2
