"""Image files in a folder per class: which count, in which order, and the values that they are read with."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import pil_loader

from potion_fast.bench.data import load_dataset
from potion_fast.errors import DataError
from potion_fast.user import image_source
from potion_fast.user.image_files import list_images, read_image, read_size
from potion_fast.user.jpeg_source import decode

DEEP = np.array([[0, 255, 256, 511], [4096, 32767, 32768, 65535]], dtype=np.uint16)  # [2, 4]
ORDER = ("cat/1.png", "cat/10.PNG", "cat/2.png", "cat/old/0.png", "cat/old-2/0.png", "dog/a.png")
COLOURS = np.array([[[250, 3, 40], [0, 128, 255]], [[9, 9, 9], [77, 200, 1]]], dtype=np.uint8)  # [2, 2, 3]


def png16(values: np.ndarray) -> bytes:
    """A PNG of 16 bits per channel, put together by hand: [H, W] grey, [H, W, 3] colour, [H, W, 4] with alpha."""
    height, width = values.shape[:2]
    kind = 0 if values.ndim == 2 else {3: 2, 4: 6}[values.shape[2]]

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def big_endian() -> Image.Image:
    return Image.frombytes("I;16B", (4, 2), DEEP.astype(">u2").tobytes())


def values_of(path: Path) -> np.ndarray:
    """What both readers of files give, [H, W, 3]."""
    pixels = np.asarray(read_image(path))
    assert np.array_equal(decode(str(path)).permute(1, 2, 0).numpy(), pixels)
    assert read_size(path) == pixels.shape[:2]
    return pixels


# --- images of 16 bits


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("grey.png", lambda: saved(Image.fromarray(DEEP), "PNG")),
        ("by_hand.png", lambda: png16(DEEP)),
        ("big_endian.png", lambda: saved(big_endian(), "PNG")),
        ("grey.tif", lambda: saved(Image.fromarray(DEEP), "TIFF")),
        ("big_endian.tiff", lambda: saved(big_endian(), "TIFF")),
        ("grey.pgm", lambda: b"P5\n4 2\n65535\n" + DEEP.astype(">u2").tobytes()),
        ("colour.png", lambda: png16(np.repeat(DEEP[..., None], 3, axis=2))),
        ("alpha.png", lambda: png16(np.dstack([DEEP, DEEP, DEEP, 65535 - DEEP]))),
    ],
)
def test_of_16_bits_the_upper_8_remain_in_grey_as_in_colour(tmp_path: Path, name: str, content: Callable[[], bytes]):
    (tmp_path / name).write_bytes(content())
    expected = np.repeat((DEEP // 256)[..., None], 3, axis=2)
    assert np.array_equal(values_of(tmp_path / name), expected)


def tiff(content: bytes, bits: int, photometric: int) -> bytes:
    """A grey TIFF of 4 x 2 pixels, put together by hand."""
    sizes = [(256, 4), (257, 2), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, 2)]
    tags = [*sizes, (279, len(content))]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    start = struct.pack("<I", 8 + len(content))
    return b"II*\0" + start + content + struct.pack("<H", len(tags)) + directory + b"\0" * 4


def test_a_tiff_of_12_bits_is_read_in_its_own_range(tmp_path: Path):
    values = np.array([[0, 15, 16, 255], [256, 2047, 2048, 4095]], dtype=np.uint16)
    packed = b"".join(
        bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in values.reshape(-1, 2).astype(int).tolist()
    )
    (tmp_path / "a.tif").write_bytes(tiff(packed, 12, photometric=1))
    assert np.array_equal(values_of(tmp_path / "a.tif")[..., 1], values // 16)


@pytest.mark.parametrize(("bits", "content"), [(16, DEEP.tobytes()), (8, (DEEP >> 8).astype(np.uint8).tobytes())])
def test_where_a_tiff_says_that_0_is_white_it_is(tmp_path: Path, bits: int, content: bytes):
    (tmp_path / "a.tif").write_bytes(tiff(content, bits, photometric=0))
    assert np.array_equal(values_of(tmp_path / "a.tif")[..., 2], 255 - DEEP // 256)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.fromarray(DEEP.astype(np.float32)), "floating-point numbers, whose range is not known"),
        (Image.fromarray(DEEP.astype(np.int32)), "32-bit numbers, whose range is not known"),
    ],
)
def test_numbers_of_no_known_range_are_refused(tmp_path: Path, image: Image.Image, message: str):
    image.save(tmp_path / "a.tif")
    for read in (read_image, read_size, lambda path: decode(str(path))):
        with pytest.raises(DataError, match=rf"a\.tif cannot be read as an image \(its pixels are {message}"):
            read(tmp_path / "a.tif")


# --- other kinds of image


def frames(form: str, **options: object) -> Callable[[], bytes]:
    pictures = [Image.fromarray(COLOURS), Image.fromarray(255 - COLOURS)]
    return lambda: saved(pictures[0], form, save_all=True, append_images=pictures[1:], **options)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.gif", frames("GIF")),
        ("a.webp", frames("WEBP")),
        ("a.png", frames("PNG")),
        ("a.tif", frames("TIFF")),
    ],
)
def test_a_file_of_several_frames_is_refused(tmp_path: Path, name: str, content: Callable[[], bytes]):
    (tmp_path / name).write_bytes(content())
    for read in (read_image, read_size):
        with pytest.raises(DataError, match="it holds 2 frames, and a sample is one image"):
            read(tmp_path / name)


def test_of_a_photograph_with_a_second_one_within_it_the_first_is_read(tmp_path: Path):
    pictures = [Image.new("RGB", (16, 16), colour) for colour in ((200, 10, 10), (10, 10, 200))]
    pictures[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=pictures[1:], quality=100)
    assert abs(values_of(tmp_path / "a.jpg").astype(int) - (200, 10, 10)).max() <= 3


def with_transparency(**options: object) -> bytes:
    image = Image.fromarray(COLOURS).quantize(4)
    return saved(image, "PNG", **options)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("one_bit.png", lambda: saved(Image.fromarray(COLOURS[..., 0] > 100), "PNG"), (COLOURS[..., :1] > 100) * 255),
        ("grey.png", lambda: saved(Image.fromarray(COLOURS[..., 0]), "PNG"), COLOURS[..., :1]),
        ("palette.png", lambda: saved(Image.fromarray(COLOURS).quantize(4), "PNG"), COLOURS),
        ("clear_colour.png", lambda: with_transparency(transparency=1), COLOURS),
        ("clear_bytes.png", lambda: with_transparency(transparency=b"\x00\x80\xff\x07"), COLOURS),
        ("grey_alpha.png", lambda: saved(Image.fromarray(COLOURS[..., :2], "LA"), "PNG"), COLOURS[..., :1]),
        ("alpha.png", lambda: saved(Image.fromarray(np.dstack([COLOURS, COLOURS[..., 1]])), "PNG"), COLOURS),
        ("alpha.webp", lambda: saved(Image.fromarray(COLOURS), "WEBP", lossless=True), COLOURS),
        ("colour.bmp", lambda: saved(Image.fromarray(COLOURS), "BMP"), COLOURS),
        ("colour.gif", lambda: saved(Image.fromarray(COLOURS), "GIF"), COLOURS),
        ("colour.tif", lambda: saved(Image.fromarray(COLOURS), "TIFF"), COLOURS),
        ("colour.ppm", lambda: saved(Image.fromarray(COLOURS), "PPM"), COLOURS),
        ("COLOUR.PNG", lambda: saved(Image.fromarray(COLOURS), "PNG"), COLOURS),
        ("png_in_truth.jpg", lambda: saved(Image.fromarray(COLOURS), "PNG"), COLOURS),
        ("inks.tif", lambda: saved(Image.fromarray(np.dstack([255 - COLOURS, COLOURS[..., 0] * 0]), "CMYK"), "TIFF"),
         COLOURS),
        ("turned.png", lambda: saved(Image.fromarray(COLOURS), "PNG", exif=turned()), COLOURS),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
def test_an_image_has_the_colours_that_torchvision_gives(
    tmp_path: Path, name: str, content: Callable[[], bytes], expected: np.ndarray
):
    path = tmp_path / name
    path.write_bytes(content())
    assert np.array_equal(values_of(path), np.broadcast_to(expected, (2, 2, 3)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's way makes Pillow warn of transparency in bytes
        assert np.array_equal(np.asarray(pil_loader(path)), values_of(path))


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter
    return exif.tobytes()


# --- which files count


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes; the colour of an image is its place in the order."""
    for place, name in enumerate(
        ("cat/1.png", "cat/10.PNG", "cat/2.png", "cat/old/0.png", "cat/old-2/0.png", "dog/a.png")
    ):
        write(tmp_path / "train" / name, place)
        write(tmp_path / "test" / name, place)
    return tmp_path


def write(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (value, 0, 0)).save(path)


def order(root: Path) -> list[int]:
    train = load_dataset("folder", root).train
    return train.images(range(len(train)))[:, 0, 0, 0].tolist()


def test_images_count_in_the_order_of_torchvision(root: Path):
    classes, names, labels = list_images(root / "train")
    samples = ImageFolder(str(root / "train")).samples
    assert [(str(root / "train" / name), label) for name, label in zip(names, labels.tolist(), strict=True)] == samples
    assert (classes, labels.dtype) == (("cat", "dog"), torch.int64)
    assert names == list(ORDER)


@pytest.mark.parametrize(
    "name",
    [
        ".ipynb_checkpoints/1-checkpoint.png",
        "cat/.ipynb_checkpoints/1-checkpoint.png",
        "__MACOSX/cat/1.png",
        "cat/._1.png",
        "cat/.DS_Store",
        ".DS_Store",
        "cat/Thumbs.db",
        "cat/desktop.ini",
        "cat/1.txt",
        "cat/1.json",
        "cat/labels.CSV",
        "README.md",
        "classes.npy",
    ],
)
def test_what_nobody_takes_for_a_sample_changes_no_index(root: Path, name: str):
    before = order(root)
    (root / "train" / name).parent.mkdir(parents=True, exist_ok=True)
    (root / "train" / name).write_bytes(b"none of the images")
    assert order(root) == before == list(range(6))
    assert load_dataset("folder", root).classes == ("cat", "dog")


@pytest.mark.parametrize("name", ["cat/1.npy", "cat/1.heic", "cat/1", "cat/old/1.png~", "dog/clip.mp4", "dog/a.svg"])
def test_a_file_that_may_be_a_sample_and_is_not_read_is_named(root: Path, name: str):
    (root / "train" / name).write_bytes(b"something")
    with pytest.raises(DataError, match=f"{name} is no image that can be read .*convert it, or move it out"):
        load_dataset("folder", root)


@pytest.mark.parametrize("suffix", ["bmp", "gif", "webp", "tif", "ppm", "jpg"])
def test_an_image_of_another_format_is_a_sample_too(root: Path, suffix: str):
    write(root / "train" / "cat" / f"1a.{suffix}", 200)
    splits = load_dataset("folder", root)
    assert splits.train.labels.tolist() == [0] * 6 + [1]
    assert abs(splits.train.images([2])[0, 0, 0, 0].item() - 200) <= 3


@pytest.mark.parametrize("content", [b"", b"words", b"\x89PNG\r\n\x1a\n", saved(Image.new("L", (4, 4)), "PNG")[:40]])
@pytest.mark.parametrize("limit", [2**31, 0])
def test_a_broken_image_is_named_before_anything_is_read(
    root: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, limit: int
):
    monkeypatch.setattr(image_source, "MEMORY_LIMIT", limit)
    (root / "train" / "dog" / "b.png").write_bytes(content)
    with pytest.raises(DataError, match=r"dog/b\.png cannot be read as an image") as caught:
        splits = load_dataset("folder", root, image_size=4)
        splits.train.images(range(7))
    assert "\n" not in str(caught.value)


def test_links_are_followed_and_those_that_lead_nowhere_are_named(root: Path, tmp_path_factory: pytest.TempPathFactory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    write(elsewhere / "birds" / "0.png", 9)
    for split in ("train", "test"):
        (root / split / "bird").symlink_to(elsewhere / "birds")
    assert load_dataset("folder", root).classes == ("bird", "cat", "dog")
    (root / "train" / "dog" / "c.png").symlink_to(elsewhere / "birds" / "0.png")
    assert order(root) == [9, 0, 1, 2, 3, 4, 5, 9]
    (root / "train" / "dog" / "d.png").symlink_to(elsewhere / "gone.png")
    with pytest.raises(DataError, match=r"dog/d\.png is a link to a file that is not there"):
        load_dataset("folder", root)
    (root / "train" / "dog" / "d.png").unlink()
    (root / "train" / "dog" / "loop").symlink_to(root / "train" / "dog")
    with pytest.raises(DataError, match="dog/loop is a link to a folder that holds it"):
        load_dataset("folder", root)


def test_folders_that_hold_no_classes_or_no_images_are_named(root: Path):
    (root / "train" / "cow").mkdir()
    (root / "train" / "cow" / "notes.txt").write_text("none yet")
    with pytest.raises(DataError, match="train/cow holds no image"):
        load_dataset("folder", root)
    (root / "train" / "cow" / "notes.txt").unlink()
    (root / "train" / "cow").rmdir()
    write(root / "train" / "loose.png", 1)
    with pytest.raises(DataError, match=r"train/loose\.png lies in no class"):
        load_dataset("folder", root)


@pytest.mark.parametrize("name", ["folder", "imagenet"])
def test_a_split_without_folders_says_so(tmp_path: Path, name: str):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        (tmp_path / split / ".hidden").mkdir()
    with pytest.raises(DataError, match="it holds no folder"):
        load_dataset(name, tmp_path)


def test_imagenet_counts_the_same_files(root: Path):
    (root / "test").rename(root / "val")
    (root / "train" / ".ipynb_checkpoints").mkdir()
    (root / "train" / "cat" / "1.json").write_text("{}")
    splits = load_dataset("imagenet", root, image_size=4)
    assert splits.train.images(range(6))[:, 0, 0, 0].tolist() == list(range(6))
