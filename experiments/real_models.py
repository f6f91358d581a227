"""Measures the capacity of one LM's vectors, by recipe, source and number of vectors.

  python experiments/real_models.py [--config configs/real_models.py:cpu]
      [--config.x.y=value] [--workdir DIR]

Each row is a run folder that experiments/report.py reads. A row is printed as soon as it is
known, with the published numbers of the model, and its numbers for each text are written to
rows.jsonl. The same command resumes a run that was killed, was told to stop, or has used up
its `config.minutes`.
"""

import functools
import json
from collections.abc import Callable

from launch import Config, OutOfTime, launch, say, stop_after, stop_if_told

import memcomp
from memcomp.cram.group import check_alone
from memcomp.cram.horizon import Growth
from memcomp.cram.schedule import check_fits
from memcomp.data.texts import Text
from memcomp.disk import path_of
from memcomp.distributed import is_first
from memcomp.errors import InputError
from memcomp.lm.protocol import LanguageModel
from memcomp.ranges import check_choice
from memcomp.report import model_rows
from memcomp.report.load import recipe_label
from memcomp.report.published import published_attention, published_horizons
from memcomp.runs.cells import Cell, cell_of, cell_texts, claim_cell, short_name
from memcomp.runs.cramming import run_cramming
from memcomp.runs.files import Record, read_records, write_whole
from memcomp.runs.horizons import horizons_so_far, run_horizons
from memcomp.runs.inputs import note_never_decoded
from memcomp.runs.progress import bar_of, of_cramming, of_horizons
from memcomp.sharding import make_mesh
from memcomp.studies.attention import check_attends
from memcomp.studies.passages import crammed_part, run_use
from memcomp.studies.use import check_use

DEFAULT_WORKDIR = "runs/real_models"
ROWS = "rows.jsonl"
# Numbers of each text; a function that writes a line about them; OutOfTime if it ended so.
Measured = tuple[Record, Callable[[Record], str], OutOfTime | None]


def main(config: Config, workdir: str | None) -> None:
    """Measures the rows of a model, prints them and writes rows.jsonl."""
    if unknown := set(config.order) - set(config.rows):
        known = ", ".join(config.rows)
        raise InputError(f"order has {sorted(unknown)}; config.rows has {known}")
    Growth(most=config.most)  # raises for bad values before anything is written
    stop_after(config.minutes)
    how = {"remat": config.remat, "attention": config.attention}
    mesh = make_mesh(**config.mesh)
    load = functools.cache(functools.partial(memcomp.load_lm, config.lm, mesh=mesh, **how))
    folder = path_of(workdir or DEFAULT_WORKDIR)
    # Rows of an earlier start stay, unless they are measured again.
    found = {row["row"]: row for row in read_records(folder / ROWS)}
    for name in config.order:
        row = config.rows[name]
        texts = config.sources[row.source].to_dict()
        if not texts["source"] or texts.get("vocabulary") == "":
            say(f"{name}: no texts; set config.sources.{row.source} to have this row")
            continue
        check_choice("measure", row.measure, MEASURES)
        lm = load(dtype=row.dtype)
        cfg = memcomp.CramConfig(
            num_tokens=None,
            num_memory=row.num_memory,
            memory=row.memory,
            seed=config.seed,
            recipe=row.recipe,
            learning_rate=row.learning_rate,
            **config.cram,
        )
        cell = cell_of(row.measure, lm.name, row.dtype, row.source, texts, cfg)
        figures, line, stopped = MEASURES[row.measure](
            lm, cell, cfg, row, name, config, folder
        )
        recipe = recipe_label(cell["recipe"], cell["memory"])
        found[name] = {"row": name, **about(lm, cell), "recipe": recipe, **figures}
        say(f"{name}{', so far' if stopped else ''}: {line(found[name])}")
        if is_first():
            lines = "".join(json.dumps(record) + "\n" for record in found.values())
            write_whole(folder / ROWS, lines)
        if stopped:
            raise stopped
    say(f"rows: {folder / ROWS}")


def about(lm: LanguageModel, cell: Cell) -> Record:
    """Returns the conditions under which a row was measured."""
    named = ("source", "num_memory", "memory", "dtype", "seed", "protocol")
    return {
        "lm": short_name(lm.name),
        "lm_sha256": lm.fingerprint,
        "measure": cell["mode"],
        **{name: cell[name] for name in named},
    }


def texts_of(lm, cell, row, config, num_tokens: int) -> list[Text]:
    """Reads the texts of a row."""
    num_texts = row.num_texts or config.num_texts
    texts = cell_texts(
        lm, cell, num_tokens=num_tokens, num_texts=num_texts, seed=config.seed
    )
    note_never_decoded(lm, texts, 0, say)  # strict
    return texts


def horizons(lm, cell, cfg, row, name, config, folder) -> Measured:
    """Finds the longest exact prefix of every text; if out of time, that found so far."""
    texts = texts_of(lm, cell, row, config, config.most)
    check_fits(lm, texts, cfg)
    check_alone(cfg, "a horizon")
    path = claim_cell(folder, name, cell, lm, texts)
    stopped = None
    try:
        with bar_of(len(texts), of_horizons, stop_if_told) as report:
            records = run_horizons(lm, texts, cfg, Growth(most=config.most), path, report)
    except OutOfTime as error:
        stopped, records = error, horizons_so_far(lm, texts, cfg, path)
    figures = model_rows.figures_of(records, model_rows.HORIZON_FIGURES)
    published = None
    if (row.num_memory, row.memory) == (1, "vectors"):
        published = published_horizons(lm.name).get(
            recipe_label(cell["recipe"], row.memory)
        )
    line = functools.partial(model_rows.horizon_line, published=published)
    return figures, line, stopped


def exact(lm, cell, cfg, row, name, config, folder) -> Measured:
    """Measures whether texts of one length are decoded exactly."""
    cell |= {"num_tokens": config.num_tokens}
    texts = texts_of(lm, cell, row, config, config.num_tokens)
    check_fits(lm, texts, cfg)
    path = claim_cell(folder, name, cell, lm, texts)
    with bar_of(len(texts), of_cramming, stop_if_told) as report:
        records = run_cramming(lm, texts, cfg, path, report)
    figures = model_rows.figures_of(records, model_rows.EXACT_FIGURES)
    return {"num_tokens": config.num_tokens, **figures}, model_rows.exact_line, None


def use(lm, cell, cfg, row, name, config, folder) -> Measured:
    """Measures attention on memory by layer, knockout, and continuations."""
    T, num_texts = config.num_tokens, row.num_texts or config.num_texts
    sizes = {"num_texts": num_texts, "num_tokens": T, "num_after": config.after}
    check_use(lm, cfg, before=(), **sizes)
    check_attends(lm, T)
    passages = texts_of(lm, cell, row, config, T + config.after)
    check_fits(lm, crammed_part(passages, (), T), cfg)
    # Another number of texts is another cell, because a finished study is not extended.
    path = claim_cell(folder, f"{name}-{num_texts}", cell | sizes, lm, passages)
    with bar_of(len(passages), of_cramming, stop_if_told) as report:
        crammed, records = run_use(
            lm,
            passages,
            cfg,
            path,
            ("attention", "knockout", "use"),
            before=(),
            num_tokens=T,
            report=report,
        )
    sizes["num_exact"] = int(crammed.exact.sum())
    line = functools.partial(model_rows.use_line, published=published_attention(lm.name))
    return sizes | model_rows.use_figures(records), line, None


MEASURES = {"horizon": horizons, "exact": exact, "use": use}


if __name__ == "__main__":
    launch(main, "real_models.py", resumable=True)
