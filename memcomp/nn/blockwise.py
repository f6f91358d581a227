"""Causal attention block by block, which never materialises the [T, T] probabilities.

Each block of queries reads the keys in blocks, with an online softmax. The backward pass
recomputes each block's probabilities from the logarithms of the softmax sums. Memory is
O(T block), where `memcomp.nn.attention.attend` needs O(T S). It is plain JAX, for all
devices.

Letters: B texts, T queries and as many keys, K kv heads, G queries a kv head, H head
width, n blocks, t queries of a block, s keys of a block.

Source: Rabe and Staats 2021, arXiv:2112.05682; backward pass: Dao 2023, arXiv:2307.08691.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from memcomp.nn.attention import MASKED, visible
from memcomp.nn.cross_entropy import soft_capped

# Positions per block; on a CPU it is as fast as 64, and faster than 256 or more, at any
# length.
BLOCK = 128
UNBOUNDED = 2**30  # window that contains every key


class _Read(NamedTuple):
    """Running sums of the online softmax of a block of queries.

    Attributes:
      peak: largest logit so far.
      total: sum of exp(logit - peak).
      heads: sum of exp(logit - peak) times the values.
    """

    peak: Float[Array, "B K G t"]
    total: Float[Array, "B K G t"]
    heads: Float[Array, "B K G t H"]


def blockwise_attend(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    window: Int[Array, ""],
    softcap: float | None = None,
    block: int = BLOCK,
) -> Float[Array, "B T N H"]:
    """Softmax attention of scaled queries to the keys at their own positions and before.

    Args:
      q: queries, scaled; query head n reads kv head n // (N / K).
      k: keys of the same positions.
      v: values of the same positions.
      window: number of keys that a query sees, its own included; `UNBOUNDED` for all. It
        may be traced.
      softcap: cap c of the logits z, which become c tanh(z / c); None for no cap.
      block: number of queries, and of keys, in a block.
    """
    B, T, N, H = q.shape
    K = k.shape[2]
    short = -T % block  # padding is on the right, where only padding sees it
    q, k, v = (jnp.pad(x, ((0, 0), (0, short), (0, 0), (0, 0))) for x in (q, k, v))
    blocks = (T + short) // block
    q = q.reshape(B, blocks, block, K, N // K, H).transpose(1, 0, 3, 4, 2, 5)
    k, v = (x.reshape(B, blocks, block, K, H).transpose(1, 0, 3, 2, 4) for x in (k, v))
    heads: Any = _attend(q, k, v, window, softcap)
    heads = heads.transpose(1, 0, 4, 2, 3, 5).reshape(B, T + short, N, H)
    return heads[:, :T]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(q, k, v, window, softcap):
    """Heads [n B K G t H] from queries of that shape and keys and values [n B K s H]."""
    return _forward(q, k, v, window, softcap)[0]


def _forward(q, k, v, window, softcap):
    accumulate = jnp.promote_types(q.dtype, jnp.float32)

    def of_queries(i):
        rows = q[i]

        def add(j, read: _Read) -> _Read:
            logits, _ = _logits(rows, k[j], i, j, window, softcap)
            peak = jnp.maximum(read.peak, logits.max(axis=-1))
            shrink = jnp.exp(read.peak - peak)
            exps = jnp.exp(logits - peak[..., None])
            new = _einsum("bkgts,bksh->bkgth", exps.astype(v.dtype), v[j])
            heads = read.heads * shrink[..., None] + new
            return _Read(peak, read.total * shrink + exps.sum(axis=-1), heads)

        start = _Read(
            jnp.full(rows.shape[:-1], MASKED, accumulate),
            jnp.zeros(rows.shape[:-1], accumulate),
            jnp.zeros(rows.shape, accumulate),
        )
        read = jax.lax.fori_loop(_first(i, q, window), i + 1, add, start)
        heads = (read.heads / read.total[..., None]).astype(q.dtype)
        return heads, read.peak + jnp.log(read.total)

    heads, normaliser = jax.lax.map(of_queries, jnp.arange(q.shape[0]))
    return heads, (q, k, v, window, heads, normaliser)


def _backward(softcap, residuals, push):
    q, k, v, window, heads, normaliser = residuals
    accumulate = normaliser.dtype
    # The derivative of a softmax subtracts this from the gradient of each of its logits.
    mean = _einsum("nbkgth,nbkgth->nbkgt", push, heads)

    def of_queries(grads, i):
        rows, pushed = q[i], push[i]

        def add(j, carry):
            of_rows, of_keys, of_values = carry
            logits, slope = _logits(rows, k[j], i, j, window, softcap)
            weights = jnp.exp(logits - normaliser[i][..., None])
            pulled = _einsum("bkgth,bksh->bkgts", pushed, v[j]) - mean[i][..., None]
            pulled = (weights * pulled * slope).astype(q.dtype)
            of_rows += _einsum("bkgts,bksh->bkgth", pulled, k[j])
            of_key = _einsum("bkgts,bkgth->bksh", pulled, rows)
            of_value = _einsum("bkgts,bkgth->bksh", weights.astype(v.dtype), pushed)
            return of_rows, of_keys.at[j].add(of_key), of_values.at[j].add(of_value)

        start = jnp.zeros(rows.shape, accumulate), *grads
        first = _first(i, q, window)
        of_rows, *grads = jax.lax.fori_loop(first, i + 1, add, start)
        return tuple(grads), of_rows.astype(q.dtype)

    zeros = jnp.zeros(k.shape, accumulate)
    (of_keys, of_values), of_rows = jax.lax.scan(
        of_queries, (zeros, zeros), jnp.arange(q.shape[0])
    )
    return of_rows, of_keys.astype(k.dtype), of_values.astype(v.dtype), None


_attend.defvjp(_forward, _backward)


def _first(i, q, window):
    """Index of the first block of keys that the queries of block `i` see."""
    block = q.shape[-2]
    return jnp.maximum((i * block - window + 1) // block, 0)


def _logits(rows, keys, i, j, window, softcap):
    """Logits of query block `i` and key block `j`, and the slopes of the soft cap."""
    logits = _einsum("bkgth,bksh->bkgts", rows, keys)
    slope = jnp.ones((), logits.dtype)
    if softcap is not None:
        logits = soft_capped(logits, softcap)
        slope = 1 - jnp.square(logits / softcap)
    queries, columns = (
        index * rows.shape[-2] + jnp.arange(rows.shape[-2]) for index in (i, j)
    )
    mask = visible(queries[:, None], columns[None, :], window)
    return jnp.where(mask[None, None, None], logits, MASKED), slope


def _einsum(equation, a, b):
    """Einsum that accumulates in at least float32."""
    wide = jnp.promote_types(a.dtype, jnp.float32)
    return jnp.einsum(equation, a, b, preferred_element_type=wide)
