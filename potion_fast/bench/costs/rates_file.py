"""Rates on file: JSON, of this machine for later or of another one."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...errors import FileError, PotionError
from ...utils.atomic_files import written_whole
from .cost_model import Rates

FILE_KEY = "potion_fast.rates"  # the entry that marks a file as ours


def save_rates(path: str | os.PathLike[str], rates: Rates, measured: dict[str, Any]) -> None:
    """Write rates and what they were measured on, whole or not at all.

    Raises:
        FileError: the file cannot be written.
    """
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps({FILE_KEY: asdict(rates), "measured": measured}, indent=2) + "\n", "utf-8")


def load_rates(path: str | os.PathLike[str]) -> tuple[Rates, dict[str, Any]]:
    """What `save_rates` wrote.

    Raises:
        FileError: a file that is missing, foreign, or holds a rate out of range.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        rates, measured = dict(content[FILE_KEY]), dict(content["measured"])
        links = {int(n): float(rate) for n, rate in rates.pop("links").items()}
        return Rates(**{name: float(rate) for name, rate in rates.items()}, links=links), measured
    except OSError as error:
        raise FileError(f"no rates at {path}: {error}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, PotionError) as error:
        raise FileError(f"{path} cannot be read as rates of `potion-fast plan`: {error}") from error
