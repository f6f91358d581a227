"""Free-running decoding with a cache, one token at a time, greedy or sampled.

This is the only place where the LM's cache is made and advanced.

Letters: B texts, S positions, N new tokens, M memory, G given tokens,
D d_model, V vocabulary.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from memcomp.data.tokens import checked_ids
from memcomp.errors import InputError
from memcomp.lm.protocol import Cache, CausalLM, LanguageModel, Params, embed, logits_of
from memcomp.sharding import fetch

SMALLEST_CACHE = 64  # positions of a growing cache, at the least


def decode(
    lm: LanguageModel, memory: Any, num_tokens: Any, given: Any = None
) -> Int[np.ndarray, "*B {num_tokens}"]:
    """Greedy continuation of memory in the dtype of the LM, as a user gets it back.

    One program is compiled for each shape.

    Args:
      lm: the language model.
      memory: float memory of one text [M D], or of several [B M D].
      num_tokens: length of the result, including the given tokens.
      given: ids [G] or [B G] of leading tokens that are not decoded but read after the
        memory, as in the reference protocol.

    Returns:
      Token ids; the first G are `given`.

    Raises:
      InputError: the memory or the tokens do not fit the LM, it has too few positions, or
        its logits are not finite.
    """
    memory = _checked_memory(lm, memory)
    given = np.zeros((*memory.shape[:-2], 0), np.int32) if given is None else given
    given = checked_ids("given", given, lm.config.vocab_size, axes=memory.ndim - 1)
    if memory.ndim == 2:
        return decode(lm, memory[None], num_tokens, given[None])[0]
    if len(given) != len(memory):
        raise InputError(f"{len(given)} rows are given for {len(memory)} memories")
    num_given, most = given.shape[1], lm.config.max_positions - memory.shape[1] + 1
    whole = isinstance(num_tokens, int | np.integer) and not isinstance(num_tokens, bool)
    if not whole or not num_given < num_tokens <= most:
        raise InputError(
            f"num_tokens is {num_tokens!r}; give a whole number, more than the {num_given} "
            f"given and at most {most}"
        )
    tokens, finite = lm.run(_decode_memory, memory, given, num_tokens=int(num_tokens))
    lm.check_finite(fetch(finite))
    return fetch(tokens)


def _checked_memory(lm: LanguageModel, memory: Any) -> Float[np.ndarray, "*B M D"]:
    try:
        memory = np.asarray(memory, np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"memory is no array of numbers: {error}") from error
    D = lm.config.d_model
    if memory.ndim not in (2, 3) or not memory.size or memory.shape[-1] != D:
        raise InputError(
            f"memory is {list(memory.shape)}; give [M, {D}], of one text, or [B, M, {D}], "
            f"as {lm.name} is {D} wide"
        )
    if not np.isfinite(memory).all():
        raise InputError("memory has values that are not finite; give the memory of a text")
    return memory


@functools.partial(jax.jit, static_argnames=("module", "num_tokens"))
def _decode_memory(
    params: Params,
    memory: Float[Array, "B M D"],
    given: Int[Array, "B G"],
    *,
    module: CausalLM,
    num_tokens: int,
) -> tuple[Int[Array, "B {num_tokens}"], Bool[Array, ""]]:
    read = embed(params, given, module=module)
    x = jnp.concatenate([memory.astype(read.dtype), read], axis=1)
    (B, S, _), N = x.shape, num_tokens - given.shape[1]
    new, _, finite = continue_vectors(
        params, x, jnp.full(B, S, jnp.int32), module=module, num_tokens=N, num_prefill=S
    )
    return jnp.concatenate([given, new], axis=1), finite


# Keys of the texts [B], temperature and top_p; top_p None draws from all tokens.
Draw = tuple[Array, Float[Array, ""], Float[Array, ""] | None]


def continue_vectors(
    params: Params,
    x: Float[Array, "B S D"],
    lengths: Int[Array, "B"],
    stop: Int[Array, "*stops"] | int = -1,
    draw: Draw | None = None,
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
      module: the LM's Flax module.
      num_tokens: largest number of tokens of a continuation (N).
      num_prefill: number of positions that are read at once.
      growing: whether the cache begins small and is doubled when it is full. A step costs
        time for each position of the cache, but each size is compiled by itself.

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
    first, *larger = _doubled(num_prefill, room) if growing else [room]
    cache = empty_cache(module, B, first, x.dtype)
    logits, cache = advance(params, cache, x[:, :num_prefill], module=module)
    said, counts = jnp.zeros((B, N), jnp.int32), jnp.zeros(B, jnp.int32)
    prefilled = jnp.int32(num_prefill), logits, cache, said, counts
    state = (*prefilled, jnp.array(True), jnp.zeros(B, bool))
    for full, room in itertools.pairwise([first, *larger]):
        position, logits, cache, *rest = _loop(step, state, full)
        cache = _moved(cache, empty_cache(module, B, room, x.dtype))
        state = (position, logits, cache, *rest)
    *_, said, counts, finite, _ = _loop(step, state)
    return said, counts, finite


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


def _moved(cache: Cache, larger: Cache) -> Cache:
    """Returns the larger, empty cache with the positions that `cache` holds."""

    def put(new: Array, old: Array) -> Array:
        return jax.lax.dynamic_update_slice(new, old, (0,) * new.ndim)

    return jax.tree.map(put, larger, cache)


def empty_cache(module: CausalLM, num_texts: int, length: int, dtype: Any) -> Cache:
    """Makes a cache with room for `length` positions of each text."""
    return module.empty_cache(num_texts, length, dtype)


def advance(
    params: Params, cache: Cache, x: Float[Array, "B S D"], *, module: CausalLM
) -> tuple[Float[Array, "B V"], Cache]:
    """Reads input vectors after those in the cache; returns logits after the last one."""
    hidden, cache = module.apply({"params": params}, x, cache)
    return logits_of(params, hidden[:, -1], module=module), cache


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
