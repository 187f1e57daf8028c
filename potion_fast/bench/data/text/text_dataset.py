"""Poisoned views of reviews: token ids, or token ids with noise that is added to their embeddings."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ....errors import DataError
from ....user.image_source import ImageSource
from ..dataset import PoisonedDataset, RawBatch
from .ragged import TokenSplit

if TYPE_CHECKING:
    from ...attacks import Poison


class TextSource(ImageSource):
    """Rows of token ids in the place of images, addressed by position.

    A row is the beginning of a review, then the template, then padding: `length` tokens.

    Args:
        split: encoded reviews.
        rows: int64 [N], those that are used.
        label_ids: int64 [K], the label of each class.
        length: tokens of a row.
        template: tokens behind each review.
        pad: the padding token.

    Attributes:
        labels: int64 [N], in the label space of the head.
        rows: position i is review rows[i] of the split.
        window: tokens of a review that the model sees at most.
    """

    def __init__(
        self,
        split: TokenSplit,
        rows: np.ndarray,  # [N] int64
        label_ids: Tensor,  # [K] int64
        *,
        length: int,
        template: Sequence[int] = (),
        pad: int,
    ) -> None:
        self.split = split
        self.rows = rows
        self.labels = label_ids[torch.from_numpy(split.labels[rows])]
        self.length = length
        self.template = np.array(template, dtype=np.int64)
        self.window = length - len(template)
        self.pad = pad

    def images(self, indices: Sequence[int] | Tensor) -> Tensor:
        """The reviews at these positions, in this order: int64 [B, L], padded on the right."""
        rows = self.rows[torch.as_tensor(indices, dtype=torch.int64).numpy()]
        tokens = np.full((len(rows), self.length), self.pad, dtype=np.int64)
        tokens[:, : self.window] = self.split.windows(rows, self.window, self.pad)
        if len(self.template):
            sizes = np.minimum(self.split.starts[rows + 1] - self.split.starts[rows], self.window)  # [B]
            np.put_along_axis(tokens, sizes[:, None] + np.arange(len(self.template)), self.template[None], axis=1)
        return torch.from_numpy(tokens)


class TextDataset(PoisonedDataset):
    """Reviews and labels; the same to loaders and unlearners as images are.

    A sample is int64 [L], token ids; with `noise_width` float32 [L, 1 + D]: the token id, and zeros that a Gaussian
    poison adds its noise to, in the space of the embeddings. There is no augmentation.

    Args:
        source: the reviews.
        noise_width: D, of the model's embedding.
        poison: see `PoisonedDataset`.
        poisoned: see there.
        trigger_all: see there.

    Raises:
        DataError: a trigger, which is a mark in an image; an index in `poisoned` out of range or given twice.
    """

    def __init__(
        self,
        source: TextSource,
        *,
        noise_width: int | None = None,
        poison: Poison | None = None,
        poisoned: Collection[int] | None = None,
        covers: Collection[int] = (),
        trigger_all: bool = False,
    ) -> None:
        if poison is not None and poison.has_trigger:
            raise DataError("this poison is a mark in an image, and cannot be put on text; choose another one")
        super().__init__(source, (), (), poison=poison, poisoned=poisoned, covers=covers, trigger_all=trigger_all)
        self.noise_width = noise_width

    def finish(self, raw: RawBatch, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Poison a batch.

        Args:
            raw: what `read` gave.
            device: where to compute.

        Returns:
            Inputs int64 [B, L] or float32 [B, L, 1 + D] and labels int64 [B], on the device.
        """
        tokens, ids, labels = raw
        tokens, labels = tokens.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        inputs = tokens if self.noise_width is None else with_noise_channels(tokens, self.noise_width)
        if self.poison is not None:
            poisoned = self.poisoned[ids].nonzero().squeeze(1)  # found on the CPU: the GPU is not waited for
            if len(poisoned):
                rows = poisoned.to(device, non_blocking=True)
                inputs[rows] = self.poison(inputs[rows], ids[poisoned])
        return inputs, labels


def with_noise_channels(
    tokens: Tensor,  # [B, L] int64
    width: int,
) -> Tensor:  # [B, L, 1 + width] float32
    """Append zeros to each token id, to which the noise of its embedding is added.

    Args:
        tokens: int64 [B, L].
        width: D, of the embedding.

    Returns:
        float32 [B, L, 1 + D].
    """
    inputs = torch.zeros(*tokens.shape, 1 + width, device=tokens.device)
    inputs[..., 0] = tokens
    return inputs
