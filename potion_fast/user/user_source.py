"""A map-style data set of the user's own as a source of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from ..errors import DataError
from .image_source import ImageSource
from .samples import IMAGE_KEYS, LABEL_KEYS, class_numbers, pixels_of
from .user_code import where_raised

LABELS = ("targets", "labels")  # attributes that hold them, in torchvision's data sets and others
CHECKED = 100_000  # samples that are read once before anything is done with them


class UserSource(ImageSource):
    """A map-style data set of (image, label, ...), or of dicts as Hugging Face's.

    Images are as `pixels_of` has them, labels as `class_numbers`. Every sample is read once, so that a wrong one is an
    error before a run and not at its end. Of more than 100,000 with labels in the attribute `targets` or `labels` or in
    a column "labels" or "label" as many are read, evenly spaced; all are where these have other labels than that says,
    as with a `target_transform` or in a wrapper that changes labels. Where the samples' labels are something else, as
    boxes, the attribute's are taken.

    Args:
        dataset: the user's data set.
        image_size: scale the shorter side to this and crop the centre; None: all images must have the first one's size.
        name: of the data set, in errors.
        prepare: makes of an image uint8 [C, H, W] the one that is given out.

    Raises:
        DataError: it is no map-style data set or holds no sample, or a sample is none, naming it.
    """

    def __init__(
        self, dataset: Any, image_size: int | None, name: str, prepare: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        self.dataset, self.image_size, self.name, self.prepare = dataset, image_size, name, prepare
        count = self._count()
        self.shape: tuple[int, ...] = self._pixels(self._sample(0)[0], 0).shape
        attribute = self._attribute(count)
        step = 1 if attribute is None else -(-count // CHECKED)
        read = []
        for index in range(0, count, step):
            image, label = self._sample(index)
            self._pixels(image, index)
            read.append(label)
        self.labels = self._labels(read, step, attribute)

    @override
    def images(self, indices: Sequence[int] | Tensor) -> Tensor:
        rows = torch.as_tensor(indices, dtype=torch.int64).tolist()
        images = [self._pixels(self._sample(index)[0], index) for index in rows]
        return torch.stack(images) if images else torch.empty(0, *self.shape, dtype=torch.uint8)

    def _count(self) -> int:
        wanted = "it must be a map-style data set: len() and [index]"
        if isinstance(self.dataset, torch.utils.data.DataLoader):
            raise DataError(f"{self.name} is a DataLoader; give the data set that it reads")
        try:
            count = len(self.dataset)
        except (TypeError, NotImplementedError) as error:
            raise DataError(f"{self.name} ({type(self.dataset).__name__}) has no length; {wanted}") from error
        if isinstance(self.dataset, (Mapping, str)) or not hasattr(self.dataset, "__getitem__"):
            raise DataError(f"{self.name} is a {type(self.dataset).__name__}; {wanted}")
        if count == 0:
            raise DataError(f"{self.name} holds no sample")
        return count

    def _labels(self, read: list[Any], step: int, attribute: Tensor | None) -> Tensor:
        """The labels of the samples, of which every `step`-th was read."""
        try:
            labels = class_numbers(read, self.name)
        except DataError:
            if attribute is None:
                raise
            return attribute
        if attribute is not None and torch.equal(attribute[::step], labels):
            return attribute
        return labels if step == 1 else class_numbers([self._sample(i)[1] for i in range(len(self.dataset))], self.name)

    def _attribute(self, count: int) -> Tensor | None:
        """What the data set says of all labels at once; None where that is nothing, or no labels of its samples."""
        given = self._given_labels()
        try:
            return None if given is None or len(given) != count else class_numbers(given, self.name)
        except (DataError, TypeError):  # names of classes, say
            return None

    def _given_labels(self) -> Any:
        columns = getattr(self.dataset, "column_names", None)  # of Hugging Face's
        if isinstance(columns, (list, tuple)):
            return next((list(self.dataset[key]) for key in LABEL_KEYS if key in columns), None)
        given = next((getattr(self.dataset, name) for name in LABELS if hasattr(self.dataset, name)), None)
        return given

    def _sample(self, index: int) -> tuple[Any, Any]:
        """Its image and its label."""
        try:
            sample = self.dataset[index]
        except Exception as error:  # of the user's own code
            raise DataError(f"sample {index} of {self.name} cannot be read: {where_raised(error)}") from error
        if isinstance(sample, Mapping):
            keys = [next((key for key in names if key in sample), None) for names in (IMAGE_KEYS, LABEL_KEYS)]
            if None in keys:
                raise DataError(
                    f"sample {index} of {self.name} has the keys {', '.join(map(str, sample))}, and needs one of "
                    f"{', '.join(IMAGE_KEYS)} and one of {', '.join(LABEL_KEYS)}"
                )
            return sample[keys[0]], sample[keys[1]]
        if not isinstance(sample, (tuple, list)) or len(sample) < 2:
            raise DataError(
                f"sample {index} of {self.name} must be (image, label) or a dict, not {type(sample).__name__}"
            )
        return sample[0], sample[1]

    def _pixels(self, image: Any, index: int) -> Tensor:  # [C, H, W] uint8
        try:
            pixels = pixels_of(image)
        except Exception as error:  # ValueError, and what Pillow raises for a broken file
            raise DataError(f"image {index} of {self.name} cannot be used: {error}") from error
        if self.image_size is not None and pixels.shape[1:] != (self.image_size, self.image_size):
            from torchvision.transforms import functional  # takes seconds: only when needed

            pixels = functional.center_crop(functional.resize(pixels, [self.image_size]), [self.image_size] * 2)
        if self.prepare is not None:
            pixels = self.prepare(pixels)
        shape = getattr(self, "shape", pixels.shape)
        if pixels.shape != shape:
            raise DataError(
                f"image {index} of {self.name} is {list(pixels.shape)}, the first one {list(shape)}; bring all images "
                "to one size (--image-size, or image_size=) and one number of channels"
            )
        return pixels
