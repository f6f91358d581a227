"""Long contexts in equal chunks, which are compressed side by side.

Letters: B contexts, K chunks of a context, C tokens of a chunk, M vectors a chunk,
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
    """Contexts in chunks, of fixed shapes; as numpy arrays until they are used.

    Attributes:
      tokens: padded on the right, chunk by chunk.
      lengths: true tokens of each chunk; 0 for a chunk that its context does not have,
        which are the last ones.
    """

    tokens: Int[Any, "B K C"]
    lengths: Int[Any, "B K"]


def split(
    tokens: Int[np.ndarray, "_"], max_chunk: int | None
) -> list[Int[np.ndarray, "_"]]:
    """ceil(n / max_chunk) chunks of equal length, the last of which may be shorter.

    None is empty: with k = ceil(n / max_chunk) chunks of c = ceil(n / k) <= max_chunk
    tokens, the first k - 1 hold (k - 1) c <= (k - 1) max_chunk < n.

    Args:
      tokens: a context of n tokens.
      max_chunk: the most tokens a chunk; None for one chunk, however long.

    Raises:
      InputError: an empty context, or chunks of no length.
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
    """The chunks of all contexts, padded to fixed shapes.

    Args:
      contexts: tokens of each.
      max_chunk: see `split`; also C, so that every batch has the same.
      num_chunks: K; that of the longest context where None.

    Raises:
      InputError: an empty context, or one of more than `num_chunks` chunks.
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
    """The vectors of each context, chunk after chunk; all chunks are one batch.

    What stands for a chunk that a context does not have is not read by anyone
    (`memcomp.compressors.layout`).
    """
    B, K, C = tokens.shape
    # Of nothing at all a compressor cannot make vectors: one padding token instead.
    vectors = compressor.digest(
        params,
        lm_params,
        tokens.reshape(B * K, C),
        jnp.maximum(lengths.reshape(B * K), 1),
    )
    return vectors.reshape(B, K * compressor.num_digests, vectors.shape[-1])
