"""Checkpoint of a healing before its fine-tuning: suspects and their proposed labels."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from ..detection.suspect_list import LabelSummary, Suspects
from ..distributed import Ranks
from ..errors import DataError, FileError
from ..utils.atomic_files import check_writable
from ..utils.checksummed import load_checksummed, save_checksummed
from ..utils.cost import Cost
from .proposed_labels import ProposedLabels

FILE_KEY = "potion_fast.healing"  # the entry of the safetensors metadata that marks a file as ours


@dataclass(frozen=True)
class LabelsCheckpoint:
    """The file of a healing that can be interrupted, beside that of its fine-tuning.

    Attributes:
        path: Beginning of the files' names; None: nothing is kept.
        identity: What is healed, and how: plain values. A file of anything else is refused.
    """

    path: str | os.PathLike[str] | None
    identity: dict[str, Any]

    def __post_init__(self) -> None:
        for file in (self.labels, self.finetuning):
            if file is not None:
                check_writable(file)

    @property
    def labels(self) -> Path | None:
        """The file of suspects and labels."""
        return None if self.path is None else Path(f"{os.fspath(self.path)}.labels")

    @property
    def finetuning(self) -> Path | None:
        """The file of the fine-tuning."""
        return None if self.path is None else Path(f"{os.fspath(self.path)}.finetuning")

    def save(self, suspects: Suspects, labels: ProposedLabels, ranks: Ranks) -> None:
        """Write the file, on the first rank.

        Raises:
            FileError: It cannot be written.
        """
        if self.labels is None:
            return
        tensors: dict[str, Tensor] = {}
        values: dict[str, Any] = {}
        for part, given in (("suspects", suspects), ("labels", labels)):
            own = {field.name: getattr(given, field.name) for field in fields(given)}
            tensors |= {f"{part}.{name}": value.clone() for name, value in own.items() if isinstance(value, Tensor)}
            values[part] = {name: value for name, value in own.items() if not isinstance(value, Tensor)}
        values["suspects"]["by_label"] = [asdict(row) for row in suspects.by_label]
        values["labels"]["cost"] = asdict(labels.cost)
        with ranks.raising_together():
            if ranks.rank == 0:
                save_checksummed(self.labels, FILE_KEY, {"what": self.identity, **values}, tensors)

    def load(self, ranks: Ranks) -> tuple[Suspects, ProposedLabels] | None:
        """What the file holds, the first rank's for all; None where there is none.

        Raises:
            FileError: It is truncated, damaged or foreign.
            DataError: It is of another healing.
        """
        with ranks.raising_together():
            loaded = None if ranks.rank or self.labels is None or not self.labels.exists() else self._read(self.labels)
        return ranks.all_gather(loaded)[0]

    def _read(self, path: Path) -> tuple[Suspects, ProposedLabels]:
        content, tensors = load_checksummed(path, FILE_KEY, "interrupted healing")
        try:
            for key, value in self.identity.items():
                if (saved := content["what"].get(key)) != value:
                    raise DataError(
                        f"{path} is of another healing, its {key} was {saved} and is {value} now; remove the file"
                    )
            parts = {part: {**content[part], **_named(part, tensors)} for part in ("suspects", "labels")}
            rows = tuple(LabelSummary(**row) for row in parts["suspects"].pop("by_label"))
            warnings = tuple(parts["suspects"].pop("warnings"))
            cost = Cost(**parts["labels"].pop("cost"))
            suspects = Suspects(**parts["suspects"], by_label=rows, warnings=warnings)
            return suspects, ProposedLabels(**parts["labels"], cost=cost)
        except (KeyError, TypeError, AttributeError) as error:
            raise FileError(f"{path} cannot be read as an interrupted healing, it is damaged: {error}") from error

    def remove(self, ranks: Ranks) -> None:
        """Remove the file."""
        if self.labels is not None:
            with ranks.raising_together():
                if ranks.rank == 0:
                    self.labels.unlink(missing_ok=True)


def _named(part: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = f"{part}."
    return {name.removeprefix(prefix): tensor.clone() for name, tensor in tensors.items() if name.startswith(prefix)}
