"""Checkpoint of a fine-tuning: weights, moments of the optimiser, the best model so far and the trace."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import DataError, FileError
from ..utils.checksummed import load_checksummed, save_checksummed
from .result import Evaluation

FILE_KEY = "potion_fast.finetuning"  # the entry of the safetensors metadata that marks a file as ours


@dataclass(frozen=True)
class Checkpoint:
    """The file of a fine-tuning that can be interrupted.

    Attributes:
        path: Of the file.
        identity: What is fine-tuned on what: plain values. A file of anything else is refused.
    """

    path: str | os.PathLike[str]
    identity: dict[str, Any]

    def save(self, trace: list[Evaluation], state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Write the file, whole or not at all.

        Args:
            trace: So far.
            state: Plain values.
            tensors: By name.

        Raises:
            FileError: It cannot be written.
        """
        content = {"what": self.identity, "trace": [asdict(entry) for entry in trace], "state": state}
        save_checksummed(self.path, FILE_KEY, content, tensors)

    def load(self, like: dict[str, Tensor]) -> tuple[list[Evaluation], dict[str, Any], dict[str, Tensor]] | None:
        """Trace, state and tensors of the file; None where there is no file.

        Args:
            like: Tensors of the same names and shapes.

        Raises:
            FileError: It is truncated, damaged or foreign.
            DataError: It is of another fine-tuning.
        """
        if not Path(self.path).exists():
            return None
        content, tensors = load_checksummed(self.path, FILE_KEY, "interrupted fine-tuning")
        try:
            for key, value in self.identity.items():
                if (saved := content["what"].get(key)) != value:
                    raise DataError(
                        f"{self.path} is of another fine-tuning, its {key} was {saved} and is {value} now; remove the "
                        "file"
                    )
            trace = [Evaluation(**entry) for entry in content["trace"]]
            state = dict(content["state"])
            for name, tensor in like.items():
                if tensors[name].shape != tensor.shape or tensors[name].dtype != tensor.dtype:
                    raise TypeError(f"its {name} are of another shape or dtype")
        except (KeyError, TypeError, AttributeError) as error:
            raise FileError(
                f"{self.path} cannot be read as an interrupted fine-tuning, it is damaged: {error}"
            ) from error
        return trace, state, tensors

    def remove(self) -> None:
        """Remove the file."""
        Path(self.path).unlink(missing_ok=True)
