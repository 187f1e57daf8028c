"""Loaders: the same values however they are read, by whom and how far ahead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from potion_fast.bench.attacks import BadNet
from potion_fast.bench.data import JpegSource, Loader, MemorySource, PoisonedDataset, Preprocessing, make_loader
from potion_fast.bench.data.dataset import RawBatch
from potion_fast.bench.data.loader import prefetch
from potion_fast.utils.batches import count_samples

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
N = 11


@pytest.fixture(params=["memory", "photographs"])
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> PoisonedDataset:
    """Augmented and poisoned, of images in memory or of photographs."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (N, 30, 40, 3), dtype=np.uint8)
    labels = torch.arange(N) % 3
    source: Any = MemorySource(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), labels)
    if request.param == "photographs":
        for index, image in enumerate(pixels):
            Image.fromarray(image).save(tmp_path / f"{index}.jpg")
        source = JpegSource(tmp_path, [f"{index}.jpg" for index in range(N)], labels, Preprocessing(size=24))
    return PoisonedDataset(
        source, MEAN, STD, augment=True, pad=3, flip=True, poison=BadNet(value=9.0, target=1), poisoned=[2, 6]
    )


def epochs(loader: Loader, seed: int = 0) -> list[list[tuple[torch.Tensor, torch.Tensor]]]:
    torch.manual_seed(seed)
    return [list(loader) for _ in range(2)]


def assert_same(one: Any, other: Any) -> None:
    for epoch, again in zip(one, other, strict=True):
        for (images, labels), (images_again, labels_again) in zip(epoch, again, strict=True):
            assert torch.equal(images, images_again) and torch.equal(labels, labels_again)


def test_values_and_order_do_not_depend_on_the_number_of_workers(dataset: PoisonedDataset):
    runs = [epochs(make_loader(dataset, batch_size=4, shuffle=True, seed=3, workers=workers)) for workers in (0, 1, 2)]
    assert_same(runs[0], runs[1])
    assert_same(runs[0], runs[2])
    first, second = (torch.cat([images for images, _ in epoch]) for epoch in runs[0])
    assert not torch.equal(first, second)


def test_augmentation_follows_the_global_seed_and_order_the_loader_s(dataset: PoisonedDataset):
    options: dict[str, Any] = {"batch_size": 4, "shuffle": True}
    runs = [
        epochs(make_loader(dataset, seed=seed, **options), number) for seed, number in ((3, 0), (3, 0), (3, 1), (4, 0))
    ]
    labels = [[label for _, labels in run[0] for label in labels.tolist()] for run in runs]
    assert_same(runs[0], runs[1])
    assert labels[0] == labels[2]
    assert not torch.equal(runs[0][0][0][0], runs[2][0][0][0])
    assert labels[0] != labels[3]


def test_a_loader_left_in_the_middle_starts_anew(dataset: PoisonedDataset):
    dataset.augment = False
    for workers in (0, 1):
        loader = make_loader(dataset, batch_size=2, shuffle=False, seed=0, workers=workers)
        next(iter(loader))
        assert torch.equal(torch.cat([labels for _, labels in loader]), dataset.labels)


def test_a_loader_gives_what_the_data_set_gives(dataset: PoisonedDataset):
    dataset.augment = False
    chosen = [6, 0, 10, 2]
    loader = make_loader(dataset, chosen, batch_size=3, shuffle=False, seed=0)
    images, labels = dataset.batch(chosen)
    assert torch.equal(torch.cat([images for images, _ in loader]), images)
    assert torch.equal(torch.cat([labels for _, labels in loader]), labels)
    assert (len(loader), len(loader.sampler), count_samples(loader)) == (2, 4, 4)


def test_a_data_loader_of_torch_reads_the_data_set_too(dataset: PoisonedDataset):
    dataset.augment = False
    batches = list(torch.utils.data.DataLoader(dataset, batch_size=4))
    assert torch.equal(torch.cat([images for images, _ in batches]), dataset.batch(range(N))[0])


class Recorder:
    """Finishes batches on the CPU and writes down what was asked of it."""

    def __init__(self, dataset: PoisonedDataset) -> None:
        self.dataset, self.log = dataset, []

    def submit(self, raw: RawBatch) -> tuple[int, Any]:
        number = len([entry for entry in self.log if entry[0] == "submit"])
        self.log.append(("submit", number))
        return number, self.dataset.finish(raw)

    def result(self, pending: tuple[int, Any]) -> Any:
        self.log.append(("result", pending[0]))
        return pending[1]


def test_prefetching_gives_the_same_values_and_submits_a_batch_before_the_one_before_is_used(
    dataset: PoisonedDataset,
):
    loader = make_loader(dataset, batch_size=4, shuffle=True, seed=3)
    plain = epochs(loader)
    recorder = Recorder(dataset)
    loader = make_loader(dataset, batch_size=4, shuffle=True, seed=3)
    torch.manual_seed(0)
    ahead = [list(prefetch(loader._raw_batches(), recorder)) for _ in range(2)]
    assert_same(plain, ahead)
    steps = [("submit", 0), ("submit", 1), ("result", 0), ("submit", 2), ("result", 1), ("result", 2)]
    assert recorder.log[:6] == steps
    assert list(prefetch([], recorder)) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_on_a_gpu_are_those_on_the_cpu(dataset: PoisonedDataset, workers: int):
    options: dict[str, Any] = {"batch_size": 4, "shuffle": True, "seed": 3, "workers": workers}
    on_cpu = epochs(make_loader(dataset, **options))
    on_gpu = epochs(make_loader(dataset, **options, device="cuda"))
    for epoch, again in zip(on_cpu, on_gpu, strict=True):
        for (images, labels), (images_again, labels_again) in zip(epoch, again, strict=True):
            assert images_again.is_cuda
            torch.testing.assert_close(images_again.cpu(), images, rtol=1e-6, atol=1e-6)
            assert torch.equal(labels_again.cpu(), labels)
