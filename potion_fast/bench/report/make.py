"""The report of a sweep: from its result files to tables, figures and a page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import FileError, PotionError
from ...user.read_data import read_json, read_yaml
from ...user.run_folder import RunFolder
from ...utils.atomic_files import UNFINISHED
from ..sweep.rows import Row, read_rows
from .page import Page, page_html
from .pawelczyk.make import pawelczyk_report
from .picture import FORMATS, save
from .potion.make import potion_report
from .results_csv import write_csv
from .table import FORMS, to_csv, to_markdown
from .warning_table import warnings_of

MANIFEST = "report.json"  # the mark of a report's folder: what it holds
SAMPLES = 256  # clean training images that a model is measured on


def report_sweep(
    sweep: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    samples: int = SAMPLES,
) -> dict[str, Any]:
    """Write the tables, figures and page of a sweep; an earlier report in the same folder is replaced.

    Args:
        sweep: folder of `potion-fast sweep`: results/*.json, and its models for the figures that need one.
        out: folder to write; None: `report` in the sweep's folder.
        samples: training images that a trained model is measured on, for figures 3 to 5 and 7; 0: no model is used.

    Returns:
        What was made: the page, the number of rows, the names of tables and figures, why others were not drawn, and the
        number of warnings.

    Raises:
        FileError: results that are missing, broken or foreign, or a folder that holds something else.
        PotionError: a negative number of samples.
    """
    if samples < 0:
        raise PotionError(f"samples must be at least 0, not {samples}")
    folder = Path(sweep)
    rows = read_rows(folder / "results")
    target = RunFolder(out or folder / "report")
    earlier = _earlier(target)
    try:
        target.path.mkdir(parents=True, exist_ok=True)
        target.write_json(MANIFEST, {"files": earlier})  # from the start: an interrupted report is replaced
        for part in ("tables", "figures"):
            (target / part).mkdir(exist_ok=True)
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"cannot make the folder {target.path} of a report: {error}") from error

    papers = [pawelczyk_report(rows), potion_report(rows, folder / "models", samples)]
    potion_first = papers[::-1]
    files = ["results.csv", "index.html", MANIFEST]
    write_csv(target / "results.csv", rows)
    tables = [table for paper in potion_first for table in paper.tables if not table.missing]
    for table in tables:
        files += _write(target, table.name, {"md": to_markdown(table), "csv": to_csv(table)})
    drawn = [picture for paper in potion_first for picture in paper.pictures if picture.figure is not None]
    for picture in drawn:
        files += [f"figures/{name}" for name in save(picture, target / "figures")]
    content = Page(
        title=f"Sweep {folder.resolve().name}",
        facts=_facts(rows, folder),
        sections=[section for paper in papers for section in paper.sections],
        warnings=warnings_of(rows),
        commands=list(dict.fromkeys(row.command for row in rows if row.command)),
    )
    target.write_text("index.html", page_html(content))
    for name in sorted(set(earlier) - set(files)):
        (target / name).unlink(missing_ok=True)
    left_out = {name: why for paper in potion_first for name, why in paper.missing.items()}
    target.write_json(MANIFEST, {"rows": len(rows), "files": sorted(files), "not drawn": left_out})
    return {
        "page": str(target / "index.html"),
        "rows": len(rows),
        "tables": [table.name for table in tables],
        "figures": [picture.name for picture in drawn],
        "not_drawn": left_out,
        "warnings": len(content.warnings),
    }


def _write(target: RunFolder, name: str, texts: dict[str, str]) -> list[str]:
    names = [f"tables/{name}.{end}" for end in texts]
    for path, text in zip(names, texts.values(), strict=True):
        target.write_text(path, text)
    return names


def _earlier(target: RunFolder) -> list[str]:
    """The files of an earlier report in this folder. Raises FileError where something else is there."""
    try:
        entries = target.path.iterdir() if target.path.is_dir() else [target.path] if target.path.exists() else []
        taken = not all(UNFINISHED.fullmatch(path.name) for path in entries)  # of a process that was killed
    except OSError as error:
        raise FileError(f"cannot make the folder {target.path} of a report: {error}") from error
    if not taken:
        return []
    try:
        files = read_json(target / MANIFEST)["files"]
        if not all(isinstance(name, str) and (name == MANIFEST or _ours(name)) for name in files):
            raise ValueError("it names other files")
    except (FileError, ValueError, KeyError, TypeError) as error:
        raise FileError(f"{target.path} is there and is not the folder of a report; choose another folder") from error
    return list(files)


def _ours(name: str) -> bool:
    """Whether a report may have written a file of this name: nothing outside its folder is ever removed."""
    folder, slash, rest = name.rpartition("/")
    if slash and not folder:
        return False  # of the root
    ends = {"": ("csv", "html", "json"), "tables": (*FORMS, "tex"), "figures": FORMATS}
    return folder in ends and rest.rpartition(".")[2] in ends[folder] and not rest.startswith(".")


def _facts(rows: Sequence[Row], folder: Path) -> list[tuple[str, str]]:
    """What the sweep was, and on what it ran."""

    def listed(values: Sequence[Any]) -> str:
        return ", ".join(dict.fromkeys(str(value) for value in values if value is not None)) or "not said"

    files = len({row.file for row in rows})
    facts = [
        ("rows", f"{len(rows)} of {files} unlearnings"),
        ("presets", listed([row.preset for row in rows])),
        ("data", listed([row.data for row in rows])),
        ("models", listed([row.model for row in rows])),
        ("attacks", listed([row.attack_name for row in rows])),
        ("methods", listed([row.method for row in rows])),
        ("seeds", listed(sorted({row.seed for row in rows}))),
    ]
    try:
        content = read_yaml(folder / "sweep.yaml")
        facts.append(("versions", ", ".join(f"{name} {text}" for name, text in content["versions"].items())))
    except (FileError, TypeError, KeyError, AttributeError):
        facts.append(("versions", "not known: there is no sweep.yaml that names them"))
    return facts
