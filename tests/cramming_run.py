"""A small run that tests start, stop and compare."""

import os
import pathlib

import numpy as np
from etils import epath

RECIPE = {"learning_rate": 0.5, "max_steps": 40, "patience": 40, "margin": 0.05, "b2": 0.99}


def run(lm, workdir, report=lambda progress: None, way="vectors"):
    """Crams nine random texts, or nine groups, in three places; gives the records."""
    from memcomp.cram.config import CramConfig
    from memcomp.cram.recipe import Recipe
    from memcomp.cram.ways.table import WAYS
    from memcomp.data.texts import Text
    from memcomp.runs.cramming import run_cramming
    from memcomp.runs.files import claim_workdir

    rng = np.random.default_rng(5)
    lengths = np.repeat((2, 4, 3, 3, 2, 4, 3, 10, 11), WAYS[way].num_texts(2)).tolist()
    texts = [
        Text(i, "test", rng.integers(0, 23, n).astype(np.int32))
        for i, n in enumerate(lengths)
    ]
    cfg = CramConfig(
        num_tokens=None,
        num_memory=2,
        memory=way,
        recipe=Recipe(**RECIPE),
        batch_size=3,
        steps_per_chunk=5,
    )
    folder = claim_workdir(workdir, {"seed": 0}, {})
    return run_cramming(lm, texts, cfg, epath.Path(folder), report)


def run_in_process(workdir, cache, started, way):
    """The same in a process of its own, whose programs are cached in a folder."""
    import jax

    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    from tiny_lm import make_tiny_lm

    lm = make_tiny_lm("float32")
    pathlib.Path(started).touch()
    run(lm, workdir, way=way)
    os._exit(0)


def untimed(records):
    """The records without the time that each took."""
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


def comparable(records):
    """Records by text id, without their times."""
    return {record["text_id"]: record for record in untimed(records)}
