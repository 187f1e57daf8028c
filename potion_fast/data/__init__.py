"""Data sets, poisoned views of them, loaders, and lists of found samples."""

from .dataset import PoisonedDataset, make_loader, max_value, normalise
from .indices import read_indices
from .sources import FileSource, ImageSource, MemorySource
from .splits import Splits, load_dataset

__all__ = [
    "FileSource",
    "ImageSource",
    "MemorySource",
    "PoisonedDataset",
    "Splits",
    "load_dataset",
    "make_loader",
    "max_value",
    "normalise",
    "read_indices",
]
