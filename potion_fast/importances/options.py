"""Options of a pass over the data."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Literal, TypedDict

import torch

from ..distributed import Group
from ..errors import ImportanceError
from ..utils.adapter import DEFAULT, Adapter, adapter_or_default
from ..utils.did_you_mean import did_you_mean


@dataclass(frozen=True)
class PassOptions:
    """How a pass over the data runs, whatever it computes.

    Attributes:
        dtype: float32 or float64: of the sums, and of the products of linear layers and convolutions that go into them.
        amp: bfloat16 or float16: the model runs under `torch.autocast`, and the result differs by that precision's
            rounding. None for the model's own precision.
        compiled: Let torch.compile fuse what lies between the layers, for long passes: it compiles once the third batch
            of a size has come, and takes the memory of all layers' gradients at once. The result differs by rounding.
        process_group: The ranks of torch.distributed whose loaders each give their share of the samples; the sums are
            then of all of them, with the same bits on every rank. False: this loader gives all. None: the loader's
            sampler says so, see `distributed.ShareSampler`; in a group of several ranks another sampler is an error.
        checkpoint: File that keeps the sums so far, every `checkpoint_seconds` seconds and where an error or Ctrl-C
            ends the pass between two batches; it is removed when the pass is complete, or within `unlearn` when all of
            that is: should anything fail after the pass, `resume` takes the finished sums without reading the loader
            again. A program whose Ctrl-C should wait for the end of a batch calls the pass within
            `potion_fast.utils.interrupts.deferred_interrupts`.
        checkpoint_seconds: Seconds from one checkpoint to the next.
        resume: Continue from the checkpoint where there is one. On the same samples in the same order the result has
            the same bits as that of an unbroken pass. With a ShareSampler each rank has a file, PATH.rank0 and so on,
            in a folder that all ranks see, and any number of ranks resumes from them, no sample being taken twice.
        progress: Show a progress bar, with samples per second and the time left.
        adapter: Reads the batches, calls the model and finds its logits; the default one knows tuples, dicts and
            outputs with `.logits`, see `Adapter`.
        samples: Read a part of the training data: so many samples of the loader, up to whole groups, or "auto", within
            `unlearn` alone: as many as the thresholds of the search need, see `KnownThresholds`. S_f is always read
            whole, and the schedule starts where all of the training data has it start; their number is taken from the
            loader, or else it is read on to count them. The loader must shuffle: one that reads a data set in its order
            is refused, and labels that come sorted are read on through ("auto") or warned of. On several ranks all
            decide alike; they keep no checkpoints then. None for all of the data.

    Raises:
        ImportanceError: A value out of range, or `resume` without a checkpoint.
        DataError: The adapter is none.
    """

    dtype: torch.dtype = torch.float32
    amp: torch.dtype | None = None
    compiled: bool = False
    process_group: Group = None
    checkpoint: str | os.PathLike[str] | None = None
    checkpoint_seconds: float = 300.0
    resume: bool = False
    progress: bool = False
    adapter: Adapter = DEFAULT
    samples: int | Literal["auto"] | None = None

    def __post_init__(self) -> None:
        adapter_or_default(self.adapter)
        if self.dtype not in (torch.float32, torch.float64):
            raise ImportanceError(f"importances are float32 or float64, not {self.dtype}")
        if self.amp not in (None, torch.bfloat16, torch.float16):
            raise ImportanceError(f"amp is torch.bfloat16, torch.float16 or None, not {self.amp}")
        if not self.checkpoint_seconds >= 0:
            raise ImportanceError(f"checkpoint_seconds is a number of at least 0, not {self.checkpoint_seconds}")
        if self.checkpoint is not None and not isinstance(self.checkpoint, str | os.PathLike):
            raise ImportanceError(f"checkpoint is the path of a file, not {self.checkpoint!r}")
        known = self.samples is None or self.samples == "auto"
        if not known and (type(self.samples) is not int or self.samples < 1):
            raise ImportanceError(f'samples is a whole number of at least 1, "auto" or None, not {self.samples!r}')
        if self.resume and self.checkpoint is None:
            raise ImportanceError("resume=True needs the file to resume from: checkpoint=PATH")


class PassKeywords(TypedDict, total=False):
    """The fields of `PassOptions` as keyword arguments, for type checkers."""

    dtype: torch.dtype
    amp: torch.dtype | None
    compiled: bool
    process_group: Group
    checkpoint: str | os.PathLike[str] | None
    checkpoint_seconds: float
    resume: bool
    progress: bool
    adapter: Adapter
    samples: int | Literal["auto"] | None


def pass_options(options: PassOptions | None, keywords: PassKeywords) -> PassOptions:
    """The options with the given keywords in place of their fields.

    Args:
        options: None for the defaults.
        keywords: Fields of `PassOptions`, as `importance` got them.

    Raises:
        TypeError: A keyword that is no field.
        ImportanceError: A value out of range.
    """
    for name in keywords:
        if name not in PassKeywords.__annotations__:
            meant = did_you_mean(name, PassKeywords.__annotations__)
            raise TypeError(f"importance() got an unexpected keyword argument {name!r}{meant}")
    return replace(PassOptions() if options is None else options, **keywords)
