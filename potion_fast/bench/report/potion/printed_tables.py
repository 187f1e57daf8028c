"""Potion's tables as a report prints them."""

from __future__ import annotations

from ...attacks.kinds import Trigger
from ..averages import Average
from ..table import PAPER, Column, Table, TableLine, format_number
from .paper_values import PotionValue
from .tables import MEASURES, PaperLine, PaperTable

COMPARED = ("poison_healed", "model_damage")  # shown with the paper's values
LEGEND = (
    "Mean ± standard deviation over scenarios (± over seeds); – where there is only one. A scenario is its mean over "
    "the seeds; the spread over seeds is that of their means over the scenarios that all seeds have. The paper's "
    "spread is over scenarios, of one seed. Lines of other numbers of scenarios are means over other scenarios."
)


def printed_table(table: PaperTable) -> Table:
    """A table with its texts."""
    columns = [*([Column("step", "text")] if table.over_steps else []), Column("method", "text")]
    healed = len(columns)  # the first measure's column says why there are no rows
    for name, measure in MEASURES.items():
        columns += [Column(f"{measure.title}, {measure.unit}"), *([PAPER] if name in COMPARED else [])]
    columns.append(Column("scenarios × seeds"))
    return Table(
        table.name,
        table.title,
        columns,
        [_line(table, line, healed) for line in table.lines],
        parts="found",
        notes=table.notes,
        legend=LEGEND,
        records=[record for line in table.lines for record in _records(table, line)],
        all_commands="`results.csv` has that of every row",
    )


def _line(table: PaperTable, line: PaperLine, healed: int) -> TableLine:
    step = "" if line.s_step is None else f"{line.s_step:g}"
    texts = [*([step] if table.over_steps else []), line.method]
    for name in MEASURES:
        texts.append(
            format_spreads(line.averages[name]) if line.rows else line.missing if name == "poison_healed" else ""
        )
        if name in COMPARED:
            texts.append(_of_paper(line.printed.get(name)))
    known = next((averaged for averaged in line.averages.values() if averaged), None)
    texts.append(f"{known.scenarios} × {known.seeds}" if known else "")
    where = f", step {step}" if step else ""
    return TableLine(
        f"{line.method}, {line.section}{where}",
        texts,
        line.section,
        line.commands,
        remark=f" ({len(line.rows)} rows)",
        missing=healed if line.missing else None,
    )


def format_spreads(average: Average | None) -> str:
    """Mean ± over scenarios (± over seeds); the mean alone where it is of one scenario and one seed."""
    if average is None:
        return "not measured"
    if average.over_scenarios is None and average.over_seeds is None:
        return format_number(average.mean)
    scenarios = "–" if average.over_scenarios is None else f"{average.over_scenarios:.2f}"
    seeds = "–" if average.over_seeds is None else f"± {average.over_seeds:.2f}"
    return f"{format_number(average.mean)} ± {scenarios} ({seeds})"


def _of_paper(value: PotionValue | None) -> str:
    return "" if value is None else f"{format_number(value.mean)} ± {value.spread:.2f}"


def _records(table: PaperTable, line: PaperLine) -> list[dict[str, object]]:
    """One per measure, with numbers of full precision and the commands."""
    attacked, reached = line.rows[0].score_names if line.rows else Trigger.score_names
    names = {"attacked_accuracy": attacked, "attack_score": reached}
    records = []
    for name, measure in MEASURES.items():
        average, paper = line.averages[name], line.printed.get(name)
        record: dict[str, object] = {
            "table": table.name,
            "found": line.section,
            "s_step": line.s_step,
            "method": line.method,
            "measure": names.get(name, name),
            "unit": measure.unit,
            "mean": average.mean if average else "",
            "over_scenarios": average.over_scenarios if average else "",
            "over_seeds": average.over_seeds if average else "",
            "scenarios": average.scenarios if average else "",
            "seeds": average.seeds if average else "",
            "rows": average.count if average else "",
            "paper": paper.mean if paper else "",
            "paper_spread": paper.spread if paper else "",
            "missing": line.missing,
            "commands": "\n".join(line.commands),
        }
        records.append(record)
    return records
