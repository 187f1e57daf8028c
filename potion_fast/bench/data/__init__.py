"""Data sets, poisoned views of them, loaders, and lists of found samples."""

from ...user.image_source import AppendedSource, FileSource, ImageSource, MemorySource
from ...user.indices import read_indices
from ...user.jpeg_source import JpegSource, Preprocessing
from .dataset import PoisonedDataset, max_value, normalise
from .loader import Loader, make_loader
from .registry import load_dataset
from .splits import Splits
from .text import TextDataset, TextSplits

__all__ = [
    "AppendedSource",
    "FileSource",
    "ImageSource",
    "Loader",
    "MemorySource",
    "JpegSource",
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
