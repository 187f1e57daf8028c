"""A table of the second exam, and how it is written: Markdown, LaTeX, CSV and HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from ..formats import as_csv, as_latex, as_markdown

PAPER = "paper"  # the name of a column with the paper's values


@dataclass(frozen=True)
class Entry:
    """A line of a sheet: the part it stands in, its texts, and the commands that made its rows."""

    section: str
    cells: list[str]
    commands: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Sheet:
    """A table, or why there is none.

    name     of its files, without their ends
    parts    what the sections are, as the name of their column
    header   of the cells; the first `texts` of them are words
    notes    sentences that stand below it
    records  the same in numbers of full precision, a mapping per line of the CSV; all have the same keys
    missing  why it is not made
    """

    name: str
    title: str
    parts: str = ""
    header: Sequence[str] = ()
    entries: Sequence[Entry] = ()
    notes: Sequence[str] = ()
    records: Sequence[dict[str, object]] = ()
    texts: int = 1
    missing: str = ""

    @property
    def columns(self) -> list[str]:
        return [self.parts, *self.header]

    @property
    def lines(self) -> list[list[str]]:
        return [[entry.section, *entry.cells] for entry in self.entries]


def sheet_texts(sheet: Sheet) -> dict[str, str]:
    """Text by the end of its file's name."""
    columns = list(sheet.records[0]) if sheet.records else []
    latex = as_latex(sheet.title, sheet.columns, sheet.lines, sheet.notes)
    return {"md": _markdown(sheet), "tex": latex, "csv": as_csv(columns, [list(one.values()) for one in sheet.records])}


def _markdown(sheet: Sheet) -> str:
    lines = [f"## {sheet.title}", "", *as_markdown(sheet.columns, sheet.lines), ""]
    lines += [*(f"- {note}" for note in sheet.notes), ""]
    if made := [entry for entry in sheet.entries if entry.commands]:
        lines += ["Commands (the first of each line's; the CSV has all):", ""]
        for entry in made:
            count = f" and {len(entry.commands) - 1} more" if len(entry.commands) > 1 else ""
            lines.append(f"- {_where(entry)}: `{entry.commands[0]}`{count}")
        lines.append("")
    return "\n".join(lines)


def _where(entry: Entry) -> str:
    return f"{entry.cells[0]}, {entry.section}"


def html(sheet: Sheet) -> str:
    """The sections as headings within the table, so that the first column stays narrow."""
    title = f'<h3 id="{escape(sheet.name)}">{escape(sheet.title)}</h3>'
    if sheet.missing:
        return f'{title}\n<p class="none">Not made: {escape(sheet.missing)}.</p>'
    kinds = ["text" if n < sheet.texts else "paper" if name == PAPER else "" for n, name in enumerate(sheet.header)]
    body, section = [], None
    for entry in sheet.entries:
        if entry.section != section:
            section = entry.section
            body.append(f'<tr class="part"><th colspan="{len(kinds)}">{escape(section)}</th></tr>')
        body.append(_row("td", kinds, entry.cells))
    notes = "".join(f"<p>{escape(note)}</p>" for note in sheet.notes)
    links = ", ".join(f'<a href="tables/{sheet.name}.{end}">{end}</a>' for end in ("md", "tex", "csv"))
    return (
        f'{title}\n<div class="wide"><table><thead>{_row("th", kinds, sheet.header)}</thead><tbody>{"".join(body)}'
        f"</tbody></table></div>\n{notes}<p>{links}</p>{_made_by(sheet)}"
    )


def _row(tag: str, kinds: Sequence[str], texts: Sequence[str]) -> str:
    cells = (
        f'<{tag} class="{kind}">{escape(text)}</{tag}>' if kind else f"<{tag}>{escape(text)}</{tag}>"
        for kind, text in zip(kinds, texts, strict=True)
    )
    return f"<tr>{''.join(cells)}</tr>"


def _made_by(sheet: Sheet) -> str:
    """The commands behind each line, folded away."""
    parts = [
        f"<p>{escape(_where(entry))}</p><pre>{escape(chr(10).join(entry.commands))}</pre>"
        for entry in sheet.entries
        if entry.commands
    ]
    return f"<details><summary>the commands behind each line</summary>{''.join(parts)}</details>" if parts else ""
