"""Row `decoding` of benchmark.py: tokens per second decoded, in each way of writing."""

import pathlib
from collections.abc import Iterator

import numpy as np
from launch import Config

import memcomp
from memcomp.cram.ways.table import WAYS
from memcomp.runs.files import Record

from .timing import Side, entry, over, rates, spread, timed


def decoding(name: str, config: Config, scratch: pathlib.Path) -> Iterator[Record]:
    """Compares one forward pass with decoding token by token, on random memories."""
    section = config[name]
    lm = memcomp.load_lm(section.lm)
    rng = np.random.default_rng(config.seed)

    def side(way: str) -> Side:
        shape = section.num_texts, WAYS[way].rows(1), WAYS[way].width(lm.module)
        memory = rng.standard_normal(shape).astype(np.float32)

        work = section.num_texts * section.num_tokens
        return timed(lambda: memcomp.decode(lm, memory, section.num_tokens, way=way), work)

    ways = ("vectors", "one_step")
    sides = {way: side(way) for way in ways}
    rates(sides, 1)  # compiles
    found = rates(sides, config.rounds)
    yield entry(
        f"{name}: one_step / vectors",
        over(found["one_step"], found["vectors"]),
        unit="tokens per second",
        rates={way: spread(values) for way, values in found.items()},
    )
