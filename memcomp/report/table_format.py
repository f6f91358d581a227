"""Tables, and their formats: CSV with all numbers, Markdown and HTML for readers."""

import csv
import dataclasses
import html
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from memcomp.metrics.capacity import Capacity, Estimate

# Columns that are written once above a table if all of its lines agree.
CONTEXT = ("protocol", "LM", "revision", "dtype", "recipe", "hardware", "vectors")


@dataclasses.dataclass(frozen=True)
class Table:
    """A table, whose cells are a string, a number, None, an Estimate or a Capacity.

    Attributes:
      title: title above the table.
      rows: name of the column -> cell; a missing name is an empty cell.
      notes: notes below the table.
    """

    title: str
    rows: Sequence[Mapping[str, Any]]
    notes: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """Names of all columns, in the order of their first occurrence."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def split(self) -> tuple[dict[str, str], list[str]]:
        """Returns the values of CONTEXT that all lines share, and the other columns."""
        shared = {}
        for name in CONTEXT:
            values = {show(row[name]) for row in self.rows if row.get(name) is not None}
            if len(values) == 1:
                shared[name] = values.pop()
        left = [name for name in self.columns if name not in shared]
        empty = {name for name in left if all(row.get(name) is None for row in self.rows)}
        return shared, [name for name in left if name not in empty]

    def csv(self) -> str:
        """Returns all columns as CSV; an estimate has a column for each of its numbers."""
        parts = {name: _parts(row.get(name) for row in self.rows) for name in self.columns}
        head = [f"{c} {p}".strip() for c in self.columns for p in parts[c]]
        rows = [
            [value for c in self.columns for value in _values(row.get(c), parts[c])]
            for row in self.rows
        ]
        return csv_text([head, *rows])

    def markdown(self) -> str:
        """Returns title, shared values, lines and notes as Markdown."""
        shared, left = self.split()
        lines = [f"### {self.title}", "", _sentence(shared), ""]
        lines += [_markdown_row(left), _markdown_row("---" for _ in left)]
        for row in self.rows:
            lines.append(_markdown_row(show(row.get(name)) for name in left))
        return "\n".join([*lines, "", *(f"* {note}" for note in self.notes), ""])

    def html(self) -> str:
        """Returns the same as HTML, for the page."""
        shared, left = self.split()
        out = [f"<h3>{html.escape(self.title)}</h3>"]
        out.append(f"<p class=shared>{html.escape(_sentence(shared))}</p>")
        out.append("<div class=scroll><table><thead><tr>")
        for name in left:
            number = _class(row.get(name) for row in self.rows)
            out.append(f"<th{number}>{html.escape(name)}</th>")
        out.append("</tr></thead><tbody>")
        for row in self.rows:
            cells = "".join(_html_cell(row.get(name)) for name in left)
            out.append(f"<tr>{cells}</tr>")
        out.append("</tbody></table></div>")
        if self.notes:
            items = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
            out.append(f"<ul class=notes>{items}</ul>")
        return "\n".join(out)


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Writes lines as CSV; None and NaN are empty, floats have six digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([_plain(value) for value in row] for row in rows)
    return text.getvalue()


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return "" if value is None else value


def _parts(cells: Iterable[Any]) -> tuple[str, ...]:
    """Names of the fields of a column's cells: several for estimates."""
    for cell in cells:
        if isinstance(cell, Estimate | Capacity):
            return type(cell)._fields
    return ("",)


def _values(cell: Any, parts: tuple[str, ...]) -> list[Any]:
    if isinstance(cell, Estimate | Capacity):
        lists = [";".join(map(str, v)) if isinstance(v, tuple) else v for v in cell]
        return lists
    return [cell, *[None] * (len(parts) - 1)]


def show(cell: Any) -> str:
    """Writes a cell in one line."""
    head, tail = _shown(cell)
    return f"{head} {tail}".strip()


def _shown(cell: Any) -> tuple[str, str]:
    """Returns the main part of a cell, and the details after it."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "", ""
    if isinstance(cell, Capacity):
        end = "≥ " if cell.at_end else ""
        gaps = ", ".join(map(str, cell.failed_below))
        fails = f", fails at {gaps}" if gaps else ""
        head = f"{end}{cell.tokens}" if cell.tokens else "none"
        return head, f"[{cell.low}, {cell.high}], n {cell.n}{fails}"
    if isinstance(cell, Estimate):
        if not cell.n:
            return "", ""
        if cell.standard_error is None:
            return _number(cell.mean), f"n {cell.n}"
        mean, error, low, high, std = _like_error(cell)
        return f"{mean} ± {error}", f"[{low}, {high}], sd {std}, n {cell.n}"
    return (_number(cell) if isinstance(cell, float) else str(cell)), ""


def _like_error(cell: Estimate) -> list[str]:
    """Mean, error, interval and deviation, to the second digit of the standard error."""
    numbers = (cell.mean, cell.standard_error, cell.low, cell.high, cell.std)
    if not cell.standard_error:
        return [_number(x) for x in numbers]
    digits = min(max(1 - math.floor(math.log10(cell.standard_error)), 0), 6)
    return [f"{x:.{digits}f}" for x in numbers]


def _number(x: float | None) -> str:
    """Writes a number with four significant digits."""
    if x is None or math.isnan(x):
        return ""
    if x == 0:
        return "0"
    digits = max(3 - math.floor(math.log10(abs(x))), 0)
    text = f"{x:.{min(digits, 5)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _sentence(shared: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {value}" for name, value in shared.items())


def _markdown_row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _html_cell(cell: Any) -> str:
    head, tail = (html.escape(part) for part in _shown(cell))
    small = f"<small>{tail}</small>" if tail else ""
    return f"<td{_class([cell])}>{head}{small}</td>"


def _class(cells: Iterable[Any]) -> str:
    """HTML attribute that aligns numbers to the right."""
    numbers = any(isinstance(cell, int | float | tuple) for cell in cells)
    return " class=number" if numbers else ""
