"""The search for poison in a user's own training data, into a run folder."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from ..detection import LabelSummary, Suspects, label_errors, suspects
from ..detection.described_trigger import Trigger
from ..errors import DataError, PotionWarning
from .found import read_found
from .own import read_own
from .own_config import OwnFindConfig
from .own_heal import check_apart, images_of, show_texts
from .run_folder import RunFolder, strict
from .suspect_sheet import draw_suspects
from .trigger import read_trigger


def find_own(
    config: OwnFindConfig, out: str | os.PathLike[str], *, overwrite: bool = False, progress: bool = False
) -> dict[str, Any]:
    """Search a user's own training data for poison, with or without samples that were found.

    Writes what `write_suspects` does, and config.yaml. The method is `potion_fast.suspects`.

    Args:
        config: of the search.
        out: run folder.
        overwrite: whether an earlier run there may go.
        progress: show progress bars.

    Returns:
        The content of metrics.json.

    Raises:
        DataError: model and data do not fit together.
        FileError: a file is missing or broken.
        PotionError: as `suspects` raises it.
    """
    config = config.resolved()
    check_apart(config, out)
    RunFolder.check_free(out, overwrite)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PotionWarning)
        own = read_own(config, config.device)
        found = None if config.found is None else sorted(read_found(config.found, own.files))
        trigger = None if config.trigger is None else read_trigger(config.trigger, own.inputs)
    notes = [*own.notes, *(str(warning.message) for warning in caught)]
    run = RunFolder.create(out, overwrite)
    run.write_config("find", config.to_dict() | config.absolute_paths())
    listed = searched(
        own.model,
        own.train,
        found,
        errors=config.label_errors,
        rate=config.rate,
        amp=config.amp,
        trigger=trigger,
        plain_set=own.plain,
        progress=progress,
    )
    if own.files.texts is not None:
        show_texts(run, listed, own)
    more = {"given_accuracy": own.accuracy.value, "given_accuracy_samples": own.accuracy.samples}
    return write_suspects(
        run, listed, own.files.labels, own.class_names, own.files.file_names(), images_of(own), notes, more
    )


def searched(
    model: nn.Module,
    train_set: object,
    found: list[int] | None,
    *,
    errors: bool,
    rate: float,
    amp: str | None,
    trigger: Trigger | None = None,
    plain_set: object = None,
    progress: bool = False,
) -> Suspects:
    """The suspects that a search finds, or label errors.

    Args:
        model: the model.
        train_set: see `suspects`.
        found: S_f; None where nothing was found.
        errors: label errors are sought, in place of poison.
        rate: see `suspects`.
        amp: name of the dtype of autocast.
        trigger: see `suspects`.
        plain_set: see `suspects`.
        progress: show progress bars.

    Raises:
        DataError: label errors are asked for, and what the poison is as well.
        PotionError: as `suspects` and `label_errors` raise it.
    """
    dtype = None if amp is None else getattr(torch, amp)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PotionWarning)  # the list contains them, and so does metrics.json
        if errors:
            if found is not None or trigger is not None:
                raise DataError("--label-errors seeks no poison; leave --found and --trigger out")
            return label_errors(model, train_set, plain_set=plain_set, amp=dtype, progress=progress)
        return suspects(
            model,
            train_set,
            found,
            trigger=trigger,
            plain_set=plain_set,
            rate=rate,
            amp=dtype,
            progress=progress,
        )


def write_suspects(
    run: RunFolder,
    listed: Suspects,
    labels: Tensor,
    names: Sequence[str],
    files: Sequence[str] | None,
    pictures: Callable[[list[int]], Tensor] | None,
    notes: Sequence[str],
    more: dict[str, Any],
) -> dict[str, Any]:
    """Write suspects.csv, suspects.png (of images), labels.csv (p-value and more of each label) and metrics.json.

    Args:
        run: folder of the run.
        listed: the suspects.
        labels: int64 [N], of the whole training set.
        names: of the classes.
        files: of the samples [N]; None where they are none.
        pictures: gives the images of samples, pixels in [0, 1]; None where they are none.
        notes: what deserves a second look.
        more: further entries of metrics.json.

    Returns:
        The content of metrics.json.
    """
    listed.save(run / "suspects.csv", files=files)
    columns = [field.name for field in fields(LabelSummary)]
    rows = [{name: getattr(row, name) for name in columns} | {"name": names[row.label]} for row in listed.by_label]
    run.write_csv("labels.csv", [*columns, "name"], (list(row.values()) for row in rows))
    if pictures is not None:
        draw_suspects(run / "suspects.png", listed, pictures, labels, names)
    content: dict[str, Any] = strict(
        {
            "suspects": len(listed),
            "samples": len(labels),
            "rate": listed.rate,
            "why": listed.why,
            "labels": rows,
            **more,
            "warnings": [*notes, *listed.warnings],
        }
    )
    run.write_json("metrics.json", content)
    return content
