"""Causal attention over grouped heads, and the cache that decoding keeps."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from memcomp.nn.einsum import Einsum
from memcomp.nn.rotary import rotate

MASKED = -1e30  # finite, so that a query that sees no key gives no NaN


class KVCache(NamedTuple):
    """Keys and values of the positions read so far, for every layer.

    Attributes:
      k: keys [L B S K H]; position s is valid where s < length.
      v: values [L B S K H].
      length: number of valid positions, the same for all texts.
    """

    k: Float[Array, "L B S K H"]
    v: Float[Array, "L B S K H"]
    length: Int[Array, ""]


class Positions(NamedTuple):
    """Positions of a layer's queries and keys, and how the layer attends.

    Attributes:
      mask: True where a query may see a key; one mask for all texts, or one for each.
      table: cosines and sines of the queries' angles; None without rotary positions.
      start: position of the first query, and of its key in a cache.
      layer: index of the layer, from 0.
      kernel: function that computes the heads without the attention probabilities, called
        as `kernel(q, k, v, softcap)` with scaled queries where nothing is cached
        (`memcomp.nn.flash`); None to compute the probabilities.
    """

    mask: Bool[Array, "*rows T S"]
    table: tuple[Float[Array, "T half"], Float[Array, "T half"]] | None
    start: Int[Array, ""]
    layer: Int[Array, ""]
    kernel: Callable[..., Any] | None = None


Cached = tuple[Float[Array, "B S K H"], Float[Array, "B S K H"]] | None


def empty_cache(
    num_layers: int, batch: int, length: int, num_kv_heads: int, head_dim: int, dtype
) -> KVCache:
    """Makes a cache with room for `length` positions."""
    zeros = jnp.zeros((num_layers, batch, length, num_kv_heads, head_dim), dtype)
    return KVCache(zeros, zeros, jnp.zeros((), jnp.int32))


def causal_mask(
    query_positions: Int[Array, "T"],
    num_keys: int,
    window: int | None = None,
) -> Bool[Array, "T {num_keys}"]:
    """Mask that is True where a query may see a key: at its own position and before.

    Args:
      query_positions: position of each query.
      num_keys: number of keys, at positions 0, 1, ...
      window: number of keys that a query sees, its own included; None for all.
    """
    return visible(query_positions[:, None], jnp.arange(num_keys)[None, :], window)


def prefix_mask(
    query_positions: Int[Array, "T"],
    num_keys: int,
    prefix: Int[Array, "B"],
    window: int | None = None,
) -> Bool[Array, "B T {num_keys}"]:
    """`causal_mask` of each text, lifted between the first positions of the text.

    Args:
      query_positions: see `causal_mask`.
      num_keys: see `causal_mask`.
      prefix: number of first positions of each text that see each other both ways.
      window: see `causal_mask`; keys after a query are seen as far as those before it.

    Source: prefix LM of Raffel et al. 2020, arXiv:1910.10683, section 3.2.1.
    """
    queries, keys = query_positions[:, None], jnp.arange(num_keys)[None, :]
    lifted = visible(keys, queries, window)  # the causal mask in the other direction
    last = jnp.maximum(queries, keys)
    within = last[None] < prefix[:, None, None]
    return visible(queries, keys, window)[None] | (lifted[None] & within)


def visible(
    queries: Int[Array, "*#T"],
    keys: Int[Array, "*#S"],
    window: int | Int[Array, ""] | None,
) -> Bool[Array, "..."]:
    """Causal mask of any query and key positions, broadcast against each other."""
    mask = keys <= queries
    if window is not None:
        mask &= keys > queries - window
    return mask


def attention_weights(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    mask: Bool[Array, "*#rows T S"],
    scale: float | Float[Array, ""] | None = None,
    softcap: float | None = None,
) -> Float[Array, "B K groups T S"]:
    """Attention probabilities, by kv head and the query heads that share it.

    Args:
      q: queries; query head n reads kv head n // (N / K).
      k: keys.
      mask: True where a query may see a key; one mask for all texts, or one for each.
      scale: scale of the logits; None for H**-0.5.
      softcap: cap c of the logits z, which become c tanh(z / c); None for no cap.

    Returns:
      Probabilities that sum to one over the keys; float64 if `q` is float64, else float32.

    Source: Vaswani et al. 2017, arXiv:1706.03762; grouped heads: Ainslie et al. 2023,
      arXiv:2305.13245; soft-capping: Gemma Team 2024, arXiv:2408.00118, section 2.
    """
    B, T, N, H = q.shape
    K = k.shape[2]
    q = q.reshape(B, T, K, N // K, H)
    # Logits and softmax are in float32, because sums over long S in bfloat16 lose the small
    # probabilities.
    logits = jnp.einsum(
        "btkgh,bskh->bkgts",
        scaled(q, scale),
        k,
        preferred_element_type=jnp.promote_types(q.dtype, jnp.float32),
    )
    if softcap is not None:
        logits = softcap * jnp.tanh(logits / softcap)
    mask = mask.reshape(-1, 1, 1, *mask.shape[-2:])
    return jax.nn.softmax(jnp.where(mask, logits, MASKED), axis=-1)


def scaled(
    q: Float[Array, "*B H"], scale: float | Float[Array, ""] | None
) -> Float[Array, "*B H"]:
    """Scaled queries, whose products with keys are logits; see `attention_weights`."""
    return q * jnp.asarray(q.shape[-1] ** -0.5 if scale is None else scale, q.dtype)


def attend(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    mask: Bool[Array, "*#rows T S"],
    **options,
) -> Float[Array, "B T N H"]:
    """Softmax attention: sums `v` with the probabilities that `attention_weights` gives."""
    return weighted_values(attention_weights(q, k, mask, **options), v)


def weighted_values(
    weights: Float[Array, "B K groups T S"], v: Float[Array, "B S K H"]
) -> Float[Array, "B T N H"]:
    """Output of every query head: the values of its kv head, summed with `weights`."""
    B, K, G, T, _ = weights.shape
    heads = jnp.einsum("bkgts,bskh->btkgh", weights.astype(v.dtype), v)
    return heads.reshape(B, T, K * G, v.shape[-1])


class Attend(nn.Module):
    """Attention of all families over new keys and values and those in a layer's cache.

    It has no parameters and is a module only to sow the attention probabilities, where the
    collection "intermediates" is mutable. Where that collection is not mutable and nothing
    is cached, the kernel of `positions` may avoid computing the probabilities.
    """

    @nn.compact
    def __call__(
        self,
        q: Float[Array, "B T N H"],
        k: Float[Array, "B T K H"],
        v: Float[Array, "B T K H"],
        cached: Cached,
        positions: Positions,
        scale: float | Float[Array, ""] | None = None,
        softcap: float | None = None,
    ) -> tuple[Float[Array, "B T N H"], Cached]:
        """Returns the heads' outputs, and the layer's updated cache.

        Args:
          q: queries.
          k: keys of the queries' own positions.
          v: values of the same positions.
          cached: keys and values in the layer's cache; None without a cache.
          positions: positions of queries and keys.
          scale: see `attention_weights`.
          softcap: see `attention_weights`.
        """
        kept = self.is_mutable_collection("intermediates")
        if positions.kernel is not None and cached is None and not kept:
            return positions.kernel(scaled(q, scale), k, v, softcap), None
        if cached is not None:
            k, v = (
                jax.lax.dynamic_update_slice_in_dim(
                    old, new.astype(old.dtype), positions.start, axis=1
                )
                for old, new in zip(cached, (k, v), strict=True)
            )
            cached = k, v
        weights = attention_weights(q, k, positions.mask, scale, softcap)
        self.sow("intermediates", "weights", weights)
        return weighted_values(weights, v), cached


class SelfAttention(nn.Module):
    """Causal self-attention with one kernel each for queries, keys, values and output.

    Attributes:
      num_heads: number of query heads (N).
      num_kv_heads: number of key-value heads (K), a divisor of N.
      head_dim: width of a head (H).
      qkv_bias: whether queries, keys and values have biases.
      out_bias: whether the output has a bias.
      clip: largest absolute value of queries, keys and values; None for no clipping.
      qk_norm: function that makes the norm of queries and of keys from its logical axes;
        None for no norm.
      norm_heads_together: whether one norm spans all heads, instead of one for each head.
      scale: see `attention_weights`.
      softcap: see `attention_weights`.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    qkv_bias: bool = False
    out_bias: bool = False
    clip: float | None = None
    qk_norm: Callable[..., nn.Module] | None = None
    norm_heads_together: bool = False
    scale: float | None = None
    softcap: float | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], cached: Cached, positions: Positions
    ) -> tuple[Float[Array, "B T D"], Cached]:
        D, N, H = x.shape[-1], self.num_heads, self.head_dim
        q = self._project(x, "q", N, "heads")
        k = self._project(x, "k", self.num_kv_heads, "kv_heads")
        v = self._project(x, "v", self.num_kv_heads, "kv_heads")
        if self.qk_norm is not None:
            q = self._norm(q, "q_norm", "heads")
            k = self._norm(k, "k_norm", "kv_heads")
        if positions.table is not None:
            q, k = rotate(q, positions.table), rotate(k, positions.table)
        heads, cached = Attend(name="attend")(
            q, k, v, cached, positions, scale=self.scale, softcap=self.softcap
        )
        axes, bias = ("heads", "head_dim", "embed"), int(self.out_bias)
        out = Einsum("btnh,nhd->btd", (N, H, D), axes, bias, name="out")(heads)
        return out, cached

    def _project(self, x, name, num_heads, axis):
        axes = ("embed", axis, "head_dim")
        shape, bias = (x.shape[-1], num_heads, self.head_dim), 2 * self.qkv_bias
        y = Einsum("btd,dnh->btnh", shape, axes, bias, name=name)(x)
        return y if self.clip is None else jnp.clip(y, -self.clip, self.clip)

    def _norm(self, y, name, axis):
        axes = (axis, "head_dim") if self.norm_heads_together else ("head_dim",)
        assert self.qk_norm is not None
        return self.qk_norm(axes=axes, name=name)(y)
