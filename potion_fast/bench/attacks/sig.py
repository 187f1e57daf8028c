"""SIG: a sinusoid over the whole image (Barni et al., *A New Backdoor Attack in CNNs*, 2019)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from typing_extensions import override

from ...errors import DataError
from .kinds import Trigger
from .options import AttackOptions, option
from .pixels import added, check_normalisation
from .poison import check_target, check_target_of_data
from .registry import register_attack
from .selection import choose_from_class

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..data import Splits


PUBLISHED = 6.0  # cycles


@register_attack("sig")
@dataclass(frozen=True, kw_only=True)
class SIG(Trigger):
    """x + a sin(2 pi f j / W) in pixel space, for column j of W, clipped to [0, 1].

    Columns count from 0. The published attack changes no label: only images of the target's class get the wave
    (`clean_label`), so that at most that class can be poisoned, and the wave must be learnt beside what is in the
    images. Otherwise images of all classes get it, and the target's label.

    Attributes:
        mean, std: per channel, of pixels in [0, 1].
        amplitude: a, of 255.
        cycles: f, periods over the image's width.
        clean_label: whether only images of the target's class are poisoned.
        target: label of the poisoned training samples.

    Raises:
        DataError: a negative target, an amplitude or a number of cycles out of range, or as many means as there are no
            stds; when called, an image of another number of channels, or too narrow for so many cycles.
    """

    class Options(AttackOptions):
        """Options of a sinusoid."""

        poison: Literal["sig"] = "sig"
        wave_amplitude: float = option(40.0, "of the sinusoid", metavar="OF_255", gt=0, le=255)
        cycles: float | None = option(
            None,
            "periods of the sinusoid over the image's width",
            metavar="X",
            default_text="6, or a quarter of the columns of smaller images",
            gt=0,
        )
        clean_label: bool = option(False, "poison images of the target's class alone, so that no label is wrong")
        target: int = option(0, "label that the poison gives, counted from 0", metavar="CLASS", ge=0)

        def resolved(self, splits: Splits, seed: int) -> Self:
            """With as many cycles as published, or as fit; the target is compared with the data."""
            check_target_of_data(self.target, splits)
            cycles = min(PUBLISHED, splits.size[1] / 4) if self.cycles is None else self.cycles
            return self.model_copy(update={"cycles": cycles})

        def build(self, splits: Splits, seed: int) -> SIG:
            """The attack with these options, on the data's normalisation."""
            assert self.cycles is not None  # resolved
            return SIG(
                mean=splits.mean,
                std=splits.std,
                amplitude=self.wave_amplitude,
                cycles=self.cycles,
                clean_label=self.clean_label,
                target=self.target,
            )

    mean: tuple[float, ...]
    std: tuple[float, ...]
    amplitude: float = 40.0
    cycles: float = PUBLISHED
    clean_label: bool = False
    target: int = 0

    def __post_init__(self) -> None:
        check_target(self.target)
        check_normalisation(self.mean, self.std)
        if not 0 < self.amplitude <= 255:
            raise DataError(f"the amplitude is a part of 255, above 0, not {self.amplitude}")
        if not 0 < self.cycles < math.inf:
            raise DataError(f"a positive number of cycles is needed, not {self.cycles}")

    def __call__(
        self,
        images: torch.Tensor,  # [..., C, H, W], normalised
        ids: torch.Tensor | None = None,  # every sample gets the same wave
    ) -> torch.Tensor:  # [..., C, H, W]
        """A copy of the images with the wave over them."""
        return added(images, self.wave(images.shape[-1]), self.mean, self.std)

    def wave(self, width: int) -> torch.Tensor:  # [W] float64
        """What is added to every row and channel, in units of pixels in [0, 1].

        Raises:
            DataError: fewer than two columns to a cycle.
        """
        if 2 * self.cycles >= width:
            raise DataError(f"{self.cycles:g} cycles need more columns than the {width} of the images")
        columns = torch.arange(width, dtype=torch.float64)
        return self.amplitude / 255 * torch.sin(2 * math.pi * self.cycles / width * columns)

    @override
    def choose(
        self,
        labels: torch.Tensor,  # [N]
        count: int,
        found: int,
        seed: int,
    ) -> tuple[np.ndarray, np.ndarray]:  # [count] int64, [found] int64
        """S_m and S_f, uniformly from all samples, or from the target's class where no label is to be wrong."""
        if self.clean_label:
            return choose_from_class(labels, self.target, count, found, seed)
        return super().choose(labels, count, found, seed)
