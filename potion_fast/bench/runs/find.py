"""The search for poison in the data of a training run, into a run folder of its own."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch.utils.data import DataLoader, Subset

from ...user.own_find import searched, write_suspects
from ...user.run_folder import RunFolder
from ..configs.find import FindConfig
from ..data.text import TextSplits
from .inputs import check_out, listed_samples, load_trained, load_weights
from .suspect_list import check_trained_on, counts, file_names, moved


def find_run(
    config: FindConfig, out: str | os.PathLike[str], *, overwrite: bool = False, progress: bool = False
) -> dict[str, Any]:
    """Search the data of a training run for poison, with or without samples that were found.

    Writes what `write_suspects` does, and config.yaml; metrics.json also says how many of S_m are among the suspects.

    Args:
        config: of the search.
        out: run folder.
        overwrite: whether an earlier run there may go.
        progress: show progress bars.

    Returns:
        The content of metrics.json.

    Raises:
        DataError: the training run, the data and the found samples do not fit together.
        FileError: the run or a file is missing or broken.
        PotionError: as `suspects` raises it.
    """
    config = config.resolved()
    check_out(out, overwrite, config.run, config.root)
    trained = RunFolder.open(config.run)
    scenario, _ = load_trained(trained, config)
    found, notes = ([], []) if config.found is None else listed_samples(config.found, scenario)
    check_trained_on(scenario, found, "found samples")
    model, _ = load_weights(trained, scenario, config.device)
    run = RunFolder.create(out, overwrite)
    run.write_config("find", config.to_dict())
    places = torch.full((len(scenario.splits.train),), -1)
    places[scenario.trained_on] = torch.arange(len(scenario.trained_on))
    plain = scenario.train_set(augment=False)
    loader: DataLoader[Any] = DataLoader(
        Subset(plain, scenario.trained_on),
        batch_size=config.batch_size or scenario.config.batch_size,
        num_workers=config.workers,
    )
    members = places[sorted(found)].tolist() if found else None
    listed = searched(
        model,
        loader,
        members,
        errors=config.label_errors,
        rate=config.rate,
        amp=config.amp,
        progress=progress,
    )
    listed = moved(listed, torch.tensor(scenario.trained_on))
    is_text = isinstance(scenario.splits, TextSplits)
    return write_suspects(
        run,
        listed,
        plain.labels,
        [name.strip() for name in scenario.splits.classes],
        file_names(scenario),
        None if is_text else lambda indices: scenario.pixels(plain.batch(indices)[0]),
        notes,
        {"counts": counts(scenario, listed)},
    )
