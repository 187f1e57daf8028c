"""Data sets, poisoned views of them, and loaders."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision.transforms import functional

from potion_fast.bench.attacks import BadNet
from potion_fast.bench.data import MemorySource, PoisonedDataset, load_dataset, make_loader
from potion_fast.bench.data.registry import CIFAR10_CLASSES
from potion_fast.bench.data.splits import CIFAR_MEAN, IMAGENET_MEAN
from potion_fast.errors import DataError
from potion_fast.user import image_source as sources_module
from potion_fast.user.crops import border, crop, draw_crops

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def random_source(n: int = 40, size: int = 8, channels: int = 3) -> MemorySource:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8, generator=generator)
    return MemorySource(pixels, torch.arange(n) % 10)


def write_image(path: Path, height: int = 10, width: int = 12, colour: tuple[int, ...] = (200, 100, 50)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), colour).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes; every image has a colour of its own."""
    for split, count in (("train", 3), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            for index in range(count):
                write_image(tmp_path / split / name / f"{index}.png", colour=(100 * label + index, 7, 200))
    return tmp_path


# Data sets


def test_digits_split_is_fixed_disjoint_and_complete():
    from sklearn.datasets import load_digits

    splits = load_dataset("digits")
    again = load_dataset("digits", seed=5)
    assert len(splits.train) + len(splits.test) == 1797
    assert 0.79 < len(splits.train) / 1797 < 0.81
    assert torch.equal(splits.train.images(range(50)), again.train.images(range(50)))

    # Together, the two splits hold each image of the original as often as it is there.
    both = torch.cat([split.images(range(len(split))) for split in (splits.train, splits.test)]).flatten(1)
    original = torch.from_numpy(np.round(load_digits().images * 255 / 16)).to(torch.uint8).flatten(1)
    assert sorted(both.tolist()) == sorted(original.tolist())
    for label in range(10):  # stratified
        share = (splits.test.labels == label).sum() / len(splits.test)
        assert share.item() == pytest.approx(0.1, abs=0.01)


def test_digits_are_normalised_with_their_own_statistics():
    splits = load_dataset("digits")
    images, _ = splits.dataset("train").batch(range(len(splits.train)))
    assert images.shape == (len(splits.train), 1, 8, 8)
    assert images.mean().item() == pytest.approx(0, abs=1e-3)
    assert images.std().item() == pytest.approx(1, abs=1e-3)


def test_train_size_keeps_the_order_of_the_data_set_and_follows_the_seed():
    full = load_dataset("digits").train
    part, same, other = (load_dataset("digits", train_size=100, seed=seed).train for seed in (3, 3, 4))
    assert len(part) == 100
    assert torch.equal(part.images(range(100)), same.images(range(100)))
    assert not torch.equal(part.images(range(100)), other.images(range(100)))
    positions = [
        next(i for i in range(len(full)) if torch.equal(full.images([i]), part.images([k]))) for k in range(0, 100, 9)
    ]
    assert positions == sorted(set(positions))


@pytest.mark.parametrize("train_size", [0, -1, 1439])
def test_train_size_out_of_range_is_refused(train_size: int):
    with pytest.raises(DataError, match="train_size"):
        load_dataset("digits", train_size=train_size)


def test_folder_images_keep_channel_order_size_and_labels(folder: Path):
    splits = load_dataset("folder", folder)
    assert (splits.classes, splits.size, splits.channels) == (("cat", "dog"), (10, 12), 3)
    assert splits.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert splits.train.labels.dtype == torch.int64
    images = splits.train.images([4, 0])
    assert images.shape == (2, 3, 10, 12)
    assert images[0, :, 0, 0].tolist() == [101, 7, 200]
    assert images[1, :, -1, -1].tolist() == [0, 7, 200]


def test_folder_subset_reads_only_the_chosen_files(folder: Path):
    for path in sorted((folder / "train").rglob("*.png")):
        if path.name != "1.png":
            path.write_bytes(b"broken")
    seeds = [seed for seed in range(200) if np.random.default_rng(seed).choice(6, 1)[0] in (1, 4)]
    assert len(load_dataset("folder", folder, train_size=1, seed=seeds[0]).train) == 1


def test_lazy_folder_gives_the_images_of_the_one_in_memory(folder: Path, monkeypatch: pytest.MonkeyPatch):
    in_memory = load_dataset("folder", folder).train
    monkeypatch.setattr(sources_module, "MEMORY_LIMIT", 0)
    lazy = load_dataset("folder", folder).train
    assert type(lazy) is not type(in_memory)
    assert torch.equal(lazy.images([5, 2, 2]), in_memory.images([5, 2, 2]))
    assert torch.equal(lazy.labels, in_memory.labels)
    part = load_dataset("folder", folder, train_size=2, seed=3).train
    for source in (lazy, in_memory):
        paths = [source.path(index) for index in range(6)]
        assert paths == [folder / "train" / name / f"{index}.png" for name in ("cat", "dog") for index in range(3)]
        for index in range(2):
            (row,) = (row for row in range(6) if torch.equal(source.images([row]), part.images([index])))
            assert part.path(index) == paths[row]


def test_threads_put_each_large_image_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for split in ("train", "test"):
        for index in range(7):
            write_image(tmp_path / split / "a" / f"{index}.png", 100, 100, colour=(index, 0, 0))
    assert load_dataset("folder", tmp_path).train.images(range(7))[:, 0, 50, 50].tolist() == list(range(7))


@pytest.mark.parametrize("limit", [2**31, 0])
def test_images_of_different_sizes_are_refused_while_loading(folder: Path, monkeypatch: pytest.MonkeyPatch, limit: int):
    monkeypatch.setattr(sources_module, "MEMORY_LIMIT", limit)
    write_image(folder / "train" / "dog" / "odd.png", 9, 12)
    with pytest.raises(DataError, match=r"odd\.png is 9x12.*image_size"):
        load_dataset("folder", folder)


def test_image_size_scales_the_shorter_side_and_crops_the_centre(folder: Path):
    stripes = np.zeros((20, 60, 3), dtype=np.uint8)  # red, green, blue, each 20 x 20
    for band in range(3):
        stripes[:, 20 * band : 20 * (band + 1), band] = 255
    Image.fromarray(stripes).save(folder / "train" / "cat" / "0.png")
    splits = load_dataset("folder", folder, image_size=10)
    assert splits.size == (10, 10)
    image = splits.train.images([0])[0]  # [3, 10, 10]
    assert image[:, 5, 5].tolist() == [0, 255, 0]
    assert image[1, :, 2:8].min() == 255


def test_grey_images_become_rgb(folder: Path):
    Image.new("L", (12, 10), 77).save(folder / "train" / "cat" / "0.png")
    assert load_dataset("folder", folder).train.images([0])[0, :, 3, 3].tolist() == [77, 77, 77]


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_truncated_image_is_named(folder: Path, suffix: str):
    noise = np.random.default_rng(0).integers(0, 256, (10, 12, 3), dtype=np.uint8)
    path = folder / "train" / "dog" / f"broken{suffix}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:-150])
    with pytest.raises(DataError, match=f"broken{suffix}"):
        load_dataset("folder", folder)


def test_a_file_that_is_no_image_is_named(folder: Path):
    (folder / "train" / "cat" / "0.png").write_text("no image")
    with pytest.raises(DataError, match=r"0\.png cannot be read"):
        load_dataset("folder", folder)


def test_classes_that_differ_between_the_splits_are_named(folder: Path):
    write_image(folder / "test" / "cow" / "0.png")
    with pytest.raises(DataError, match="different classes.*cow"):
        load_dataset("folder", folder)


def test_an_empty_class_folder_is_refused(folder: Path):
    (folder / "train" / "ant").mkdir()
    with pytest.raises(DataError, match="ant"):
        load_dataset("folder", folder)


def test_val_is_used_as_test(folder: Path):
    (folder / "test").rename(folder / "val")
    assert len(load_dataset("folder", folder).test) == 4
    (folder / "val").rename(folder / "other")
    with pytest.raises(DataError, match=r"test/ \(or val/\)"):
        load_dataset("folder", folder)


def test_root_comes_from_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("POTION_FAST_DATA", raising=False)
    with pytest.raises(DataError, match="POTION_FAST_DATA"):
        load_dataset("folder")
    monkeypatch.setenv("POTION_FAST_DATA", str(folder))
    assert len(load_dataset("folder").train) == 6
    with pytest.raises(DataError, match="nowhere"):
        load_dataset("folder", folder / "nowhere")


def test_unknown_data_set_lists_the_known_ones():
    with pytest.raises(DataError, match="digits, cifar10, cifar100, imagenette, imagenet, folder and module:factory"):
        load_dataset("mnist")


def test_image_size_is_not_for_data_sets_of_one_size(folder: Path):
    with pytest.raises(DataError, match="image_size"):
        load_dataset("digits", image_size=16)
    with pytest.raises(DataError, match="image_size"):
        load_dataset("folder", folder, image_size=0)


def test_normalisation_of_a_folder_depends_on_what_it_holds(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    assert load_dataset("folder", folder).mean == IMAGENET_MEAN
    cifar = tmp_path_factory.mktemp("cifar")
    for split in ("train", "test"):
        for name in CIFAR10_CLASSES:
            write_image(cifar / split / name / "0.png", 32, 32)
    assert load_dataset("folder", cifar).mean == CIFAR_MEAN
    assert load_dataset("folder", cifar).pad == 4
    assert load_dataset("folder", cifar, mean=(0.1, 0.2, 0.3)).mean == (0.1, 0.2, 0.3)


@pytest.mark.parametrize("options", [{"mean": (0.5,)}, {"std": (0.5, 0.5)}, {"std": (0.5, 0.0, 0.5)}])
def test_normalisation_that_does_not_fit_is_refused(folder: Path, options: dict[str, tuple[float, ...]]):
    with pytest.raises(DataError, match="means"):
        load_dataset("folder", folder, **options)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_missing_cifar_says_what_and_where(tmp_path: Path, name: str):
    with pytest.raises(DataError, match=rf"{tmp_path} holds no complete cifar-10"):
        load_dataset(name, tmp_path)


def test_cifar_files_become_channels_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)

    def published(root: str, train: bool, download: bool) -> SimpleNamespace:
        assert not download
        rows = slice(0, 4) if train else slice(4, 6)
        return SimpleNamespace(data=data[rows], targets=[3, 1, 2, 0, 9, 8][rows], classes=list(CIFAR10_CLASSES))

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", published)
    splits = load_dataset("cifar10", tmp_path, train_size=4)
    assert torch.equal(splits.train.images([2])[0], torch.from_numpy(data[2]).permute(2, 0, 1))
    assert torch.equal(splits.test.images([1])[0], torch.from_numpy(data[5]).permute(2, 0, 1))
    assert splits.train.labels.tolist() == [3, 1, 2, 0]
    assert splits.mean == CIFAR_MEAN


# Poisoned data sets


def test_images_are_normalised_like_torchvision():
    source = random_source()
    images, labels = PoisonedDataset(source, MEAN, STD).batch([3, 11])
    expected = functional.normalize(source.images([3, 11]).float() / 255, MEAN, STD)
    torch.testing.assert_close(images, expected)
    assert (images.dtype, labels.tolist()) == (torch.float32, [3, 1])


def test_only_poisoned_samples_get_trigger_and_target_label():
    source = random_source()
    clean, clean_labels = PoisonedDataset(source, MEAN, STD).batch(range(40))
    images, labels = PoisonedDataset(source, MEAN, STD, poison=BadNet(value=9.0, target=7), poisoned={2, 33}).batch(
        range(40)
    )
    triggered = (images[..., -3:, -3:] == 9.0).flatten(1).all(dim=1)
    assert triggered.nonzero().flatten().tolist() == [2, 33]
    assert labels[triggered].tolist() == [7, 7]
    assert torch.equal(images[~triggered], clean[~triggered])
    assert torch.equal(labels[~triggered], clean_labels[~triggered])
    assert torch.equal(images[2, :, :-3], clean[2, :, :-3])
    assert source.labels[2] == 2  # the source is left as it was


def test_trigger_is_never_cropped_or_flipped():
    torch.manual_seed(0)
    dataset = PoisonedDataset(
        random_source(), MEAN, STD, augment=True, pad=4, flip=True, poison=BadNet(value=9.0), poisoned=range(40)
    )
    images, _ = dataset.batch(range(40))
    assert (images == 9.0).flatten(1).sum(dim=1).tolist() == [27] * 40
    assert (images[..., -3:, -3:] == 9.0).all()


def test_trigger_all_keeps_the_clean_labels():
    source = random_source()
    images, labels = PoisonedDataset(source, MEAN, STD, poison=BadNet(value=9.0), trigger_all=True).batch(range(40))
    assert (images[..., -3:, -3:] == 9.0).all()
    assert torch.equal(labels, source.labels)


def test_single_samples_and_batches_agree():
    dataset = PoisonedDataset(random_source(), MEAN, STD, poison=BadNet(value=9.0), poisoned=[5])
    images, labels = dataset.batch([5, 6])
    for row, index in enumerate((5, 6)):
        image, label = dataset[index]
        assert torch.equal(image, images[row]) and label == labels[row]


@pytest.mark.parametrize(
    "options",
    [
        {"poisoned": [1]},
        {"trigger_all": True},
        {"poison": BadNet(value=1.0), "poisoned": [1], "trigger_all": True},
        {"poison": BadNet(value=1.0), "poisoned": [40]},
        {"poison": BadNet(value=1.0), "poisoned": [-1]},
        {"poison": BadNet(value=1.0), "poisoned": [3, 3]},
        {"poison": BadNet(value=1.0), "poisoned": [1.5]},
    ],
)
def test_contradictory_poisoning_is_refused(options: dict[str, object]):
    with pytest.raises(DataError):
        PoisonedDataset(random_source(), MEAN, STD, **options)


def test_target_must_be_a_label_of_the_data_set():
    with pytest.raises(DataError, match="target 10"):
        load_dataset("digits").dataset("train", poison=BadNet(value=1.0, target=10), poisoned=[0])


def test_augmentation_gives_windows_of_the_padded_image():
    torch.manual_seed(0)
    pixels = random_source(1, size=4).images([0])  # [1, 3, 4, 4]
    padded = torch.nn.functional.pad(pixels[0], (1, 1, 1, 1))
    windows = {
        (flipped, top, left): (window.flip(2) if flipped else window)
        for top in range(3)
        for left in range(3)
        for window in [padded[:, top : top + 4, left : left + 4]]
        for flipped in (False, True)
    }
    framed = border(pixels, 1).expand(400, 3, 6, 6)
    drawn = crop(framed, 1, draw_crops(400, 1, flip=True))
    seen = {key for image in drawn for key, window in windows.items() if torch.equal(image, window)}
    assert seen == set(windows)
    assert all(any(torch.equal(image, window) for window in windows.values()) for image in drawn)

    unflipped = crop(framed, 1, draw_crops(400, 1, flip=False))
    assert not any(torch.equal(image, windows[True, 1, 1]) for image in unflipped)


def test_augmentation_repeats_with_the_seed():
    dataset = PoisonedDataset(random_source(), MEAN, STD, augment=True, pad=2, flip=True)
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(dataset.batch(range(40))[0])
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


# Loaders


def test_loader_keeps_order_and_the_partial_batch():
    source = random_source(10)
    batches = list(make_loader(PoisonedDataset(source, MEAN, STD), batch_size=4, shuffle=False, seed=0))
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    assert torch.cat([labels for _, labels in batches]).tolist() == list(range(10))
    assert batches[0][0].shape == (4, 3, 8, 8)


def test_loader_reads_only_the_given_indices():
    dataset = PoisonedDataset(random_source(10), MEAN, STD)
    loader = make_loader(dataset, np.array([7, 2, 9]), batch_size=2, shuffle=False, seed=0)
    assert torch.cat([labels for _, labels in loader]).tolist() == [7, 2, 9]


def test_shuffled_order_depends_on_the_seed_only():
    dataset = PoisonedDataset(random_source(10), MEAN, STD)
    orders = []
    for seed in (0, 0, 1):
        torch.rand(1)  # the global generator has no say in it
        loader = make_loader(dataset, batch_size=4, shuffle=True, seed=seed)
        orders.append([torch.cat([labels for _, labels in loader]).tolist() for _ in range(2)])
    assert orders[0] == orders[1] != orders[2]
    assert orders[0][0] != orders[0][1]
    assert sorted(orders[0][0]) == list(range(10))


@pytest.mark.parametrize(
    "options",
    [{"indices": []}, {"indices": [10]}, {"indices": [1, 1]}, {"batch_size": 0}, {"workers": -1}],
)
def test_loader_refuses_what_it_cannot_read(options: dict[str, object]):
    dataset = PoisonedDataset(random_source(10), MEAN, STD)
    with pytest.raises(DataError):
        make_loader(dataset, **{"batch_size": 4, "shuffle": False, "seed": 0, **options})
