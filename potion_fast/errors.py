"""The project's own errors. Each message names what was wrong and what to do."""


class PotionError(Exception):
    """Base of every error that the library raises on purpose."""


class ImportanceError(PotionError, ValueError):
    """Importances that cannot be computed, merged, compared or used with this model."""


class SearchError(PotionError, ValueError):
    """A search that cannot start: a parameter out of range, an empty forget set."""


class DataError(PotionError, ValueError):
    """A data set, a loader or a list of indices that is not what was asked for."""


class ModelError(PotionError, ValueError):
    """A model that is unknown, does not fit its weights, or holds weights that are not finite."""


class FileError(PotionError, OSError):
    """A file or a run folder that is missing, foreign, truncated or already taken."""


class OutOfMemoryError(PotionError, MemoryError):
    """A pass, a plan or a search that needs more memory than there is."""


class BackendError(PotionError, RuntimeError):
    """A backend that was asked for by name and is not there."""


class PotionWarning(UserWarning):
    """Something that leaves a result valid but worth a second look; results keep these in `warnings`."""
