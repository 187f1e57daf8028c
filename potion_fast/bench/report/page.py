"""One HTML page with the whole report: no script, no network; the pictures are files next to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from .picture import Picture
from .table import Table

STYLE = """
:root { --ink: #222; --muted: #5f5f5f; --line: #ddd; --teal: #1b7f79; --red: #c8553d; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); margin: 0 auto; padding: 1rem; max-width: 100rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.3rem; margin-top: 2.5rem; border-bottom: 2px solid var(--teal); }
h3 { font-size: 1.05rem; margin: 2rem 0 .4rem; }
p, li, figcaption, summary { color: var(--muted); font-size: .93rem; max-width: 72rem; }
a { color: var(--teal); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .8rem; }
th, td { padding: .3rem .4rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { vertical-align: bottom; white-space: normal; min-width: 4rem; }
th.text, td.text { text-align: left; white-space: normal; min-width: 3rem; } td.paper, th.paper { color: var(--muted); }
td.text:first-child, thead th:first-child { position: sticky; left: 0; background: #fff; }
td.wrap { white-space: normal; min-width: 14rem; }
tr.part th { text-align: left; background: #f2f6f6; min-width: 0; }
td.missing { color: var(--red); font-style: italic; }
figure { margin: 1rem 0 2rem; } img { max-width: min(100%, 72rem); height: auto; }
pre { overflow-x: auto; background: #f6f6f6; padding: .6rem; font-size: .8rem; }
.none { border-left: 3px solid var(--red); padding-left: .8rem; }
nav a { display: inline-block; margin-right: 1rem; }
@page { size: A4 landscape; margin: 1cm; }
@media print {
  body { max-width: none; padding: 0; font-size: 9pt; }
  .wide, pre { overflow: visible; } pre { white-space: pre-wrap; }
  table { font-size: 6.5pt; width: 100%; } thead { display: table-header-group; } tr, figure { break-inside: avoid; }
  th, td { padding: .1rem .2rem; white-space: normal; min-width: 0; } td.wrap { min-width: 0; }
  td.text:first-child, thead th:first-child { position: static; }
}
"""


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading, to which the top of the page leads.

    Attributes:
        name: of the link to it.
        title: its heading.
        parts: HTML; a section without any is not shown.
    """

    name: str
    title: str
    parts: Sequence[str]


@dataclass(frozen=True)
class PaperReport:
    """What a report has of one paper.

    Attributes:
        tables: made or not.
        pictures: drawn or not.
        sections: of the page, with both.
    """

    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    sections: Sequence[Section] = ()

    @property
    def missing(self) -> dict[str, str]:
        """Why a table or figure is not there, by name."""
        pictures = {picture.name: picture.missing for picture in self.pictures if picture.figure is None}
        tables = {table.name: table.missing for table in self.tables if table.missing}
        return {**tables, **pictures}


@dataclass(frozen=True)
class Page:
    """What the page shows.

    Attributes:
        title: its heading.
        facts: lines about the sweep as a whole: (name, text).
        sections: of the papers.
        warnings: (sentence, how often, the first rows that contain it).
        commands: of the sweep.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    warnings: Sequence[tuple[str, int, Sequence[str]]]
    commands: Sequence[str]


def page_html(content: Page) -> str:
    """The whole HTML text."""
    sections = [
        *content.sections,
        Section("warnings", "Warnings", [_warnings(content.warnings)]),
        Section("commands", "Commands", [_commands(content.commands)]),
    ]
    shown = [section for section in sections if section.parts]
    links = "".join(f'<a href="#{section.name}">{escape(section.title)}</a>' for section in shown)
    facts = "".join(f"<li><b>{escape(name)}</b>: {escape(text)}</li>" for name, text in content.facts)
    body = [f'<h2 id="{section.name}">{escape(section.title)}</h2>\n' + "\n".join(section.parts) for section in shown]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(content.title)}</title>",
            f"<style>{STYLE}</style></head><body>",
            f"<h1>{escape(content.title)}</h1>",
            f"<nav>{links}</nav>",
            f"<ul>{facts}</ul>",
            '<p>Every row: <a href="results.csv">results.csv</a>. Tables as Markdown and CSV: tables/. '
            "Figures as PNG and SVG: figures/.</p>",
            *body,
            "</body></html>",
            "",
        ]
    )


def picture_html(picture: Picture) -> str:
    """A part of the page: a picture, or why it is not drawn."""
    title = f'<h3 id="{escape(picture.name)}">{escape(picture.title)}</h3>'
    if picture.figure is None:
        return f'{title}\n<p class="none">Not drawn: {escape(picture.missing)}.</p>'
    place = f"figures/{escape(picture.name)}"
    return (
        f'{title}\n<figure><a href="{place}.svg"><img src="{place}.png" alt="{escape(picture.title)}"></a>'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )


def _warnings(found: Sequence[tuple[str, int, Sequence[str]]]) -> str:
    if not found:
        return "<p>No row has a warning.</p>"
    items = []
    for text, count, places in found:
        more = ", …" if count > len(places) else ""
        rows = f"{count} row{'s' if count > 1 else ''}: {', '.join(places)}{more}"
        items.append(f"<li>{escape(text)}<br><small>{escape(rows)}</small></li>")
    return f"<ul>{''.join(items)}</ul>"


def _commands(commands: Sequence[str]) -> str:
    """All of them, folded away where there are many."""
    if not commands:
        return "<p>The rows name no commands.</p>"
    listed = f"<pre>{escape(chr(10).join(commands))}</pre>"
    if len(commands) <= 12:
        return listed
    return f"<details><summary>{len(commands)} commands</summary>{listed}</details>"
