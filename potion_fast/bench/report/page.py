"""One HTML page with the whole report: no script, no network; the pictures lie beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from .formats import ABLATION_HEADER, ABLATION_NOTES, ABLATION_TITLE, COMPARED, LEGEND, ablation_cells, cells, header
from .potion.tables import MEASURES, Ablation, Table
from .style import Picture

STYLE = """
:root { --ink: #222; --muted: #5f5f5f; --line: #ddd; --teal: #1b7f79; --red: #c8553d; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); margin: 0 auto; padding: 1rem; max-width: 72rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.3rem; margin-top: 2.5rem; border-bottom: 2px solid var(--teal); }
h3 { font-size: 1.05rem; margin: 2rem 0 .4rem; }
p, li, figcaption, summary { color: var(--muted); font-size: .93rem; }
a { color: var(--teal); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .8rem; }
th, td { padding: .3rem .45rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { vertical-align: bottom; white-space: normal; min-width: 5rem; }
th.text, td.text { text-align: left; } td.paper, th.paper { color: var(--muted); }
td.text:first-child, thead th:first-child { position: sticky; left: 0; background: #fff; }
td.wrap { white-space: normal; min-width: 14rem; }
tr.part th { text-align: left; background: #f2f6f6; min-width: 0; }
td.missing { color: var(--red); font-style: italic; }
figure { margin: 1rem 0 2rem; } img { max-width: 100%; height: auto; }
pre { overflow-x: auto; background: #f6f6f6; padding: .6rem; font-size: .8rem; }
.none { border-left: 3px solid var(--red); padding-left: .8rem; }
nav a { display: inline-block; margin-right: 1rem; }
"""


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading, to which the top of the page leads; `parts` are HTML."""

    name: str
    title: str
    parts: Sequence[str]


@dataclass(frozen=True)
class Content:
    """What the page shows; tables, ablations and figures that there are none of get no section.

    facts     lines about the sweep as a whole: (name, text)
    others    sections that stand before all
    warnings  (sentence, how often, the first rows it stands in)
    commands  of the sweep
    """

    title: str
    facts: Sequence[tuple[str, str]]
    tables: Sequence[Table]
    ablations: Sequence[Ablation]
    pictures: Sequence[Picture]
    warnings: Sequence[tuple[str, int, Sequence[str]]]
    commands: Sequence[str]
    others: Sequence[Section] = field(default=())


def page(content: Content) -> str:
    """The whole HTML text."""
    first = "First exam: " if content.others else ""
    tables = [f"<p>{escape(LEGEND)}</p>", *(_table(table) for table in content.tables)] if content.tables else []
    sections = [
        *content.others,
        Section("tables", f"{first}Tables", tables),
        Section("ablations", ABLATION_TITLE, [_ablations(content.ablations)] if content.ablations else []),
        Section("figures", f"{first}Figures", [picture_html(picture) for picture in content.pictures]),
        Section("warnings", "Warnings", [_warnings(content.warnings)]),
        Section("commands", "Commands", [_commands(content.commands)]),
    ]
    shown = [one for one in sections if one.parts]
    links = "".join(f'<a href="#{one.name}">{escape(one.title)}</a>' for one in shown)
    facts = "".join(f"<li><b>{escape(name)}</b>: {escape(text)}</li>" for name, text in content.facts)
    body = [f'<h2 id="{one.name}">{escape(one.title)}</h2>\n' + "\n".join(one.parts) for one in shown]
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
            '<p>Every row: <a href="results.csv">results.csv</a>. Tables as Markdown, LaTeX and CSV: tables/. '
            "Figures as PNG and SVG: figures/.</p>",
            *body,
            "</body></html>",
            "",
        ]
    )


def _table(table: Table) -> str:
    """The parts as headings within the table, so that the first column stays narrow."""
    names = header(table)[1:]
    papers = {place for place, name in enumerate(names) if name == "paper"}
    texts = names.index("method") + 1
    head = "".join(
        f"<th{_class('text' if place < texts else 'paper' if place in papers else '')}>{escape(name)}</th>"
        for place, name in enumerate(names)
    )
    body, section = [], None
    for line in table.lines:
        if line.section != section:
            section = line.section
            body.append(f'<tr class="part"><th colspan="{len(names)}">{escape(section)}</th></tr>')
        row = []
        for place, text in enumerate(cells(table, line)[1:]):
            healed = place == names.index(_healed())
            kind = (
                "text"
                if place < texts
                else "paper"
                if place in papers
                else "missing"
                if healed and line.missing
                else ""
            )
            row.append(f"<td{_class(kind)}>{escape(text)}</td>")
        body.append(f"<tr>{''.join(row)}</tr>")
    notes = "".join(f"<p>{escape(note)}</p>" for note in table.notes)
    links = ", ".join(f'<a href="tables/{table.name}.{end}">{end}</a>' for end in ("md", "tex", "csv"))
    return (
        f'<h3 id="{escape(table.name)}">{escape(table.title)}</h3>\n<div class="wide"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>\n{notes}<p>{links}</p>{_made_by(table)}"
    )


def _healed() -> str:
    title, unit, _, _ = MEASURES[COMPARED[0]]
    return f"{title}, {unit}"


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def _made_by(table: Table) -> str:
    """The commands behind each line, folded away."""
    parts = []
    for line in table.lines:
        if line.commands:
            step = "" if line.s_step is None else f", step {line.s_step:g}"
            said = escape("\n".join(line.commands))
            name = escape(f"{line.method}, {line.section}{step} ({len(line.rows)} rows)")
            parts.append(f"<p>{name}</p><pre>{said}</pre>")
    return f"<details><summary>the commands behind each line</summary>{''.join(parts)}</details>" if parts else ""


def _ablations(made: Sequence[Ablation]) -> str:
    head = "".join(
        f"<th{_class('' if place else 'text')}>{escape(name)}</th>" for place, name in enumerate(ABLATION_HEADER)
    )
    body = ""
    for one in made:
        texts = ablation_cells(one)
        row = "".join(
            f"<td{_class('paper' if ABLATION_HEADER[place] == 'paper' else '' if place else 'text wrap')}>"
            f"{escape(text)}</td>"
            for place, text in enumerate(texts)
        )
        body += f"<tr>{row}</tr>"
    notes = "".join(f"<p>{escape(note)}</p>" for note in ABLATION_NOTES)
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>\n{notes}'
        '<p><a href="tables/ablations.md">md</a>, <a href="tables/ablations.tex">tex</a>, '
        '<a href="tables/ablations.csv">csv</a></p>'
    )


def picture_html(picture: Picture) -> str:
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
