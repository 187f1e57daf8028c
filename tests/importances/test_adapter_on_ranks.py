"""Dict batches on several ranks, of models that are whole and of models that FSDP2 has sharded."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, Dataset

import potion_fast as pf
from helpers.processes import in_processes
from potion_fast.distributed import ShareSampler
from potion_fast.distributed.fsdp import local
from potion_fast.errors import DataError

pytestmark = pytest.mark.usefixtures("one_thread")

SAMPLES, CLASSES = 13, 3


class Samples(Dataset):
    """A float and a whole-number input to a sample, with labels from `first` on in the second half."""

    def __init__(self, first: int = 0) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(SAMPLES, 4, generator=generator, dtype=torch.float64)
        self.ids = torch.randint(0, 10, (SAMPLES, 5), generator=generator)
        self.labels = torch.arange(SAMPLES) % CLASSES
        self.labels[SAMPLES // 2 :] += first

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, k: int) -> dict[str, torch.Tensor]:
        return {"x": self.x[k], "ids": self.ids[k], "labels": self.labels[k]}


class Mixed(nn.Module):
    """Gives its logits in a dict."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.first, self.head = nn.Embedding(10, 6), nn.Linear(4, 6), nn.Linear(6, CLASSES)
        self.double()

    def forward(self, ids: torch.Tensor, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.head(torch.tanh(self.first(x) + self.words(ids).mean(1)))}


def on_a_rank(sharded: bool, objective: str, group_size: int | str) -> tuple[dict[str, torch.Tensor], int]:
    """What this rank holds of the importances."""
    model, dataset = Mixed(), Samples()
    if sharded:
        fully_shard(model.first)
        fully_shard(model)
    loader = DataLoader(dataset, 4, sampler=ShareSampler(dataset))
    got = pf.importance(model, loader, objective, group_size=group_size, dtype=torch.float64)
    return {name: got[name] for name in got.shapes}, got.samples


@pytest.mark.parametrize("sharded", [False, True], ids=["whole", "fsdp"])
@pytest.mark.parametrize(("objective", "group_size"), [("ssd", 1), ("xlf", 3)])
def test_dicts_on_two_ranks_give_what_one_process_gives(tmp_path, objective, group_size, sharded):
    dataset = Samples()
    want = pf.importance(Mixed(), DataLoader(dataset, 4), objective, group_size=group_size, dtype=torch.float64)
    results = in_processes(2, on_a_rank, sharded, objective, group_size, folder=tmp_path)
    for name in want.shapes:
        whole = torch.cat([held[name] for held, _ in results]) if sharded else results[0][0][name]
        torch.testing.assert_close(whole, want[name], rtol=1e-10, atol=1e-14)
    assert {samples for _, samples in results} == {SAMPLES}


def refused(sharded: bool) -> str:
    """The error where one rank's labels count from 1."""
    model, dataset = Mixed(), Samples(first=1)
    if sharded:
        fully_shard(model)
    held = {name: local(parameter).clone() for name, parameter in model.named_parameters()}
    with pytest.raises(DataError) as caught:
        pf.importance(model, DataLoader(dataset, 4, sampler=ShareSampler(dataset)), "ssd", group_size=1)
    dist.barrier()
    model_unchanged = all(torch.equal(local(p), held[name]) for name, p in model.named_parameters())
    return str(caught.value) if model_unchanged else "the model was changed"


@pytest.mark.parametrize("sharded", [False, True], ids=["whole", "fsdp"])
def test_labels_that_are_no_classes_on_one_rank_are_an_error_on_both(tmp_path, sharded):
    for said in in_processes(2, refused, sharded, folder=tmp_path):
        assert "labels count from 0; found 3 with 3 outputs" in said
