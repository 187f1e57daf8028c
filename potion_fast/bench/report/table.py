"""A table of a report, and how it is written: Markdown, CSV and HTML."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Literal

FORMS = ("md", "csv")  # ends of a table's files


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: its header.
        kind: "text" stands on the left, "paper" holds what the paper prints.
        wrap: whether its texts may be broken into lines on the page.
    """

    title: str
    kind: Literal["text", "number", "paper"] = "number"
    wrap: bool = False


PAPER = Column("paper", "paper")


@dataclass(frozen=True)
class TableLine:
    """A line of a table.

    Attributes:
        name: what it is called where its commands are listed.
        cells: its texts, one per column.
        section: the part of the table that it belongs to; empty where there are no parts.
        commands: that made its rows.
        remark: behind the name, on the page.
        missing: index of the cell that says why there is no value; None where there is one.
    """

    name: str
    cells: Sequence[str]
    section: str = ""
    commands: Sequence[str] = ()
    remark: str = ""
    missing: int | None = None


@dataclass(frozen=True)
class Table:
    """A table, or why there is none.

    Attributes:
        name: of its files, without their ends.
        title: its heading.
        columns: of its lines.
        lines: from top to bottom; those of one section stand together.
        parts: what the sections are, as the header of their column; empty where there are none.
        notes: sentences that stand below it.
        legend: a note that the page has once for all tables.
        records: the same in numbers of full precision, a mapping per line of the CSV; all have the same keys.
        all_commands: the file that has the commands of every row.
        missing: why it is not made.
    """

    name: str
    title: str
    columns: Sequence[Column] = ()
    lines: Sequence[TableLine] = ()
    parts: str = ""
    notes: Sequence[str] = ()
    legend: str = ""
    records: Sequence[dict[str, object]] = field(default=(), repr=False)
    all_commands: str = "the CSV has all"
    missing: str = ""


def to_markdown(table: Table) -> str:
    """The title, the table, its notes and the first command of each line."""
    parts = [table.parts] if table.parts else []
    names = [*parts, *(column.title for column in table.columns)]
    texts = [[*([line.section] if parts else []), *line.cells] for line in table.lines]
    notes = [*([table.legend] if table.legend else []), *table.notes]
    lines = [
        f"## {table.title}",
        "",
        _markdown_row(names),
        "|---" * len(names) + "|",
        *map(_markdown_row, texts),
        "",
        *(f"- {note}" for note in notes),
        "",
    ]
    if with_commands := [line for line in table.lines if line.commands]:
        lines += [f"Commands (the first of each line's; {table.all_commands}):", ""]
        for line in with_commands:
            count = f" and {len(line.commands) - 1} more" if len(line.commands) > 1 else ""
            lines.append(f"- {line.name}: `{line.commands[0]}`{count}")
        lines.append("")
    return "\n".join(lines)


def _markdown_row(texts: Sequence[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"


def to_csv(table: Table) -> str:
    """The records, one per line below a header."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(table.records[0] if table.records else [])
    writer.writerows(record.values() for record in table.records)
    return file.getvalue()


def to_html(table: Table, heading: bool = True) -> str:
    """A part of the page, with the sections as headings within the table, so that the first column stays narrow.

    Args:
        table: it, or why it is not made.
        heading: whether its title stands above it.
    """
    title = f'<h3 id="{escape(table.name)}">{escape(table.title)}</h3>\n' if heading else ""
    if table.missing:
        return f'{title}<p class="none">Not made: {escape(table.missing)}.</p>'
    head = [_cell("th", _kind(column), column.title) for column in table.columns]
    body, section = [], ""
    for line in table.lines:
        if line.section != section:
            section = line.section
            body.append(f'<tr class="part"><th colspan="{len(table.columns)}">{escape(section)}</th></tr>')
        cells = [
            _cell("td", "missing" if place == line.missing else _kind(column, column.wrap), text)
            for place, (column, text) in enumerate(zip(table.columns, line.cells, strict=True))
        ]
        body.append(f"<tr>{''.join(cells)}</tr>")
    notes = "".join(f"<p>{escape(note)}</p>" for note in table.notes)
    links = ", ".join(f'<a href="tables/{table.name}.{end}">{end}</a>' for end in FORMS)
    return (
        f'{title}<div class="wide"><table><thead><tr>{"".join(head)}</tr></thead><tbody>{"".join(body)}</tbody>'
        f"</table></div>\n{notes}<p>{links}</p>{_commands(table)}"
    )


def _kind(column: Column, wrap: bool = False) -> str:
    """Its class in the page's style."""
    return ("" if column.kind == "number" else column.kind) + (" wrap" if wrap else "")


def _cell(tag: str, kind: str, text: str) -> str:
    return f'<{tag} class="{kind}">{escape(text)}</{tag}>' if kind else f"<{tag}>{escape(text)}</{tag}>"


def _commands(table: Table) -> str:
    """The commands behind each line, folded away."""
    parts = [
        f"<p>{escape(line.name + line.remark)}</p><pre>{escape(chr(10).join(line.commands))}</pre>"
        for line in table.lines
        if line.commands
    ]
    return f"<details><summary>the commands behind each line</summary>{''.join(parts)}</details>" if parts else ""


def format_number(value: float, digits: int = 2) -> str:
    """Rounded; no minus before a zero, and one that is as wide as a plus elsewhere."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")
