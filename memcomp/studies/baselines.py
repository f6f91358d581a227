"""Baselines of a table of compressors that have no weights: truncation and mean pooling.

The LM reads their vectors without the trained vectors AE and FT, which they do not have.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np

from memcomp.compressors.compress import SoftPrompts, TrainedCompressor
from memcomp.compressors.layout import SPECIAL
from memcomp.compressors.pooling import Pooling, PoolingConfig
from memcomp.errors import InputError
from memcomp.lm.protocol import embed
from memcomp.runs.files import Record
from memcomp.sharding import fetch
from memcomp.studies.answers import untrained_prompts
from memcomp.studies.compared import Compared, Make, by_compressor, num_vectors


class Baseline(NamedTuple):
    """A baseline beside a compressor.

    Attributes:
      counts: number of vectors of each context.
      make: makes a function that makes the vectors, at most as many as the compressor's.
    """

    counts: Callable[[Compared, Sequence[np.ndarray]], list[int]]
    make: Callable[[Compared], Make]


def num_kept(one: Compared, contexts: Sequence[np.ndarray]) -> list[int]:
    """Number of tokens that truncation keeps of each context."""
    counts = num_vectors(one, contexts)
    return [min(count, len(x)) for count, x in zip(counts, contexts, strict=True)]


def by_truncation(one: Compared) -> Make:
    """Returns a function that keeps the last tokens of contexts, as their embeddings.

    It keeps as many tokens as the compressor makes vectors. The LM reads these vectors as
    it reads the tokens themselves.
    """
    lm = one.setup.lm

    def make(contexts: Sequence[np.ndarray]) -> tuple[SoftPrompts, list[Record]]:
        counts = num_kept(one, contexts)
        tokens = np.zeros((len(contexts), max(counts)), np.int32)
        for row, context, n in zip(tokens, contexts, counts, strict=True):
            row[:n] = context[len(context) - n :]
        vectors = fetch(lm.run(_embed, tokens)).astype(np.float32)
        kept = [row[:n] for row, n in zip(vectors, counts, strict=True)]
        return untrained_prompts(lm, kept), [{} for _ in contexts]

    return make


_embed = functools.partial(jax.jit, static_argnames="module")(embed)


def by_pooling(one: Compared) -> Make:
    """Returns a function that pools contexts, into as many means as there are vectors."""
    lm = one.setup.lm
    config = PoolingConfig(num_digests=one.setup.task.compressor.num_digests)
    pooling = Pooling(lm.module, config)
    zeros = {name: np.zeros(lm.config.d_model, np.float32) for name in SPECIAL}
    params = {"compressor": nn.unbox(pooling.init(jax.random.key(0))), **zeros}
    trained = TrainedCompressor(pooling, params, lm.name, lm.fingerprint)
    return by_compressor(one._replace(trained=trained))


BASELINES = {
    "truncation": Baseline(num_kept, by_truncation),
    "mean pooling": Baseline(num_vectors, by_pooling),
}


def check_baselines(names: Sequence[str]) -> None:
    """Raises `InputError` unless all names are keys of `BASELINES`."""
    if unknown := [name for name in names if name not in BASELINES]:
        raise InputError(
            f"evaluate.baselines has {unknown}; known are {', '.join(BASELINES)}"
        )
