"""Measures capacity for LMs x sources x vectors x seeds: at many lengths, or as horizons.

  python experiments/capacity.py [--config configs/capacity.py[:horizon]]
      [--config.x.y=value] [--workdir DIR]

Every (LM, source, number of vectors, seed) is a cell, which has its own run folder. A sweep
can be stopped at any moment, and the same command resumes it. With more lengths, texts,
sources or LMs in the same workdir, it computes only what is missing.
"""

import itertools
from collections.abc import Iterator

from etils import epath
from launch import Config, launch, note, say, say_notes, stop_if_told

import memcomp
from memcomp.cram.group import check_alone
from memcomp.cram.horizon import Growth
from memcomp.cram.schedule import check_fits
from memcomp.ranges import check_choice, check_seed
from memcomp.runs.cells import Cell, cell_of, cell_texts, claim_cell, short_name
from memcomp.runs.cramming import run_cramming
from memcomp.runs.files import summarise
from memcomp.runs.horizons import run_horizons
from memcomp.runs.inputs import note_more_texts, note_never_decoded
from memcomp.runs.progress import bar_of, of_cramming, of_horizons
from memcomp.runs.records import said_of_lost_texts
from memcomp.sharding import make_mesh

DEFAULT_WORKDIR = "runs/capacity"


def main(config: Config, workdir: str | None) -> None:
    """Runs the cells of a sweep and writes their files."""
    check_choice("mode", config.mode, MODES)
    run_cell = MODES[config.mode]
    for name in ("texts_seed", "shuffle_seed"):
        check_seed(name, 0 if config[name] is None else config[name])
    growth_of(config)  # raises for bad values before anything is written
    workdir = workdir or DEFAULT_WORKDIR
    for name in config.lms:
        how = {"remat": config.remat, "attention": config.attention}
        mesh = make_mesh(**config.mesh)
        lm = memcomp.load_lm(name, dtype=config.dtype, mesh=mesh, **how)
        if config.shuffle_seed is not None:
            lm = lm.shuffled(config.shuffle_seed)
        for cell, cfg in cells(lm.name, config):
            texts = cell_texts(
                lm,
                cell,
                num_tokens=max(config.lengths),
                num_texts=config.num_texts,
                seed=config.texts_seed,
            )
            read = {**cell["texts"], "seed": config.texts_seed}
            note_more_texts(len(texts), note=note, **read)
            note_never_decoded(lm, texts, cfg.num_given, note)
            check_fits(lm, texts, cfg)
            if config.mode == "horizon":
                check_alone(cfg, "a horizon")
            path = claim_cell(workdir, cell_name(cell), cell, lm, texts)
            say_notes()
            say(f"{path.name}: {run_cell(lm, texts, cfg, config, path)}")
    say(f"sweep: {workdir}")


def cells(lm: str, config: Config) -> Iterator[tuple[Cell, memcomp.CramConfig]]:
    """Yields the config of each cell of this LM, and its cram config."""
    for K, seed, source in itertools.product(
        sorted(set(config.num_memory)), sorted(set(config.seeds)), sorted(config.sources)
    ):
        cfg = memcomp.CramConfig(
            num_tokens=None,
            num_memory=K,
            seed=seed,
            protocol=config.protocol,
            **config.cram,
        )
        texts = config.sources[source].to_dict()
        yield cell_of(config.mode, lm, config.dtype, source, texts, cfg), cfg


def cell_name(cell: Cell) -> str:
    """Name of a cell's folder."""
    head = "horizons-" if cell["mode"] == "horizon" else ""
    if cell["memory"] != "vectors":
        head += f"{cell['memory']}-"
    K, seed = cell["num_memory"], cell["seed"]
    return f"{head}{short_name(cell['lm'])}-{cell['source']}-k{K}-s{seed}"


def run_grid(lm, texts, cfg, config, folder: epath.Path) -> str:
    """Crams every text at every length; returns a summary."""
    at_lengths = [
        text.beginning(length) for length in sorted(set(config.lengths)) for text in texts
    ]
    check_fits(lm, at_lengths, cfg)
    with bar_of(len(at_lengths), of_cramming, stop_if_told) as report:
        records = run_cramming(lm, at_lengths, cfg, folder, report)
    exact = sum(record["exact_greedy"] for record in records)
    return f"{exact} of {len(records)} exact. {said_of_lost_texts(records)}".rstrip(". ")


def growth_of(config: Config) -> Growth:
    """Returns how targets follow each other, up to the longest length."""
    return Growth(most=max(config.lengths), **config.growth)


def run_horizon(lm, texts, cfg, config, folder: epath.Path) -> str:
    """Finds the longest exact prefix of every text; returns a summary."""
    growth = growth_of(config)
    with bar_of(len(texts), of_horizons, stop_if_told) as report:
        records = run_horizons(lm, texts, cfg, growth, folder, report)
    figures = summarise(records)
    mean, error = figures["horizon"]["mean"], figures["horizon"]["standard_error"]
    found = f"horizon {mean:.2f} ± {error or 0:.2f} tokens, n = {len(records)}"
    return f"{found}. {said_of_lost_texts(records)}".rstrip(". ")


MODES = {"grid": run_grid, "horizon": run_horizon}


if __name__ == "__main__":
    launch(main, "capacity.py", resumable=True)
