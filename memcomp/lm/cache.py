"""The cache of a language model: how it is made, read, and turned into numbers and back.

Letters: B texts, S positions, M positions that are numbers, W numbers of a position,
D d_model, V vocabulary.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from memcomp.lm.protocol import Cache, CausalLM, Params, logits_of


def empty_cache(module: CausalLM, num_texts: int, length: int, dtype: Any) -> Cache:
    """Makes a cache with room for `length` positions of each text."""
    return module.empty_cache(num_texts, length, dtype)


def hidden_after(
    params: Params,
    cache: Cache,
    x: Float[Array, "B S D"],
    *,
    module: CausalLM,
) -> tuple[Float[Array, "B S D"], Cache]:
    """Reads input vectors after those in the cache; returns their final hidden states."""
    return module.apply({"params": params}, x, cache)


def advance(
    params: Params, cache: Cache, x: Float[Array, "B S D"], *, module: CausalLM
) -> tuple[Float[Array, "B V"], Cache]:
    """Reads input vectors after those in the cache; returns logits after the last one."""
    hidden, cache = hidden_after(params, cache, x, module=module)
    return logits_of(params, hidden[:, -1], module=module), cache


def moved(cache: Cache, larger: Cache) -> Cache:
    """Returns the larger, empty cache with the positions that `cache` holds."""

    def put(new: Array, old: Array) -> Array:
        return jax.lax.dynamic_update_slice(new, old, (0,) * new.ndim)

    return jax.tree.map(put, larger, cache)


def has_positions(module: CausalLM) -> bool:
    """Whether the cache keeps something for each position, or only one state for all."""
    return any(axis is not None for _, axis in _parts(module))


def num_numbers(module: CausalLM) -> int:
    """Numbers in the cache of one position, or of the state of an LM without positions."""
    return sum(math.prod(shape) for shape, _ in _parts(module))


def as_numbers(
    cache: Cache, num_positions: int, *, module: CausalLM
) -> Float[Array, "B M W"]:
    """Returns the first positions of a cache as numbers.

    Args:
      cache: cache of the LM.
      num_positions: number of positions (M); 1 if the LM keeps one state.
      module: the LM's Flax module.
    """
    rows = []
    for leaf, (_, axis) in zip(_arrays(cache), _parts(module), strict=True):
        if axis is None:
            leaf = jnp.expand_dims(jnp.moveaxis(leaf, 1, 0), 1)
        else:
            leaf = jnp.moveaxis(leaf, (1, axis), (0, 1))[:, :num_positions]
        rows.append(leaf.reshape(*leaf.shape[:2], -1))
    wide = functools.reduce(jnp.promote_types, (row.dtype for row in rows))
    return jnp.concatenate([row.astype(wide) for row in rows], axis=-1)


def from_numbers(
    numbers: Float[Array, "B M W"], room: int, dtype: Any, *, module: CausalLM
) -> Cache:
    """Returns the cache that consists of `numbers`, with room for `room` positions.

    Args:
      numbers: as from `as_numbers`.
      room: number of positions, at least M.
      dtype: dtype of the LM's activations.
      module: the LM's Flax module.
    """
    B, M, _ = numbers.shape
    cache, first, leaves = empty_cache(module, B, room, dtype), 0, []
    for empty, (shape, axis) in zip(_arrays(cache), _parts(module), strict=True):
        size = math.prod(shape)
        part = numbers[..., first : first + size].astype(empty.dtype)
        first += size
        if axis is None:
            leaves.append(jnp.moveaxis(part.reshape(B, *shape), 0, 1))
            continue
        part = jnp.moveaxis(part.reshape(B, M, *shape), (0, 1), (1, axis))
        leaves.append(jax.lax.dynamic_update_slice_in_dim(empty, part, 0, axis))
    names = [name for name in cache._fields if name != "length"]
    length = jnp.asarray(M, cache.length.dtype)
    return cache._replace(**dict(zip(names, leaves, strict=True)), length=length)


def _arrays(cache: Cache) -> list[Any]:
    """All arrays of a cache but its length; their second axis is that of the texts."""
    return [leaf for name, leaf in cache._asdict().items() if name != "length"]


def _parts(module: CausalLM) -> list[tuple[tuple[int, ...], int | None]]:
    """Of each array of the cache: its shape for one position, and the positions' axis.

    The shape is without the axes of texts and of positions. The axis is None for an array
    that has no positions.
    """

    def shapes(length: int) -> list[tuple[int, ...]]:
        make = functools.partial(module.empty_cache, 1, length, jnp.float32)
        return [leaf.shape for leaf in _arrays(jax.eval_shape(make))]

    parts = []
    for one, two in zip(shapes(1), shapes(2), strict=True):
        axis = next((i for i, n in enumerate(one) if n != two[i]), None)
        kept = [n for i, n in enumerate(one) if i not in (1, axis)]
        parts.append((tuple(kept), axis))
    return parts
