"""Causal attention over grouped heads, and the cache that decoding keeps."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

MASKED = -1e30  # finite, so that a row without any key gives no NaN


class KVCache(NamedTuple):
    """Keys and values of the positions read so far, for every layer.

    Attributes:
      k: [L B S K H]; position s is valid where s < length.
      v: [L B S K H].
      length: number of valid positions, the same for all rows.
    """

    k: Float[Array, "L B S K H"]
    v: Float[Array, "L B S K H"]
    length: Int[Array, ""]


def empty_cache(
    num_layers: int, batch: int, length: int, num_kv_heads: int, head_dim: int, dtype
) -> KVCache:
    """A cache with room for `length` positions."""
    zeros = jnp.zeros((num_layers, batch, length, num_kv_heads, head_dim), dtype)
    return KVCache(zeros, zeros, jnp.zeros((), jnp.int32))


def causal_mask(
    query_positions: Int[Array, "T"], num_keys: int
) -> Bool[Array, "T {num_keys}"]:
    """True where a query may see a key: at its own position and before."""
    return jnp.arange(num_keys)[None, :] <= query_positions[:, None]


def attend(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    mask: Bool[Array, "T S"],
) -> Float[Array, "B T N H"]:
    """Softmax attention with scale H**-0.5; query head n reads kv head n // (N / K).

    Source: Vaswani et al. 2017, arXiv:1706.03762; grouped heads: Ainslie et al. 2023,
      arXiv:2305.13245.
    """
    B, T, N, H = q.shape
    K = k.shape[2]
    q = q.reshape(B, T, K, N // K, H)
    # Logits and softmax in float32: bfloat16 sums over long S lose the small weights.
    logits = jnp.einsum(
        "btkgh,bskh->bkgts",
        q * jnp.asarray(H**-0.5, q.dtype),
        k,
        preferred_element_type=jnp.promote_types(q.dtype, jnp.float32),
    )
    logits = jnp.where(mask[None, None, None], logits, MASKED)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("bkgts,bskh->btkgh", weights, v).reshape(B, T, N, H)


def attend_cached(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    mask: Bool[Array, "T S"],
    cached: tuple[Float[Array, "B S K H"], Float[Array, "B S K H"]] | None,
    start: Int[Array, ""],
):
    """`attend` over what one layer has cached with `k` and `v` added from `start` on.

    Returns:
      The heads' outputs [B T N H], and the layer's new keys and values; None for those
      where `cached` is None, which means that `k` and `v` are all there is.
    """
    if cached is None:
        return attend(q, k, v, mask), None
    k, v = (
        jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), start, axis=1)
        for old, new in zip(cached, (k, v), strict=True)
    )
    return attend(q, k, v, mask), (k, v)
