"""Sources of images: a tensor in memory, or files that are decoded on demand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from typing_extensions import override

from ..errors import DataError
from .image_files import read_image, read_size

MEMORY_LIMIT = 2 * 2**30  # bytes; a split of image files that is larger is not kept in memory
SMALL_IMAGE = 96  # pixels; threads do not help to decode smaller images


class ImageSource(ABC):
    """Images with labels, addressed by position.

    Attributes:
        labels: int64 [N], class indices.
        crops: whether the images have sizes of their own, so that a random crop is cut out of them by the source.
    """

    labels: torch.Tensor  # [N]
    crops: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def images(self, indices: Sequence[int] | torch.Tensor) -> torch.Tensor:
        """Read the images at some positions.

        Args:
            indices: [B] positions.

        Returns:
            uint8 [B, C, H, W], in this order; of texts the tokens, int64 [B, L].

        Raises:
            DataError: a file cannot be decoded.
        """

    def path(self, index: int) -> Path | None:
        """The file of the image at a position; None where it has none of its own."""
        return None

    def augmented(self, indices: Sequence[int] | torch.Tensor, visit: int) -> torch.Tensor:
        """Read a random crop of each image; it depends on the position and on the visit alone.

        Args:
            indices: [B] positions.
            visit: how often they were visited before, from 0.

        Returns:
            uint8 [B, C, H, W], in this order.

        Raises:
            DataError: a file cannot be decoded.
        """
        raise NotImplementedError(f"{type(self).__name__} leaves the random crop to the data set")


class PartSource(ImageSource):
    """Some images of another source.

    Args:
        source: the other one.
        keep: int64 [M], their positions in it.
    """

    def __init__(
        self,
        source: ImageSource,
        keep: np.ndarray,  # [M] int64
    ) -> None:
        self.source = source
        self.keep = torch.from_numpy(keep)
        self.labels = source.labels[self.keep]
        self.crops = source.crops

    @override
    def images(self, indices: Sequence[int] | torch.Tensor) -> torch.Tensor:
        return self.source.images(self.keep[torch.as_tensor(indices, dtype=torch.int64)])

    @override
    def path(self, index: int) -> Path | None:
        return self.source.path(int(self.keep[index]))

    @override
    def augmented(self, indices: Sequence[int] | torch.Tensor, visit: int) -> torch.Tensor:
        return self.source.augmented(self.keep[torch.as_tensor(indices, dtype=torch.int64)], visit)


class AppendedSource(PartSource):
    """All images of a source, and after its N copies of some of them: the data that poison is appended to.

    Args:
        source: of N images.
        bases: [P], positions in it of those that are copied.

    Attributes:
        bases: int64 [P], positions in the source of the images that N..N+P-1 are copies of; one may be there twice.

    Raises:
        DataError: a base out of range.
    """

    def __init__(
        self,
        source: ImageSource,
        bases: Sequence[int] | np.ndarray,  # [P]
    ) -> None:
        copies = np.asarray(bases, dtype=np.int64)
        if copies.size and not 0 <= copies.min() <= copies.max() < len(source):
            raise DataError(f"an image to copy is out of range: the source has {len(source)}, numbered from 0")
        super().__init__(source, np.concatenate([np.arange(len(source)), copies]))
        self.bases = torch.from_numpy(copies)


class MemorySource(ImageSource):
    """Images held as one tensor.

    Args:
        pixels: uint8 [N, C, H, W].
        labels: [N] class indices.
        paths: [N], of the files that they were read from; None where there are none.

    Raises:
        DataError: another dtype or shape.
    """

    def __init__(
        self,
        pixels: torch.Tensor,  # [N, C, H, W] uint8
        labels: torch.Tensor,  # [N] int64
        paths: Sequence[Path] | None = None,  # [N]
    ) -> None:
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or labels.shape != pixels.shape[:1]:
            raise DataError(
                f"images must be uint8 [N, C, H, W] with N labels; got {pixels.dtype} {list(pixels.shape)} "
                f"and labels {list(labels.shape)}"
            )
        self.pixels = pixels
        self.labels = labels.to(torch.int64)
        self.paths = paths

    @override
    def images(self, indices: Sequence[int] | torch.Tensor) -> torch.Tensor:
        return self.pixels[torch.as_tensor(indices, dtype=torch.int64)]

    @override
    def path(self, index: int) -> Path | None:
        return None if self.paths is None else self.paths[index]


class FileSource(ImageSource):
    """Image files, decoded to RGB each time they are read.

    Args:
        paths: [N], of the files.
        labels: int64 [N], class indices.
        size: (H, W) of every image.
        resize: scale the shorter side to `size` and crop the centre; otherwise an image of another size is an error.
        channels: of the decoded images.
    """

    def __init__(
        self,
        paths: Sequence[Path],  # [N]
        labels: torch.Tensor,  # [N] int64
        size: tuple[int, int],
        resize: bool,
        channels: int = 3,
    ) -> None:
        self.paths = list(paths)
        self.labels = labels.to(torch.int64)
        self.size = size
        self.resize = resize
        self.channels = channels

    @override
    def images(self, indices: Sequence[int] | torch.Tensor) -> torch.Tensor:
        paths = [self.paths[int(index)] for index in indices]
        pixels = np.empty((len(paths), self.channels, *self.size), dtype=np.uint8)

        def decode(start: int) -> None:
            for row in range(start, min(start + step, len(paths))):
                pixels[row] = self._decode(paths[row])

        # Pillow decodes without the GIL, which pays for photographs; with small images threads only wait for each
        # other: 32 x 32 JPEG files take 0.12 ms each with one thread and 0.17 ms with two. A DataLoader worker has one
        # torch thread, so processes and threads do not multiply.
        threads = torch.get_num_threads() if self.resize or min(self.size) >= SMALL_IMAGE else 1
        step = max(1, -(-len(paths) // threads))
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(decode, range(0, len(paths), step)))  # list(): raises what a task raised
        return torch.from_numpy(pixels)

    @override
    def path(self, index: int) -> Path | None:
        return self.paths[index]

    def check_headers(self) -> None:
        """Read the header of every file: what is no image, or of another size, is an error now and not during a run.

        Raises:
            DataError: naming the first such file, or one that is no image.
        """
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            sizes = pool.map(read_size, self.paths)
            for path, size in zip(self.paths, sizes, strict=True):
                self._check_size(path, size)

    def in_memory(self) -> MemorySource:
        """All images, decoded once."""
        return MemorySource(self.images(range(len(self))), self.labels, self.paths)

    def nbytes(self) -> int:
        """Bytes that the decoded images take."""
        return len(self) * self.channels * self.size[0] * self.size[1]

    def _check_size(self, path: Path, size: tuple[int, int]) -> None:
        if size != self.size and not self.resize:
            raise DataError(
                f"{path} is {size[0]}x{size[1]} (height x width), the first image is {self.size[0]}x{self.size[1]}; "
                "bring all images to one size (--image-size, or image_size=)"
            )

    def _decode(self, path: Path) -> np.ndarray:  # [3, H, W] uint8
        image = read_image(path)
        size = (image.height, image.width)
        self._check_size(path, size)
        if size != self.size:
            from torchvision.transforms import functional  # takes seconds: only when needed

            image = functional.center_crop(functional.resize(image, min(self.size), antialias=True), list(self.size))
        return np.asarray(image).transpose(2, 0, 1)
