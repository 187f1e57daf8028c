"""Links and paths in the Markdown files."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    "README.md",
    "benchmarks/README.md",
    "csrc/README.md",
    *sorted(f"docs/{p.name}" for p in ROOT.glob("docs/*.md")),
]
FOLDERS = "benchmarks|csrc|docs|kernels|potion_fast|tests"
LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
PATH = re.compile(rf"(?<![\w./-])(?:{FOLDERS})/[\w./-]*[\w/](?![\w./-]*[<*{{])")
TABLE = re.compile(r"<!-- table: (?P<command>.*?) -->")
EXAMPLES = ("clamp_sums", "ga_clipped", "checkerboard")  # names of files that a reader of docs/add-*.md writes
MAY_BE_MISSING = "benchmarks/results/gpu"  # measured on a machine with a GPU; a table says "Not measured" until then


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def anchors_of(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_to_a_file_and_a_heading(page: str) -> None:
    broken = []
    for target in LINK.findall(text_of(page)):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        if not file.exists() or (anchor and anchor not in anchors_of(file.read_text(encoding="utf-8"))):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", PAGES)
def test_every_path_that_is_named_exists(page: str) -> None:
    text = re.sub(r"<!--.*?-->", "", LINK.sub("]", text_of(page)))
    named = {path for path in PATH.findall(text) if not path.startswith(MAY_BE_MISSING)}
    named = {path for path in named if not any(example in path for example in EXAMPLES)}
    missing = sorted(
        path for path in named if not (ROOT / path).exists() and not (ROOT / page).parent.joinpath(path).exists()
    )
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_every_table_names_a_study(page: str) -> None:
    scripts = {shlex.split(command)[0] for command in TABLE.findall(text_of(page))}
    assert not {script for script in scripts if not (ROOT / "benchmarks" / "studies" / script).exists()}


def test_the_index_of_the_documentation_lists_every_page() -> None:
    linked = {target.partition("#")[0] for target in LINK.findall(text_of("docs/README.md"))}
    assert linked >= {page.name for page in ROOT.glob("docs/*.md") if page.name != "README.md"}
