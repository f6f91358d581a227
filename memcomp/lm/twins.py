"""Token ids that greedy decoding never gives, whatever the LM has read."""

import functools

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from memcomp.lm.protocol import CausalLM, LanguageModel, Params, unembedding
from memcomp.sharding import fetch

COLUMNS = 8  # numbers of each output vector that are compared first


def never_decoded(lm: LanguageModel) -> Int[np.ndarray, "N"]:
    """Token ids whose output vector is equal to that of a lower id, ascending.

    Two such tokens have the same logit after any input, and greedy decoding takes the lower
    id. Vocabularies have such tokens where the training data never had them.
    """
    everything = np.arange(lm.config.vocab_size)
    some = everything[_is_repeated(fetch(lm.run(_columns)))]
    if not len(some):
        return some
    _, first = np.unique(fetch(lm.run(_rows, some)), axis=0, return_index=True)
    return np.delete(some, first)


def _is_repeated(rows: np.ndarray) -> np.ndarray:
    """Whether each row occurs more than once."""
    whole = np.ascontiguousarray(rows).view(f"V{rows.dtype.itemsize * rows.shape[1]}")
    _, group, count = np.unique(whole.ravel(), return_inverse=True, return_counts=True)
    return count[group] > 1


@functools.partial(jax.jit, static_argnames="module")
def _columns(params: Params, *, module: CausalLM) -> Float[Array, "V N"]:
    return unembedding(params, module=module)[:, :COLUMNS]


@functools.partial(jax.jit, static_argnames="module")
def _rows(
    params: Params, tokens: Int[Array, "N"], *, module: CausalLM
) -> Float[Array, "N D"]:
    return unembedding(params, module=module)[tokens]
