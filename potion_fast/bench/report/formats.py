"""A table as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from .averages import Average
from .potion.paper_values import Printed
from .potion.tables import MEASURES, Ablation, Line, Table, printed_ablation, recomputed

COMPARED = ("poison_healed", "model_damage")  # with the paper's values beside them
LEGEND = (
    "Mean ± standard deviation over scenarios (± over seeds); – where there is only one. A scenario is its mean over "
    "the seeds; the spread over seeds is that of their means over the scenarios that all seeds have. The paper's "
    "spread is over scenarios, of one seed. Lines of other numbers of scenarios are means over other scenarios."
)
SPECIAL = {**{char: f"\\{char}" for char in "&%$#_{}"}, "\\": r"\textbackslash{}", "~": r"\textasciitilde{}"}
SPECIAL |= {"^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--", "−": "$-$", "ρ": r"$\rho$", "×": r"$\times$"}
SPECIAL |= {"α": r"$\alpha$", "λ": r"$\lambda$", "∖": r"$\setminus$", "Ω": r"$\Omega$", "∈": r"$\in$", "|": r"$|$"}
SPECIAL |= {"σ": r"$\sigma$", "μ": r"$\mu$", "†": r"\dag{}", "√": r"$\surd$"}


def header(table: Table) -> list[str]:
    """The names of the columns."""
    names = ["found", *(["step"] if table.over_steps else []), "method"]
    for name, (title, unit, _, _) in MEASURES.items():
        names += [f"{title}, {unit}", *(["paper"] if name in COMPARED else [])]
    return [*names, "scenarios × seeds"]


def cells(table: Table, line: Line) -> list[str]:
    """A line's texts, as many as the header has."""
    texts = [line.section, *([_step(line)] if table.over_steps else []), line.method]
    for name in MEASURES:
        texts.append(averaged(line.averages[name]) if line.rows else line.missing if name == "poison_healed" else "")
        if name in COMPARED:
            texts.append(as_printed(line.printed.get(name)))
    known = next((one for one in line.averages.values() if one), None)
    return [*texts, f"{known.scenarios} × {known.seeds}" if known else ""]


def _step(line: Line) -> str:
    return "" if line.s_step is None else f"{line.s_step:g}"


def averaged(one: Average | None) -> str:
    """mean ± over scenarios (± over seeds); the mean alone where it is of one scenario and one seed."""
    if one is None:
        return "not measured"
    if one.over_scenarios is None and one.over_seeds is None:
        return number(one.mean)
    scenarios = "–" if one.over_scenarios is None else f"{one.over_scenarios:.2f}"
    seeds = "–" if one.over_seeds is None else f"± {one.over_seeds:.2f}"
    return f"{number(one.mean)} ± {scenarios} ({seeds})"


def as_printed(value: Printed | None) -> str:
    return "" if value is None else f"{number(value.mean)} ± {value.spread:.2f}"


def number(value: float, digits: int = 2) -> str:
    """Rounded; no minus before a zero, and one that is as wide as a plus elsewhere."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def markdown(table: Table) -> str:
    """The title, the table, its notes and the commands that made its rows."""
    lines = [f"## {table.title}", "", *as_markdown(header(table), [cells(table, line) for line in table.lines]), ""]
    lines += [*(f"- {note}" for note in (LEGEND, *table.notes)), ""]
    if made := [line for line in table.lines if line.commands]:
        lines += ["Commands (the first of each line's; `results.csv` has that of every row):", ""]
        for line in made:
            count = f" and {len(line.commands) - 1} more" if len(line.commands) > 1 else ""
            lines.append(f"- {_where(line)}: `{line.commands[0]}`{count}")
        lines.append("")
    return "\n".join(lines)


def _where(line: Line) -> str:
    step = f", step {_step(line)}" if line.s_step is not None else ""
    return f"{line.method}, {line.section}{step}"


def as_markdown(names: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    def row(texts: Sequence[str]) -> str:
        return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"

    return [row(names), "|---" * len(names) + "|", *(row(texts) for texts in lines)]


def latex(table: Table) -> str:
    """A tabular that needs no package; title, notes and legend are comments and a caption."""
    return as_latex(table.title, header(table), [cells(table, line) for line in table.lines], [LEGEND, *table.notes])


def as_latex(title: str, names: Sequence[str], lines: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    body, last = [], ""
    for texts in lines:
        if last and texts[0] != last:
            body.append(r"\hline")
        body.append(" & ".join(escaped(text) for text in texts) + r" \\")
        last = texts[0]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering\footnotesize",
            rf"\begin{{tabular}}{{{'l' * len(names)}}}",
            r"\hline",
            " & ".join(escaped(name) for name in names) + r" \\",
            r"\hline",
            *body,
            r"\hline",
            r"\end{tabular}",
            rf"\caption{{{escaped(title)}. {escaped(' '.join(notes))}}}",
            r"\end{table}",
            "",
        ]
    )


def escaped(text: str) -> str:
    """A text in which LaTeX finds nothing to interpret."""
    return "".join(SPECIAL.get(char, char) for char in text)


def tidy(table: Table) -> str:
    """CSV: a line per line and measure, with numbers of full precision and the commands."""
    columns = ["table", "found", "s_step", "method", "measure", "unit", "mean", "over_scenarios", "over_seeds"]
    columns += ["scenarios", "seeds", "rows", "paper", "paper_spread", "missing", "commands"]
    lines = []
    for line in table.lines:
        for name, (_, unit, _, _) in MEASURES.items():
            one, paper = line.averages[name], line.printed.get(name)
            lines.append(
                [table.name, line.section, line.s_step, line.method, name, unit]
                + (
                    [one.mean, one.over_scenarios, one.over_seeds, one.scenarios, one.seeds, one.count]
                    if one
                    else [""] * 6
                )
                + ([paper.mean, paper.spread] if paper else ["", ""])
                + [line.missing, "\n".join(line.commands)]
            )
    return as_csv(columns, lines)


def as_csv(columns: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(lines)
    return file.getvalue()


ABLATION_TITLE = "Ablations of section 5.2"
ABLATION_HEADER = ("question", "poison healed, relative gain, %", "paper", "damage, % of the other's", "paper", "pairs")
ABLATION_NOTES = (
    "Relative gain: 100 · (healed of the first / healed of the second − 1); damage: 100 · first / second, below 100 is "
    "less damage. Over the scenarios and seeds that both methods have, more than one sample found, ρ = 0.2, step 1.1. "
    "Beside what the paper's text prints stands what its table 1 gives, where they differ.",
    "The paper prints a damage of 46.13 % for PTN search against the grid on SSD. Its table 1 gives 66.20 % for that, "
    "and 46.13 % for PTN-LF against the grid.",
)


def ablation_cells(one: Ablation) -> list[str]:
    """A line of the ablations."""
    texts = [one.question]
    of_paper = zip(printed_ablation(one.ours, one.other), recomputed(one.ours, one.other), strict=True)
    for value, (said, table) in zip((one.healed_gain, one.damage_share), of_paper, strict=True):
        texts.append("no rows" if not one.pairs else "no damage to compare" if value is None else number(value))
        from_table = f"table 1: {number(table)}"
        same = said is not None and abs(said - table) < 0.01
        texts.append(from_table if said is None else number(said) if same else f"{number(said)}; {from_table}")
    return [*texts, str(one.pairs)]


def ablation_markdown(made: Sequence[Ablation]) -> str:
    lines = as_markdown(ABLATION_HEADER, [ablation_cells(one) for one in made])
    return "\n".join([f"## {ABLATION_TITLE}", "", *lines, "", *(f"- {note}" for note in ABLATION_NOTES), ""])


def ablation_latex(made: Sequence[Ablation]) -> str:
    return as_latex(ABLATION_TITLE, ABLATION_HEADER, [ablation_cells(one) for one in made], ABLATION_NOTES)


def ablation_tidy(made: Sequence[Ablation]) -> str:
    columns = ["ours", "other", "healed_gain", "damage_share", "pairs", "paper_healed_gain", "paper_damage_share"]
    columns += ["table1_healed_gain", "table1_damage_share"]
    lines = [
        [one.ours, one.other, one.healed_gain, one.damage_share, one.pairs]
        + [*printed_ablation(one.ours, one.other), *recomputed(one.ours, one.other)]
        for one in made
    ]
    return as_csv(columns, lines)
