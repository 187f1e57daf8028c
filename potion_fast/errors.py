"""The project's own errors. Each message names what was wrong and what to do."""

from __future__ import annotations

from typing_extensions import Self


class PotionError(Exception):
    """Base of every error that the library raises on purpose."""


class ImportanceError(PotionError, ValueError):
    """Importances that cannot be computed, merged, compared or used with this model."""


class SearchError(PotionError, ValueError):
    """A search that cannot start: a parameter out of range, an empty forget set."""


class DataError(PotionError, ValueError):
    """A data set, a loader or a list of indices that is invalid or does not fit."""

    def saying(self, text: str) -> Self:
        """The same error in other words."""
        other = type(self)(text)
        other.__dict__.update(self.__dict__)
        return other


class LabelError(DataError):
    """A label that is no class of the model's.

    Attributes:
        label: It.
        named: Whether the text names the sample that has it.
    """

    label: int | None = None
    named: bool = False


class ModelError(PotionError, ValueError):
    """A model that is unknown, does not fit its weights, or holds weights that are not finite."""


class FileError(PotionError, OSError):
    """A file or a run folder that is missing, foreign, truncated or already taken."""


class OutOfMemoryError(PotionError, MemoryError):
    """A pass, a plan or a search that needs more memory than is available."""


class BackendError(PotionError, RuntimeError):
    """A backend that was requested by name and is not available."""


class PotionWarning(UserWarning):
    """A result that is valid but deserves a second look; results keep these texts in `warnings`."""
