"""Data sets, poisoned views of them, loaders, and lists of found samples."""

from .dataset import PoisonedDataset, max_value, normalise
from .indices import read_indices
from .loader import Loader, make_loader
from .named import load_dataset
from .photographs import PhotographSource, Preprocessing
from .sources import AppendedSource, FileSource, ImageSource, MemorySource
from .splits import Splits
from .text import TextDataset, TextSplits

__all__ = [
    "AppendedSource",
    "FileSource",
    "ImageSource",
    "Loader",
    "MemorySource",
    "PhotographSource",
    "PoisonedDataset",
    "Preprocessing",
    "Splits",
    "TextDataset",
    "TextSplits",
    "load_dataset",
    "make_loader",
    "max_value",
    "normalise",
    "read_indices",
]
