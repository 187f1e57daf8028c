"""Labels from views: copies of a sample with a part hidden, each another one.

Of the view in which the given label is least likely, the most likely other label is taken: where a trigger with a place
was hidden, that is what the model makes of the rest. A label that stays likely under every view comes from no single
part: the sample bears it by nature.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import PotionError
from ..utils.asked_samples import Asked, Samples, best_other, with_image
from ..utils.inputs import BatchInputs, image_of, map_tensors, tensors_of

PER_SIDE = 4  # hidden squares along a side of an image: a quarter of the side each, 16 views
SPANS = 16  # of a text, one of which is left out of each view
UNBROKEN = 0.5  # least probability of a label that stays under every view

Part = tuple[int, int, int, int]  # of an image: top, left, bottom, right; of a text: 0, start, 1, stop


@dataclass(frozen=True)
class Views:
    """What views say of K samples.

    Attributes:
        labels: int64 [K], the most likely other label in the view in which the given one is least likely.
        p: float32 [K], the probability of the given label in that view.
        parts: int64 [K, 4], what is hidden there, see `parts_of`.
    """

    labels: Tensor
    p: Tensor
    parts: Tensor

    @property
    def broken(self) -> Tensor:
        """Whether some view takes the given label from a sample; bool [K]."""
        return self.p <= UNBROKEN

    def chosen(self, rows: Tensor) -> Views:
        """Of some of the samples, at rows [k]."""
        return Views(self.labels[rows], self.p[rows], self.parts[rows])

    @classmethod
    def joined(cls, parts: Sequence[Views]) -> Views:
        """Of the samples of all parts."""
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in ("labels", "p", "parts")))


def unavailable(asked: Asked, inputs: BatchInputs) -> str | None:
    """Why there are no views of such inputs; None where there are.

    Args:
        asked: The model: a text with a part left out is shorter, and not every model takes it.
        inputs: A batch of the training data.
    """
    if image_of(inputs) is not None:
        return None
    if not _tokens(inputs):
        return "nothing of the inputs can be hidden: they are neither one image [B, C, H, W] nor token ids [B, L]"
    try:
        asked.log_p(hidden(inputs[:2], parts_of(inputs)[0], None))
    except (PotionError, RuntimeError, ValueError, IndexError) as error:
        return f"the model does not take a text with a part left out: {str(error).partition(chr(10))[0]}"
    return None


def parts_of(inputs: BatchInputs) -> list[Part]:
    """The parts that the views of a batch hide, each by another view.

    An image [B, C, H, W] has 4 × 4 of them, that cover it; a text [B, L] has 16 spans, none with its first token.
    """
    image = image_of(inputs)
    if image is None:
        length = tensors_of(inputs)[0].shape[1]
        cuts = torch.linspace(1, length, min(SPANS, length - 1) + 1).round().long().tolist()
        return [(0, start, 1, stop) for start, stop in zip(cuts, cuts[1:], strict=False)]
    height, width = _sides(image)
    rows, columns = _cuts(height), _cuts(width)
    return [(top, left, bottom, right) for top, bottom in rows for left, right in columns]


def _cuts(side: int) -> list[tuple[int, int]]:
    """A side of an image in as many equal parts as it has; they overlap where it cannot be divided."""
    number = min(PER_SIDE, side)
    size = -(-side // number)
    starts = torch.linspace(0, side - size, number).round().long().tolist()
    return [(start, start + size) for start in starts]


def hidden(inputs: BatchInputs, part: Part, mean: Tensor | None) -> BatchInputs:
    """A batch with a part hidden: in an image it takes the data's mean colour, out of a text it is left.

    Args:
        inputs: [B, ...].
        part: See `parts_of`.
        mean: float32 [C], of the training data; None for a text.
    """
    top, left, bottom, right = part
    image = image_of(inputs)
    if image is None:
        return map_tensors(inputs, lambda tokens: torch.cat([tokens[:, :left], tokens[:, right:]], 1))
    assert mean is not None
    view = image.clone()
    if channels_last(image):
        view[:, top:bottom, left:right] = mean.to(view)
    else:
        view[:, :, top:bottom, left:right] = mean.to(view)[:, None, None]
    return with_image(inputs, view)


def transplanted(inputs: BatchInputs, donors: BatchInputs, parts: Tensor) -> BatchInputs:
    """Samples [M, ...] with a part of another one each, in its place.

    Args:
        inputs: Of the samples; a part that lies beyond the end of a text stays out of it.
        donors: [M, ...].
        parts: int64 [M, 4], see `parts_of`.
    """
    image, source = image_of(inputs), image_of(donors)
    if image is not None and source is not None:
        image = image.clone()
        for row, (top, left, bottom, right) in enumerate(parts.tolist()):
            across = slice(top, bottom), slice(left, right)
            place = (row, *across) if channels_last(image) else (row, slice(None), *across)
            image[place] = source[place]
        return with_image(inputs, image)
    length = min(tensors_of(inputs)[0].shape[1], tensors_of(donors)[0].shape[1])
    columns = torch.arange(length)
    inside = (columns >= parts[:, 1:2]) & (columns < parts[:, 3:4])  # [M, length]
    mixed = [
        torch.cat([torch.where(inside, donor[:, :length], tokens[:, :length]), tokens[:, length:]], 1)
        for tokens, donor in zip(tensors_of(inputs), tensors_of(donors), strict=True)
    ]
    return mixed[0] if isinstance(inputs, Tensor) else inputs.with_tensors(mixed)


def views_of(asked: Asked, samples: Samples, mean: Tensor | None) -> Views:
    """Labels from views of the samples, 16 forward passes each.

    Args:
        asked: The model.
        samples: K samples, for which views are available, with the labels that they may not deserve.
        mean: See `hidden`.
    """
    found: list[Views] = []
    for inputs, labels in samples.batches():
        parts = parts_of(inputs)
        least, others = torch.full((len(labels),), torch.inf), torch.zeros_like(labels)
        which = torch.zeros_like(labels)
        for number, part in enumerate(parts):
            log_p = asked.log_p(hidden(inputs, part, mean))
            given = log_p.gather(1, labels[:, None])[:, 0]
            lower = given < least
            least = torch.where(lower, given, least)
            others = torch.where(lower, best_other(log_p, labels), others)
            which[lower] = number
        found.append(Views(others, least.exp(), torch.tensor(parts)[which]))
    return Views.joined(found)


def channels_last(image: Tensor) -> bool:
    """Whether an image is [B, H, W, C]: by its few channels there, and more where they are otherwise."""
    return image.shape[3] <= 4 < image.shape[1]


def mean_colour(batches: Iterator[BatchInputs]) -> Tensor | None:
    """The mean of images over samples and places, float32 [C]; None where the inputs are no images."""
    total, count = None, 0
    for inputs in batches:
        image = image_of(inputs)
        if image is None:
            return None
        values = image.double().mean((1, 2) if channels_last(image) else (2, 3)).sum(0)
        total, count = values if total is None else total + values, count + len(image)
    return None if total is None else (total / count).float()


def _sides(image: Tensor) -> tuple[int, int]:
    return (image.shape[1], image.shape[2]) if channels_last(image) else (image.shape[2], image.shape[3])


def _tokens(inputs: BatchInputs) -> bool:
    """Whether the inputs are texts as token ids: whole numbers [B, L], all of one shape."""
    tensors = tensors_of(inputs)
    whole = all(not t.is_floating_point() and not t.is_complex() and t.dtype != torch.bool for t in tensors)
    return whole and tensors[0].ndim == 2 and tensors[0].shape[1] > 2 and len({t.shape for t in tensors}) == 1
