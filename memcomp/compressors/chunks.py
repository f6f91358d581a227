"""Splits long contexts into equal chunks, which are compressed independently.

Letters: B contexts, K chunks of a context, C tokens of a chunk, M vectors of a chunk,
P = K M.

Source: Wang et al. 2024, arXiv:2406.13618, section 3.3 ("divide and conquer") and the
  authors' code, which loops over the chunks.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from memcomp.compressors.protocol import Compressor, Params
from memcomp.errors import InputError


class Chunks(NamedTuple):
    """Contexts in chunks, as arrays of fixed shapes: numpy arrays on the host.

    Attributes:
      tokens: token ids; each chunk is padded on the right.
      lengths: number of tokens of each chunk without padding; 0 for the last chunks of a
        context that has fewer than K.
    """

    tokens: Int[Any, "B K C"]
    lengths: Int[Any, "B K"]


def split(
    tokens: Int[np.ndarray, "_"], max_chunk: int | None
) -> list[Int[np.ndarray, "_"]]:
    """Splits a context into ceil(n / max_chunk) chunks of equal length.

    The last chunk may be shorter, but no chunk is empty: with k = ceil(n / max_chunk)
    chunks of c = ceil(n / k) <= max_chunk tokens, the first k - 1 hold
    (k - 1) c <= (k - 1) max_chunk < n.

    Args:
      tokens: a context of n tokens.
      max_chunk: largest number of tokens of a chunk; None for one chunk of any length.

    Raises:
      InputError: the context is empty, or `max_chunk` is below 1.
    """
    n = len(tokens)
    if n == 0:
        raise InputError("the context is empty; give at least one token to compress")
    if max_chunk is None:
        return [tokens]
    if max_chunk < 1:
        raise InputError(
            f"max_chunk is {max_chunk}; give at least 1, or None for no chunks"
        )
    size = -(-n // -(-n // max_chunk))
    return [tokens[start : start + size] for start in range(0, n, size)]


def stack_chunks(
    contexts: Sequence[Int[np.ndarray, "_"]],
    max_chunk: int | None,
    num_chunks: int | None = None,
) -> Chunks:
    """Splits all contexts into chunks and pads them to fixed shapes.

    Args:
      contexts: tokens of each context.
      max_chunk: see `split`; if given it is also C, so that all batches have the same C.
      num_chunks: K; None for the number of chunks of the longest context.

    Raises:
      InputError: a context is empty, or has more than `num_chunks` chunks.
    """
    parts = [split(np.asarray(context), max_chunk) for context in contexts]
    most = max(len(chunks) for chunks in parts)
    if num_chunks is not None and most > num_chunks:
        longest = max(len(context) for context in contexts)
        raise InputError(
            f"a context of {longest} tokens has {most} chunks; wanted at most {num_chunks} "
            f"of {max_chunk}: shorten it, or allow more or longer chunks"
        )
    width = max_chunk or max(len(chunk) for chunks in parts for chunk in chunks)
    shape = (len(parts), num_chunks or most, width)
    tokens, lengths = np.zeros(shape, np.int32), np.zeros(shape[:2], np.int32)
    for row, chunks in enumerate(parts):
        for k, chunk in enumerate(chunks):
            tokens[row, k, : len(chunk)] = chunk
            lengths[row, k] = len(chunk)
    return Chunks(tokens, lengths)


def soft_prompts(
    compressor: Compressor,
    params: Params,
    lm_params: Params,
    tokens: Int[Array, "B K C"],
    lengths: Int[Array, "B K"],
) -> Float[Array, "B P D"]:
    """Returns the vectors of each context, chunk after chunk; all chunks are one batch.

    The LM never reads the vectors of an empty chunk (`memcomp.compressors.layout`).
    """
    B, K, C = tokens.shape
    # A compressor needs at least one token, so an empty chunk gets one padding token.
    vectors = compressor.digest(
        params,
        lm_params,
        tokens.reshape(B * K, C),
        jnp.maximum(lengths.reshape(B * K), 1),
    )
    return vectors.reshape(B, K * compressor.num_digests, vectors.shape[-1])
