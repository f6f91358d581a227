"""Capacity: models x sources x vectors x seeds, at many lengths, or their horizons.

  python experiments/capacity.py [--config configs/capacity.py[:horizon]]
      [--config.x.y=value] [--workdir DIR]

Every (LM, source, number of vectors, seed) is a cell, a run folder of its own. Stopped at
any moment and started again, a sweep goes on; started with more lengths, texts, sources
or LMs in the same workdir, it does what is not there yet.
"""

import dataclasses
import itertools
import re
from collections.abc import Iterator
from typing import Any

import jax
import tqdm
from etils import epath
from launch import launch, say, stop_if_told
from ml_collections import config_dict

import memcomp
from memcomp.cram.horizon import Growth
from memcomp.cram.schedule import check_fits
from memcomp.data.texts import Text, num_token_ids, read_texts, tokenize
from memcomp.distributed import is_first
from memcomp.errors import InputError
from memcomp.evaluation.horizon_runs import run_horizons
from memcomp.evaluation.runs import describe, run_cramming
from memcomp.lm import LanguageModel
from memcomp.results import claim_workdir, summarise
from memcomp.sharding import make_mesh

DEFAULT_WORKDIR = "runs/capacity"
IDS = 100_000  # text i at length n has the id n * IDS + i, whatever else is in the grid


def main(config: config_dict.ConfigDict, workdir: str | None) -> None:
    """Config to library to the files of a sweep."""
    if config.mode not in MODES:
        raise InputError(f"mode {config.mode!r} is not one of {', '.join(MODES)}")
    run_cell = MODES[config.mode]
    growth_of(config)  # bad values are refused before anything is written
    workdir = workdir or DEFAULT_WORKDIR
    for name in config.lms:
        how = {"remat": config.remat, "attention": config.attention}
        mesh = make_mesh(**config.mesh)
        lm = memcomp.load_lm(name, dtype=config.dtype, mesh=mesh, **how)
        if config.shuffle_seed is not None:
            lm = lm.shuffled(config.shuffle_seed)
        before = None
        for cell, cfg in cells(lm.name, config):
            if cfg != before:
                # Programs of another config are not needed again, and on a CPU some
                # hundreds of them take all memory maps that a process may have.
                jax.clear_caches()
            before = cfg
            texts = cell_texts(lm, cell, cfg, config)
            check_fits(lm, texts, cfg)
            folder = claim_workdir(workdir, {"grid": "capacity"}, {})
            path = claim_workdir(folder / "cells" / cell_name(cell), cell, describe(lm))
            say(f"{path.name}: {run_cell(lm, texts, cfg, config, path)}")
    say(f"sweep: {workdir}")


def cells(
    lm: str, config: config_dict.ConfigDict
) -> Iterator[tuple[dict[str, Any], memcomp.CramConfig]]:
    """What makes a cell of this LM what it is, and how it is crammed."""
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
        cell = {
            "mode": config.mode,
            "lm": lm,
            "dtype": config.dtype,
            "source": source,
            "texts": config.sources[source].to_dict(),
            "num_memory": K,
            "seed": seed,
            "protocol": config.protocol,
            "recipe": dataclasses.asdict(cfg.resolved_recipe()),
        }
        yield cell, cfg


def cell_name(cell: dict[str, Any]) -> str:
    """Of its folder."""
    lm = re.sub(r"[^A-Za-z0-9.]+", "_", cell["lm"].rstrip("/").split("/")[-1])
    head = "horizons-" if cell["mode"] == "horizon" else ""
    return f"{head}{lm}-{cell['source']}-k{cell['num_memory']}-s{cell['seed']}"


def cell_texts(
    lm: LanguageModel,
    cell: dict[str, Any],
    cfg: memcomp.CramConfig,
    config: config_dict.ConfigDict,
) -> list[Text]:
    """The cell's texts at their longest; the first n of them do not depend on n."""
    longest = max(config.lengths)
    found = read_texts(
        **cell["texts"],
        num_texts=config.num_texts,
        seed=config.texts_seed,
        vocab_size=num_token_ids(lm.tokenizer, lm.config.vocab_size),
    )
    texts = tokenize(
        lm.tokenizer,
        found,
        num_tokens=longest,
        protocol=cfg.protocol,
        vocab_size=lm.config.vocab_size,
    )
    return [dataclasses.replace(text, source=cell["source"]) for text in texts]


def run_grid(lm, texts, cfg, config, folder: epath.Path) -> str:
    """Every text at every length."""
    at_lengths = [
        Text(length * IDS + text.text_id, text.source, text.tokens[:length])
        for length in sorted(set(config.lengths))
        for text in texts
    ]
    check_fits(lm, at_lengths, cfg)
    with progress_bar(at_lengths) as bar:

        def report(progress):
            bar.n = progress.num_done
            rate = f"{progress.token_steps_per_second:.0f}"
            bar.set_postfix(exact=progress.num_exact, token_steps_per_s=rate)
            stop_if_told()

        records = run_cramming(lm, at_lengths, cfg, folder, report)
    exact = sum(record["exact_greedy"] for record in records)
    return f"{exact} of {len(records)} exact"


def progress_bar(texts: list[Text]) -> tqdm.tqdm:
    """Of the first process; the others show none."""
    return tqdm.tqdm(total=len(texts), unit="text", mininterval=1, disable=not is_first())


def growth_of(config: config_dict.ConfigDict) -> Growth:
    """How targets follow each other, up to the longest length."""
    return Growth(most=max(config.lengths), **config.growth)


def run_horizon(lm, texts, cfg, config, folder: epath.Path) -> str:
    """The longest exact prefix of every text."""
    growth = growth_of(config)
    with progress_bar(texts) as bar:

        def report(progress):
            bar.n = progress.num_done
            bar.set_postfix(
                mean_exact=f"{progress.mean_exact:.2f}",
                longest=progress.longest,
                token_steps_per_s=f"{progress.token_steps_per_second:.0f}",
                minutes_left=f"{progress.seconds_left / 60:.0f}",
            )
            stop_if_told()

        records = run_horizons(lm, texts, cfg, growth, folder, report)
    figures = summarise(records)
    mean, error = figures["horizon"]["mean"], figures["horizon"]["standard_error"]
    return f"horizon {mean:.2f} ± {error or 0:.2f} tokens, n = {len(records)}"


MODES = {"grid": run_grid, "horizon": run_horizon}


if __name__ == "__main__":
    launch(main, "capacity.py", resumable=True)
