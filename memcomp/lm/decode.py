"""Free-running decoding with a cache, one token at a time, greedy or sampled.

Letters: B texts, S positions, N new tokens, D d_model, V vocabulary.
"""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from memcomp.errors import InputError
from memcomp.lm.cache import advance, empty_cache, moved
from memcomp.lm.protocol import Cache, CausalLM, Params, embed

SMALLEST_CACHE = 64  # positions of a growing cache, at the least


# Keys of the texts [B], temperature and top_p; top_p None draws from all tokens.
Draw = tuple[Array, Float[Array, ""], Float[Array, ""] | None]


def continue_vectors(
    params: Params,
    x: Float[Array, "B S D"],
    lengths: Int[Array, "B"],
    stop: Int[Array, "*stops"] | int = -1,
    draw: Draw | None = None,
    cache: Cache = None,
    *,
    module: CausalLM,
    num_tokens: int,
    num_prefill: int,
    growing: bool = False,
) -> tuple[Int[Array, "B {num_tokens}"], Int[Array, "B"], Bool[Array, ""]]:
    """Continues each sequence of input vectors with new tokens.

    The first `num_prefill` positions, which all sequences have, are read at once. Later
    positions are read one at a time: each sequence first reads the rest of its own vectors,
    and then the tokens of its continuation.

    Args:
      params: parameters of the LM.
      x: input vectors, padded on the right.
      lengths: number of vectors of each sequence that are not padding; `num_prefill` or
        more.
      stop: token, or tokens, that end a continuation and are not part of it; -1 for none.
      draw: random keys [B], temperature and top_p of `sample`; None for greedy decoding.
      cache: cache after which the vectors are read, with room for S + N more positions;
        None for an empty one.
      module: the LM's Flax module.
      num_tokens: largest number of tokens of a continuation (N).
      num_prefill: number of positions that are read at once.
      growing: whether an empty cache begins small and is doubled when it is full. A step
        costs time for each position of the cache, but each size is compiled by itself.

    Returns:
      The new tokens, the length of each continuation, and whether all logits were finite.
    """
    (B, S, _), N = x.shape, num_tokens

    def step(state: tuple[Any, ...]) -> tuple[Any, ...]:
        position, logits, cache, said, counts, finite, done = state
        finite &= jnp.isfinite(logits).all()
        token = _next_token(logits, counts, draw)
        speaks = (position >= lengths) & ~done
        next_free = jnp.arange(N)[None] == counts[:, None]
        said = jnp.where(next_free & speaks[:, None], token[:, None], said)
        ends = speaks & jnp.isin(token, stop)
        counts = counts + (speaks & ~ends)
        done = done | ends | (counts == N)
        own = jax.lax.dynamic_index_in_dim(x, position, axis=1)  # clamped past the end
        new = embed(params, token[:, None], module=module)
        following = jnp.where((position >= lengths)[:, None, None], new, own)
        # Once all are done, this reads one position too many, for which there is room.
        logits, cache = advance(params, cache, following, module=module)
        return position + 1, logits, cache, said, counts, finite, done

    # The cache has at most the LM's positions, because dynamic rotary scaling depends on
    # the length of the cache and would assume a longer text.
    room = min(S + N, module.config.max_positions)
    grows = growing and cache is None
    first, *larger = _doubled(num_prefill, room) if grows else [room]
    if cache is None:
        cache = empty_cache(module, B, first, x.dtype)
    logits, cache = advance(params, cache, x[:, :num_prefill], module=module)
    said, counts = jnp.zeros((B, N), jnp.int32), jnp.zeros(B, jnp.int32)
    prefilled = jnp.int32(num_prefill), logits, cache, said, counts
    state = (*prefilled, jnp.array(True), jnp.zeros(B, bool))
    for full, room in itertools.pairwise([first, *larger]):
        position, logits, cache, *rest = _loop(step, state, full)
        cache = moved(cache, empty_cache(module, B, room, x.dtype))
        state = (position, logits, cache, *rest)
    *_, said, counts, finite, _ = _loop(step, state)
    return said, counts, finite


def greedy_text(
    params: Params,
    x: Float[Array, "B S D"],
    given: Int[Array, "B G"],
    cache: Cache = None,
    *,
    module: CausalLM,
    num_tokens: int,
) -> tuple[Int[Array, "B {num_tokens}"], Bool[Array, ""]]:
    """Greedy text after input vectors, all of which are read at once.

    Args:
      params: parameters of the LM.
      x: input vectors of each text, those of the given tokens included.
      given: leading tokens of each text.
      cache: see `continue_vectors`.
      module: the LM's Flax module.
      num_tokens: tokens of a text, the given ones included.

    Returns:
      The texts, and whether all logits were finite.
    """
    B, S, _ = x.shape
    new, _, finite = continue_vectors(
        params,
        x,
        jnp.full(B, S, jnp.int32),
        cache=cache,
        module=module,
        num_tokens=num_tokens - given.shape[1],
        num_prefill=S,
    )
    return jnp.concatenate([given, new], axis=1), finite


def _loop(
    step: Callable[[tuple[Any, ...]], tuple[Any, ...]],
    state: tuple[Any, ...],
    end: int | None = None,
) -> tuple[Any, ...]:
    """Steps until all continuations are done, or until position `end`."""

    def goes_on(state: tuple[Any, ...]) -> Bool[Array, ""]:
        position, *_, done = state
        return ~jnp.all(done) & (True if end is None else position < end)

    return jax.lax.while_loop(goes_on, step, state)


def _doubled(least: int, most: int) -> list[int]:
    """Lengths of a growing cache, each half of the next; the first has `least` or more."""
    lengths = [most]
    while (half := -(-lengths[0] // 2)) >= max(least, SMALLEST_CACHE):
        lengths.insert(0, half)
    return lengths


def _next_token(
    logits: Float[Array, "B V"],
    counts: Int[Array, "B"],
    draw: Draw | None,
) -> Int[Array, "B"]:
    if draw is None:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    keys, temperature, top_p = draw
    keys = jax.vmap(jax.random.fold_in)(keys, counts)
    return sample(logits, keys, temperature, top_p).astype(jnp.int32)


def check_sampling(temperature: float, top_p: float) -> None:
    """Raises `InputError` unless `sample` can use this temperature and top_p."""
    if not (temperature >= 0 and 0 < top_p <= 1):
        raise InputError(
            f"temperature is {temperature} and top_p is {top_p}; give at least 0, and "
            "above 0 to 1"
        )


def sample(
    logits: Float[Array, "B V"],
    keys: Array,
    temperature: Float[Array, ""],
    top_p: Float[Array, ""] | None,
) -> Int[Array, "B"]:
    """Nucleus sampling: draws from the likeliest tokens of total probability `top_p`.

    With a `top_p` of None it draws from all tokens and need not sort them, which takes
    most of the time of a small LM.

    Source: Holtzman et al. 2020, arXiv:1904.09751.
    """
    logits = logits / temperature
    if top_p is None:
        return jax.vmap(jax.random.categorical)(keys, logits)
    order = jnp.argsort(logits, axis=-1, descending=True)
    ranked = jnp.take_along_axis(logits, order, axis=-1)
    probabilities = jax.nn.softmax(ranked, axis=-1)
    # A token is kept if those before it have too little probability together, so that the
    # first token is always kept.
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    ranked = jnp.where(before < top_p, ranked, -jnp.inf)
    rank = jax.vmap(jax.random.categorical)(keys, ranked)
    return jnp.take_along_axis(order, rank[:, None], axis=-1)[:, 0]
