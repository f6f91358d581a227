"""Writes the files of a report from run folders."""

import os
from collections.abc import Callable, Iterable

from etils import epath

from memcomp.disk import make_folder, path_of
from memcomp.errors import InputError
from memcomp.report.figures import FIGURES
from memcomp.report.load import read_runs
from memcomp.report.page import page
from memcomp.report.section import sections
from memcomp.report.tables import TABLES
from memcomp.runs.files import write_whole


def write_report(
    folders: Iterable[str | os.PathLike],
    workdir: str | os.PathLike,
    *,
    max_texts: int = 300,
    say: Callable[[str], None] = lambda line: None,
) -> list[epath.Path]:
    """Writes tables (CSV, Markdown), figures (PNG, CSV) and report.html.

    Args:
      folders: folders of runs, or with runs below them, which are only read.
      workdir: folder for tables/, figures/ and report.html; files of the same names are
        replaced.
      max_texts: largest number of texts that the page shows token by token.
      say: called with a line for each folder whose run no table or figure uses.

    Returns:
      Paths of the files, the page first.

    Raises:
      InputError: there is no run, or one cannot be read.
    """
    runs = read_runs(folders)
    for folder in runs.passed_over:
        say(f"passed over {folder}: its records are of another kind")
    found = runs.groups, runs.compression, runs.studies, runs.horizons, runs.growth
    if not any(found):
        raise InputError(
            f"{', '.join(runs.configs)} has no records yet; report runs that have some"
        )
    out = path_of(workdir)
    for name in ("tables", "figures"):
        make_folder(out / name)
    written, parts = [out / "report.html"], []
    for section in sections(runs):
        tables, figures = [], {}
        for name, make in TABLES.items():
            if table := make(section):
                tables.append(table)
                path = out / "tables" / f"{section.protocol}_{name}"
                written += [_write(path, ".csv", table.csv())]
                written += [_write(path, ".md", table.markdown())]
        for name, draw in FIGURES.items():
            if drawn := draw(section):
                figures[name] = drawn, drawn.png(section.about)
                path = out / "figures" / f"{section.protocol}_{name}"
                written += [_write(path, ".png", figures[name][1])]
                written += [_write(path, ".csv", drawn.csv())]
        parts.append((section, tables, figures))
    write_whole(written[0], page(runs, parts, max_texts=max_texts))
    return written


def _write(path: epath.Path, suffix: str, data: str | bytes) -> epath.Path:
    path = path.with_name(path.name + suffix)
    write_whole(path, data)
    return path
