"""Perturbations: the table, who is perturbed, and that a perturbation is cropped and flipped with its image."""

from __future__ import annotations

from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy import stats

from potion_fast.bench.attacks import (
    ATTACKS,
    Gaussian,
    GradientCanceling,
    GradientMatching,
    Perturbation,
    Perturbations,
)
from potion_fast.bench.attacks.perturbation import FILE_KEY, TENSORS
from potion_fast.bench.data import (
    AppendedSource,
    JpegSource,
    MemorySource,
    PoisonedDataset,
    Preprocessing,
    make_loader,
    normalise,
)
from potion_fast.errors import DataError, FileError
from potion_fast.user.crops import border, crop, draw_crops

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
N, SHAPE = 24, (3, 6, 8)
POISONED = [1, 5, 11, 20]


def source() -> MemorySource:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (N, *SHAPE), dtype=torch.uint8, generator=generator)
    return MemorySource(pixels, torch.arange(N) % 4)


def table(ids: list[int] = POISONED, **more: Any) -> Perturbations:
    generator = torch.Generator().manual_seed(1)
    return Perturbations(torch.tensor(ids), torch.randn(len(ids), *SHAPE, generator=generator), **more)


def dataset(poison: Perturbation | None, augment: bool = True, pad: int = 2, flip: bool = True) -> PoisonedDataset:
    chosen = None if poison is None else POISONED
    return PoisonedDataset(source(), MEAN, STD, augment=augment, pad=pad, flip=flip, poison=poison, poisoned=chosen)


# The table


def test_a_table_is_read_as_it_was_written(tmp_path: Path):
    fields = {
        "targets": torch.tensor([7, 3]),
        "intended": torch.tensor([0, 2]),
        "facts": {"epsilon": 16.0, "by": ["a"]},
    }
    written = table(**fields)
    written.save(tmp_path / "t.safetensors")
    read = Perturbations.load(tmp_path / "t.safetensors")
    assert all(torch.equal(getattr(read, name), getattr(written, name)) for name in TENSORS)
    assert read.facts == written.facts
    assert [path.name for path in tmp_path.iterdir()] == ["t.safetensors"]
    table().save(tmp_path / "u.safetensors")
    assert Perturbations.load(tmp_path / "u.safetensors").targets.tolist() == []


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
def test_a_table_is_mapped_and_not_read_into_memory(tmp_path: Path):
    table().save(tmp_path / "t.safetensors")
    read = Perturbations.load(tmp_path / "t.safetensors")
    start = read.values.data_ptr()
    maps = Path("/proc/self/maps").read_text().splitlines()
    ranges = [line.split()[0].split("-") for line in maps if "t.safetensors" in line]
    assert any(int(low, 16) <= start < int(high, 16) for low, high in ranges)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ids": torch.tensor([1, 5, 20, 11])}, "ascend"),
        ({"ids": torch.tensor([1, 5, 5, 11])}, "ascend"),
        ({"ids": torch.tensor([-1, 5, 7, 11])}, "ids of perturbations must be int64 in one dimension, from 0"),
        ({"ids": torch.tensor([1, 5, 7, 11], dtype=torch.int32)}, "int32"),
        ({"ids": torch.tensor([1, 5, 7])}, "perturbations of 3 samples"),
        ({"values": torch.zeros(4)}, r"float32 \[4\]"),
        ({"values": torch.zeros(4, *SHAPE, dtype=torch.float64)}, "float64"),
        ({"values": torch.full((4, *SHAPE), torch.nan)}, "finite"),
        ({"values": torch.full((4, *SHAPE), -torch.inf)}, "finite"),
        ({"targets": torch.tensor([1])}, "1 targets need as many intended labels, not 0"),
        ({"intended": torch.tensor([[1]])}, "intended of perturbations"),
        ({"ids": torch.empty(0, dtype=torch.int64), "values": torch.empty(0, *SHAPE)}, "at least one sample"),
    ],
)
def test_what_is_no_table_is_refused_here_and_in_a_file(change: dict[str, Any], words: str, tmp_path: Path):
    good = {name: getattr(table(), name) for name in TENSORS}
    with pytest.raises(DataError, match=words):
        Perturbations(**{**good, **change})
    save_file({**good, **change}, tmp_path / "t.safetensors", {FILE_KEY: "{}"})
    with pytest.raises(FileError, match=words):
        Perturbations.load(tmp_path / "t.safetensors")


def test_foreign_truncated_and_missing_files_are_refused(tmp_path: Path):
    path = tmp_path / "t.safetensors"
    with pytest.raises(FileError, match="no perturbations at"):
        Perturbations.load(path)
    table().save(path)
    whole = path.read_bytes()
    for part in (whole[:-8], whole[:20], b"", b"{}"):
        path.write_bytes(part)
        with pytest.raises(FileError, match="truncated"):
            Perturbations.load(path)
    save_file({"sums": torch.zeros(3)}, path, {"potion_fast.importance": "{}"})
    with pytest.raises(FileError, match="holds no perturbations"):
        Perturbations.load(path)
    for metadata, tensors in (("{", {"ids": torch.tensor([1])}), ("{}", {"ids": torch.tensor([1])})):
        save_file(tensors, path, {FILE_KEY: metadata})
        with pytest.raises(FileError, match="cannot be read"):
            Perturbations.load(path)


def test_an_id_that_is_not_in_the_table_is_named():
    assert table().rows(torch.tensor([20, 1, 20])).tolist() == [3, 0, 3]
    for missing in (0, 6, 21):
        with pytest.raises(DataError, match=f"no perturbation for sample {missing}"):
            table().rows(torch.tensor([5, missing]))


# What the poisons are


@pytest.mark.parametrize("name", ["gaussian", "gradient-matching", "gradient-canceling"])
def test_a_perturbation_adds_its_rows_and_keeps_the_labels(name: str):
    poison = ATTACKS[name](table=table())
    images = torch.randn(3, *SHAPE)
    ids = torch.tensor([11, 1, 11])
    before = images.clone()
    assert torch.equal(poison(images, ids), before + table().values[[2, 0, 2]])
    assert torch.equal(images, before)  # a copy
    labels = torch.tensor([3, 1, 2])
    assert torch.equal(poison.relabel(labels, ids), labels)
    assert poison.before_augmentation and poison.target is None and poison.at_test() is poison
    with pytest.raises(DataError, match="perturbations 3x6x8 do not fit images 3x8x6"):
        poison(images.transpose(2, 3), ids)


@pytest.mark.parametrize(
    ("name", "words"), [("gaussian", "draw them"), ("gradient-matching", "craft"), ("gradient-canceling", "craft")]
)
def test_without_a_table_the_error_says_how_to_get_one(name: str, words: str):
    with pytest.raises(DataError, match=f"no perturbations yet: {words}"):
        ATTACKS[name]()(torch.zeros(1, *SHAPE), torch.tensor([1]))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gaussian", {"variance": 0.0}),
        ("gaussian", {"variance": float("inf")}),
        ("gradient-matching", {"epsilon": 0.0}),
        ("gradient-matching", {"targets": 0}),
        ("gradient-matching", {"target_class": 2, "intended_class": 2}),
        ("gradient-canceling", {"epsilon": -1.0}),
        ("gradient-canceling", {"placement": "insert"}),
    ],
)
def test_impossible_perturbations_are_refused(name: str, options: dict[str, Any]):
    with pytest.raises(DataError):
        ATTACKS[name](**options)


def test_kinds_and_scores_state_how_an_attack_is_judged():
    kinds = {
        "badnet": "trigger",
        "blended": "trigger",
        "moving-trigger": "trigger",
        "sine-wave": "trigger",
        "interclass-swap": "swap",
        "random-swap": "swap",
        "gaussian": "gaussian",
        "gradient-matching": "targeted",
        "trigger-word": "targeted",
        "gradient-canceling": "indiscriminate",
    }
    assert {name: ATTACKS[name].kind for name in kinds} == kinds
    assert Gaussian.score_names == ("base_accuracy", "gus")
    assert GradientMatching.score_names == ("target_accuracy", "target_success")
    assert GradientCanceling.score_names == ("clean_accuracy", "test_error")


# Gaussian noise


def test_noise_is_normal_with_the_variance_asked_for():
    values = Gaussian(variance=0.32).draw(range(40), (3, 16, 16), 3).values.flatten()
    assert stats.kstest((values / 0.32**0.5).numpy(), "norm").pvalue > 0.01
    assert values.double().var().item() == pytest.approx(0.32, rel=4 * (2 / len(values)) ** 0.5)


def test_noise_of_a_sample_depends_on_its_id_and_the_seed_alone():
    poison = Gaussian()
    whole = poison.draw(range(30), SHAPE, 5)
    part = poison.draw(torch.tensor([20, 4, 11]), SHAPE, 5)
    assert part.ids.tolist() == [4, 11, 20]
    assert torch.equal(part.values, whole.values[[4, 11, 20]])
    assert part.facts == {"variance": 0.32, "seed": 5}
    assert not (poison.draw(range(30), SHAPE, 6).values == whole.values).any()
    assert len(whole.values.flatten(1).unique(dim=0)) == 30
    louder = Gaussian(variance=4 * 0.32).draw(range(30), SHAPE, 5)
    torch.testing.assert_close(louder.values, 2 * whole.values)


def test_seeds_and_ids_far_apart_have_streams_of_their_own():
    """32 bits, as torch's CPU generator keeps of a seed, would not tell these apart."""
    one, other = (Gaussian().draw([7], SHAPE, seed).values for seed in (1, 1 + 2**32))
    assert not torch.equal(one, other)


# Who is perturbed by gradient matching


def test_gradient_matching_poisons_its_intended_class_only():
    labels = torch.arange(200) % 5
    poisoned, found = GradientMatching(intended_class=3).choose(labels, 20, 8, seed=1)
    assert (labels[poisoned] == 3).all() and len(set(poisoned.tolist())) == 20
    assert set(found.tolist()) < set(poisoned.tolist()) and len(set(found.tolist())) == 8
    more, _ = GradientMatching(intended_class=3).choose(labels, 30, 8, seed=1)
    assert set(poisoned.tolist()) < set(more.tolist())
    _, intended = GradientMatching().classes(labels, 1)
    drawn, _ = GradientMatching().choose(labels, 20, 8, seed=1)
    assert (labels[drawn] == intended).all()


def test_classes_are_drawn_by_the_seed_and_differ():
    labels = torch.arange(200) % 5
    pairs = [GradientMatching().classes(labels, seed) for seed in range(60)]
    assert pairs[0] == GradientMatching().classes(labels, 0)
    assert all(target != intended for target, intended in pairs)
    assert {target for target, _ in pairs} == {intended for _, intended in pairs} == set(range(5))
    for seed in range(20):
        target, intended = GradientMatching(target_class=2).classes(labels, seed)
        assert target == 2 != intended
        target, intended = GradientMatching(intended_class=2).classes(labels, seed)
        assert intended == 2 != target
    assert GradientMatching(target_class=4, intended_class=0).classes(labels, 0) == (4, 0)


@pytest.mark.parametrize(
    ("options", "labels", "count", "words"),
    [
        ({"intended_class": 1}, [0, 1, 0, 1], 3, "class 1 has 2 training samples; 3 are to be poisoned"),
        ({"target_class": 7}, [0, 1, 0, 1], 1, "no training sample has the label 7"),
        ({}, [1, 1, 1], 1, "needs two classes"),
        ({}, [0, 1, 0, 1], 0, "cannot find 1 of 0"),
    ],
)
def test_impossible_choices_are_refused(options: dict[str, Any], labels: list[int], count: int, words: str):
    with pytest.raises(DataError, match=words):
        GradientMatching(**options).choose(torch.tensor(labels), count, 1, seed=0)


# In a data set


@pytest.mark.parametrize(("pad", "flip"), [(2, True), (2, False), (0, True), (0, False)])
def test_a_perturbation_is_cropped_and_flipped_with_its_image(pad: int, flip: bool):
    poison = Gaussian(table=table())
    torch.manual_seed(0)
    images, labels = dataset(poison, pad=pad, flip=flip).batch(range(N))
    torch.manual_seed(0)
    crops = draw_crops(N, pad, flip)
    delta = torch.zeros(N, *SHAPE)
    delta[POISONED] = table().values
    frame = normalise(border(source().pixels, pad), MEAN, STD) + border(delta, pad)  # before it is cropped
    assert torch.equal(images, crop(frame, pad, crops))
    assert torch.equal(labels, source().labels)


def test_clean_images_are_bit_for_bit_those_without_poison():
    runs = []
    for poison in (None, Gaussian(table=table())):
        torch.manual_seed(0)
        data = dataset(poison)
        runs.append([data.batch(range(N))[0], data.batch(list(range(0, N, 2)))[0]])
    for clean, poisoned in zip(*runs, strict=True):
        changed = (clean != poisoned).flatten(1).any(dim=1)
        assert changed.any() and torch.equal(clean[~changed], poisoned[~changed])
    changed = (runs[0][0] != runs[1][0]).flatten(1).any(dim=1)
    assert changed.nonzero().flatten().tolist() == POISONED


def test_a_poisoned_image_is_the_same_at_every_visit_but_for_its_augmentation():
    poison = Gaussian(table=table())
    plain = dataset(poison, augment=False)
    assert torch.equal(plain.batch([5, 3])[0][0], plain.batch([20, 5])[0][1])
    clean = dataset(None, augment=False).batch([5])[0][0]
    torch.testing.assert_close(plain.batch([5])[0][0] - clean, table().values[1])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_gives_what_the_data_set_gives(workers: int, tmp_path: Path):
    table().save(tmp_path / "t.safetensors")
    data = dataset(Gaussian(table=Perturbations.load(tmp_path / "t.safetensors")))
    torch.manual_seed(3)
    loader = make_loader(data, batch_size=7, shuffle=False, seed=0, workers=workers)
    read = torch.cat([images for images, _ in loader])
    torch.manual_seed(3)
    again = torch.cat([data.batch(range(start, min(start + 7, N)))[0] for start in range(0, N, 7)])
    assert torch.equal(read, again)


def test_a_worker_process_gets_a_handle_of_the_table_and_no_copy():
    large = Perturbations(torch.arange(N), torch.zeros(N, 3, 64, 64))
    whole = PoisonedDataset(source(), MEAN, STD, poison=Gaussian(table=large), poisoned=range(N))
    assert len(ForkingPickler.dumps(whole)) < large.values.nbytes / 50


def test_random_parts_of_photographs_cannot_be_perturbed(tmp_path: Path):
    Image.fromarray(np.zeros((40, 30, 3), dtype=np.uint8)).save(tmp_path / "0.png")
    photographs = JpegSource(tmp_path, ["0.png"], torch.tensor([0]), Preprocessing(size=8))
    noise = Gaussian().draw([0], (3, 8, 8), 0)
    options: dict[str, Any] = {"poison": Gaussian(table=noise), "poisoned": [0]}
    with pytest.raises(DataError, match="of photographs a random part is cut"):
        PoisonedDataset(photographs, MEAN, STD, augment=True, **options)
    perturbed = PoisonedDataset(photographs, MEAN, STD, **options).batch([0])[0]
    clean = PoisonedDataset(photographs, MEAN, STD, augment=False).batch([0])[0]
    torch.testing.assert_close(perturbed - clean, noise.values)


def test_test_images_are_never_perturbed():
    with pytest.raises(DataError, match="perturbed one by one by this poison; it has no trigger"):
        PoisonedDataset(source(), MEAN, STD, poison=Gaussian(table=table()), trigger_all=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_images_are_perturbed_on_the_device_that_uses_them():
    batches = []
    for device in ("cpu", "cuda"):
        data = dataset(Gaussian(table=table()))
        torch.manual_seed(0)
        batches.append(data.finish(data.read(range(N)), device)[0])
    assert batches[1].is_cuda
    torch.testing.assert_close(batches[1].cpu(), batches[0], rtol=1e-6, atol=1e-6)


# Appended copies


def test_copies_come_after_the_images_that_they_are_of():
    appended = AppendedSource(source(), [5, 2, 5])
    assert len(appended) == N + 3 and appended.bases.tolist() == [5, 2, 5]
    assert torch.equal(appended.images(range(N)), source().pixels)
    assert torch.equal(appended.images([N + 1, 3, N, N + 2]), source().pixels[[2, 3, 5, 5]])
    assert torch.equal(appended.labels, torch.cat([source().labels, source().labels[[5, 2, 5]]]))
    for outside in (N, -1):
        with pytest.raises(DataError, match=f"the source has {N}"):
            AppendedSource(source(), [0, outside])


def test_appended_poison_leaves_the_images_it_was_made_of_clean():
    ids = [N, N + 1]
    poison = GradientCanceling(table=table(ids))
    data = PoisonedDataset(AppendedSource(source(), [5, 2]), MEAN, STD, poison=poison, poisoned=ids)
    images, _ = data.batch(range(N + 2))
    clean = normalise(source().pixels, MEAN, STD)
    assert torch.equal(images[:N], clean)
    assert torch.equal(images[N:], clean[[5, 2]] + table(ids).values)
