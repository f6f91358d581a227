"""Where memory starts: a draw, or a draw and what is known of the text."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

NOISE = 0.1  # of the normal start, by which starts from one mean differ


class Known(NamedTuple):
    """What a start may be made of.

    Attributes:
      embedding: token vectors of the whole vocabulary.
      tokens: of the text, padded on the right.
      length: how many of them are text.
    """

    embedding: Float[Array, "V D"]
    tokens: Int[Array, "T"]
    length: Int[Array, ""]


def _normal(key, shape, known, scale):
    # In float32 at the least; more where there is more, so that a mesh shows no rounding.
    embedding = known.embedding
    std = jnp.std(embedding.astype(jnp.promote_types(embedding.dtype, jnp.float32)))
    return scale * std * jax.random.normal(key, shape)


def _uniform(key, shape, known, scale):
    return jax.random.uniform(key, shape, maxval=scale)


def _token_mean(key, shape, known, scale):
    normal = _normal(key, shape, known, scale)
    # Memory makes the first token from nothing else, the later ones from those before too.
    index = jnp.arange(len(known.tokens))
    weights = jnp.where(index < known.length, 1 / (1 + index), 0).astype(normal.dtype)
    total = weights @ known.embedding[known.tokens].astype(normal.dtype)
    along = total / jnp.maximum(jnp.linalg.norm(total), jnp.finfo(total.dtype).tiny)
    return jnp.linalg.norm(normal, axis=-1, keepdims=True) * along[None] + NOISE * normal


# "normal": normal with `scale` times the standard deviation of all entries of the embedding
# matrix; "uniform": uniform between 0 and `scale`; "token_mean": the mean of the text's
# token vectors, the i-th weighing 1/i, made as long as "normal", and `NOISE` of that.
INITS: dict[str, Callable[..., Array]] = {
    "normal": _normal,
    "uniform": _uniform,
    "token_mean": _token_mean,
}


def initial_memory(
    key: Key[Array, ""], num_memory: int, known: Known, init: str, scale: float
) -> Float[Array, "M D"]:
    """The memory of one text before the first step, in float32.

    Args:
      key: of the seed and the text.
      num_memory: vectors (M).
      known: of the LM and the text.
      init: a key of `INITS`.
      scale: see there.
    """
    return INITS[init](key, (num_memory, known.embedding.shape[1]), known, scale)
