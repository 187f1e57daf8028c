"""Export of the poisoned data for other programs: folders of PNG files, or .npz files."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image

from ...errors import DataError, PotionError
from ...user.run_folder import EXPORTED, RunFolder
from ...utils.atomic_files import folder_written_whole, written_whole
from ...utils.did_you_mean import choices_for
from ...utils.progress import bar
from ..configs import TrainConfig
from ..configs.defaults import TEXT
from ..data import PoisonedDataset
from .inputs import PERTURBATIONS, check_out
from .scenario import Scenario

Format = Literal["folder", "npz"]

BATCH = 256  # images in memory at a time


def export_run(
    config: TrainConfig,
    out: str | os.PathLike[str],
    *,
    form: Format = "folder",
    overwrite: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Write the poisoned training images, the clean test images and, where there is a trigger, the triggered ones.

    Pixels are rounded to 8 bits and clipped: what a patch or a perturbation has beyond the range of an image is lost.
    Nothing is augmented. Writes config.yaml, poisoned.txt (S_m), found.txt (S_f), samples.csv (every training sample:
    its index, the label it has and had, whether it is of S_m or S_f), where S_m is perturbed perturbations.safetensors,
    which are whole, and

    form="folder"  train/<class>/<index>.png, test/ and triggered/, as torchvision's ImageFolder reads them; a poisoned
                   sample lies in the folder of the label that it was given
    form="npz"     train.npz, test.npz and triggered.npz: images uint8 [N, H, W, C] and labels int64 [N]; in train.npz
                   also clean_labels int64 [N], and the indices of S_m (poisoned) and S_f (found)

    A split is written whole or not at all, BATCH images at a time.

    Args:
        config: of the training.
        out: run folder.
        form: of the export.
        overwrite: whether an earlier run there may go.
        progress: show progress bars.

    Returns:
        How many images each split has.

    Raises:
        PotionError: an unknown form, and the errors of `Scenario.load` and `RunFolder`.
        DataError: texts, or images of other than one or three channels as files.
        FileError: a file or folder is in the way.
    """
    if form not in get_args(Format):
        raise PotionError(f"unknown form {form!r} of an export; choose one of {choices_for(form, get_args(Format))}")
    check_out(out, overwrite, config.root)
    if any((Path(out) / name).exists() for name in EXPORTED):
        RunFolder.open(out).read_config("export")  # raises where no export made them
    if config.data in TEXT:
        raise DataError("only images are exported; `potion-fast preview` shows what a poison does to texts")
    scenario = Scenario.load(config)
    if form == "folder" and scenario.splits.channels not in (1, 3):
        raise DataError(
            f"images of {scenario.splits.channels} channels are exported as arrays alone: --form npz (form='npz')"
        )
    splits = {"train": scenario.train_set(augment=False), "test": scenario.splits.dataset("test")}
    if scenario.poison.has_trigger:
        splits["triggered"] = scenario.splits.dataset("test", poison=scenario.poison, trigger_all=True)

    run = RunFolder.create(out, overwrite)
    run.write_config("export", {**scenario.config.data_part(), "form": form})
    scenario.write_indices(run)
    if scenario.table is not None:
        scenario.table.save(run / PERTURBATIONS)
    for name, dataset in splits.items():
        batches = bar(range(0, len(dataset), BATCH), label=name, unit="batch", shown=progress)
        images = (_batch(scenario, dataset, start) for start in batches)
        if form == "folder":
            _write_folder(run / name, images, dataset.labels, folder_names(scenario.splits.classes))
        else:
            _write_npz(run / f"{name}.npz", images, _arrays(scenario, dataset, name))
    train, s_m, s_f = splits["train"], set(scenario.poisoned), set(scenario.found)
    clean = scenario.splits.train.labels.tolist()
    rows = (
        (index, label, clean[index], int(index in s_m), int(index in s_f))
        for index, label in enumerate(train.labels.tolist())
    )
    run.write_csv("samples.csv", ("index", "label", "clean_label", "poisoned", "found"), rows)
    return {
        "images": {name: len(dataset) for name, dataset in splits.items()},
        "poisoned": len(scenario.poisoned),
        "found": len(scenario.found),
    }


def folder_names(classes: tuple[str, ...]) -> list[str]:
    """A folder per class that ImageFolder, which sorts them, gives the class's own label: its name, or its number."""
    plain = all(name and name == os.path.basename(name) and name not in (".", "..") for name in classes)
    if plain and sorted(set(classes)) == list(classes):
        return list(classes)
    return [f"{label:0{len(str(len(classes) - 1))}d}" for label in range(len(classes))]


def _batch(scenario: Scenario, dataset: PoisonedDataset, start: int) -> np.ndarray:  # [B, H, W, C] uint8
    rows = range(start, min(start + BATCH, len(dataset)))
    pixels = scenario.pixels(dataset.batch(rows)[0])
    return (pixels * 255).round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def _write_folder(
    path: Path,
    batches: Iterator[np.ndarray],  # of [B, H, W, C] uint8
    labels: torch.Tensor,  # [N]
    names: list[str],  # [C]
) -> None:
    digits = len(str(len(labels) - 1))
    with folder_written_whole(path) as temporary:
        for name in names:
            (temporary / name).mkdir()
        index = 0
        for batch in batches:
            for image in batch:
                file = temporary / names[int(labels[index])] / f"{index:0{digits}d}.png"
                Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(file)
                index += 1


def _arrays(scenario: Scenario, dataset: PoisonedDataset, name: str) -> dict[str, np.ndarray]:
    """The arrays that are stored with the images of a split."""
    arrays = {"labels": dataset.labels.numpy()}
    if name == "train":
        arrays["clean_labels"] = scenario.splits.train.labels.numpy()
        arrays["poisoned"] = np.array(scenario.poisoned, dtype=np.int64)
        arrays["found"] = np.array(scenario.found, dtype=np.int64)
    return arrays


def _write_npz(
    path: Path,
    batches: Iterator[np.ndarray],  # of [B, H, W, C] uint8
    arrays: dict[str, np.ndarray],  # "labels" [N], and others
) -> None:
    """As `numpy.savez`, which needs the images as one array: here they pass through batch by batch."""
    with written_whole(path) as temporary, zipfile.ZipFile(temporary, "w") as file:
        for name, array in arrays.items():
            with file.open(f"{name}.npy", "w") as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
        with file.open("images.npy", "w", force_zip64=True) as entry:
            for number, batch in enumerate(batches):
                if number == 0:
                    shape = (len(arrays["labels"]), *batch.shape[1:])
                    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(entry, header)
                entry.write(batch.tobytes())
