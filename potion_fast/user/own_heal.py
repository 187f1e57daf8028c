"""The healing of a user's own model on a user's own data, into a run folder."""

from __future__ import annotations

import os
import warnings
from dataclasses import astuple, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..detection import Suspects
from ..errors import DataError, FileError, PotionWarning
from ..finetuning import Evaluation
from ..healing import heal
from ..healing_result import HealResult
from .found import read_found
from .own import Own, read_own
from .own_config import OwnConfig, OwnHealConfig
from .run_folder import RunFolder, strict
from .suspect_sheet import draw_suspects, labels_for
from .training_files import TrainingFiles

EXCERPT = 200  # characters of a text in suspects.txt


def heal_own(
    config: OwnHealConfig, out: str | os.PathLike[str], *, overwrite: bool = False, progress: bool = False
) -> dict[str, Any]:
    """Heal a user's own model from the poisoned samples that were found, or from suspects.

    Writes config.yaml, found.txt (S_f, where it was given), the healed weights in the form in which they came
    ("healed.pth" beside the rest of the checkpoint, "healed.safetensors" or the folder "healed"), suspects.csv,
    suspects.png (of images) or suspects.txt (of texts), classes.csv (clean accuracy by class), trace.csv and
    metrics.json. The method is `heal`.

    Args:
        config: of the healing.
        out: run folder.
        overwrite: whether an earlier run there may go.
        progress: show progress bars.

    Returns:
        The content of metrics.json.

    Raises:
        DataError: model, data, found samples or suspects do not fit together.
        FileError: a file is missing or broken.
        PotionError: as `heal` raises it.
    """
    config = config.resolved()
    check_apart(config, out)
    RunFolder.check_free(out, overwrite)
    if config.found is None and config.suspects is None:
        raise DataError(
            "--found is missing: name the poisoned samples that were found, one or more; where none were, give the "
            "suspects.csv of potion-fast find as --suspects"
        )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PotionWarning)
        own = read_own(config, config.device)
        given = None if config.suspects is None else _read_suspects(config.suspects, own.files)
        found = None if config.found is None else sorted(read_found(config.found, own.files))
    read_notes = [str(warning.message) for warning in caught if issubclass(warning.category, PotionWarning)]
    run = RunFolder.create(out, overwrite)
    run.write_config("heal", config.to_dict() | config.absolute_paths())
    if found is not None:
        run.write_indices("found.txt", found)
    result = _healed(own, config, found, given, progress)
    weights = own.weights.save_model(run.path, result.model.cpu())
    suspects = replace(result.suspects, proposed=labels_for(result.suspects, result.labels))
    suspects.save(run / "suspects.csv", files=own.files.file_names())
    run.write_csv("trace.csv", [field.name for field in fields(Evaluation)], map(astuple, result.trace))
    classes = [(own.class_names[row.label], row.samples, row.before, row.after) for row in result.finetuning.by_class]
    run.write_csv("classes.csv", ["class", "samples", "before", "after"], classes)
    _show_suspects(run.path, suspects, own)
    notes = [*own.notes, *read_notes, *result.warnings]
    content: dict[str, Any] = strict(
        {
            "healing": {name: value for name, value in result.summary().items() if name != "warnings"},
            "weights": str(weights),
            "samples": len(own.files),
            "classes": own.class_names,
            "inputs": None if own.inputs is None else str(own.inputs),
            "given_accuracy": own.accuracy.value,
            "given_accuracy_samples": own.accuracy.samples,
            "warnings": notes,
        }
    )
    run.write_json("metrics.json", content)
    return content


def check_apart(config: OwnConfig, out: str | os.PathLike[str]) -> None:
    """Raise FileError where the run's folder holds what is read, or would lie among it."""
    target = Path(os.path.realpath(out))
    names = ("weights", "data", "plain_data", "validation", "found", "suspects")
    for path in (getattr(config, name, None) for name in names):
        if path is None or not os.path.exists(path):
            continue
        read = Path(os.path.realpath(path))
        if read.is_relative_to(target) or (read.is_dir() and target.is_relative_to(read)):
            raise FileError(f"{path} is read by this run, and {out} cannot be its folder; choose one apart from it")


def _healed(
    own: Own, config: OwnHealConfig, found: list[int] | None, suspects: Suspects | None, progress: bool
) -> HealResult:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PotionWarning)  # the result contains them, and so does metrics.json
        return heal(
            own.model,
            own.train,
            found,
            suspects=suspects,
            plain_set=own.plain,
            validation=own.validation,
            rate=config.rate,
            labels=config.labels,
            max_damage=config.max_damage,
            amp=None if config.amp is None else getattr(torch, config.amp),
            compiled=config.compiled,
            seed=config.seed,
            inplace=True,
            progress=progress,
        )


def _read_suspects(path: str, files: TrainingFiles) -> Suspects:
    """The suspects of a suspects.csv, perhaps edited, or of a list of samples.

    Raises:
        DataError: the list is one of other data, or holds no suspect.
        FileError: it cannot be read.
    """
    is_table = Path(path).suffix.lower() == ".csv"
    try:
        suspects = Suspects.load(path) if is_table else Suspects.of_indices(read_found(path, files))
        suspects = suspects.checked(files.labels)
    except DataError as error:
        raise error if path in str(error) else DataError(f"{path}: {error}") from error
    if not len(suspects):
        raise DataError(f"{path} holds no suspect; leave it out to have them sought")
    return replace(suspects, found=suspects.found[:0], fits=suspects.fits[:0])  # --found counts


def _show_suspects(folder: Path, suspects: Suspects, own: Own) -> None:
    """Draw the contact sheet of images, or list the texts."""
    if own.files.texts is not None:
        show_texts(RunFolder(folder), suspects, own)
    elif (pictures := images_of(own)) is not None:
        draw_suspects(folder / "suspects.png", suspects, pictures, own.files.labels, own.class_names)


def show_texts(run: RunFolder, suspects: Suspects, own: Own) -> None:
    """Write suspects.txt: the beginnings of the texts, most suspect first."""
    texts, names, proposed = own.files.texts or [], own.class_names, suspects.proposed
    lines = [
        f"{index}\t{names[int(own.files.labels[index])]}\t"
        f"{'' if proposed is None or proposed[place] < 0 else names[int(proposed[place])]}\t"
        f"{' '.join(texts[index].split())[:EXCERPT]}\n"
        for place, index in enumerate(suspects.indices.tolist())
    ]
    run.write_text("suspects.txt", "index\tgiven\tproposed\ttext\n" + "".join(lines))


def images_of(own: Own) -> Any:
    """What gives the images of samples as pixels in [0, 1]; None where they are no images."""
    if own.source is not None:
        source = own.source
        return lambda indices: source.images(indices).float() / 255
    dataset = own.train.dataset

    def scaled(indices: list[int]) -> Tensor:
        return torch.stack([_scaled(dataset[index][0]) for index in indices])

    first: Any = dataset[0]
    is_image = isinstance(first, (tuple, list)) and isinstance(first[0], Tensor) and first[0].ndim == 3
    return scaled if is_image else None


def _scaled(image: Tensor) -> Tensor:
    """An input of unknown normalisation, from its darkest to its brightest value."""
    low, high = image.min(), image.max()
    return (image - low) / (high - low).clamp_min(1e-8)
