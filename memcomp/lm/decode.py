"""Free-running decoding with a cache: greedy or sampled, and a token at a time.

The only place where the LM's cache is made and advanced.

Letters: B texts, S positions, N new tokens, M memory, G given tokens,
D d_model, V vocabulary.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from memcomp.errors import InputError
from memcomp.lm.protocol import Cache, CausalLM, LanguageModel, Params, embed, logits_of
from memcomp.sharding import fetch


def decode(
    lm: LanguageModel,
    memory: Float[np.ndarray, "*B M D"] | Float[Array, "*B M D"],
    num_tokens: int,
    given: Int[np.ndarray, "*B G"] | None = None,
) -> Int[np.ndarray, "*B {num_tokens}"]:
    """The greedy continuation of memory, in the dtype of the LM: what a user gets back.

    One program is compiled for each shape.

    Args:
      lm: the language model.
      memory: of one text, or of several.
      num_tokens: length of the result, the given tokens included.
      given: leading tokens that are not decoded but read after the memory, as the
        reference protocol wants.

    Returns:
      Token ids; the first G are `given`.

    Raises:
      InputError: the memory is not of the width of the LM, or there is no room for so
        many tokens.
    """
    memory = np.asarray(memory, np.float32)
    if memory.ndim == 2:
        one = None if given is None else np.asarray(given)[None]
        return decode(lm, memory[None], num_tokens, one)[0]
    B, M, D = memory.shape
    if lm.config.d_model != D:
        raise InputError(f"memory is {D} wide, but {lm.name} is {lm.config.d_model}")
    given = np.zeros((B, 0), np.int32) if given is None else np.asarray(given, np.int32)
    if not given.shape[1] < num_tokens <= lm.config.max_positions - M + 1:
        raise InputError(
            f"num_tokens is {num_tokens}; wanted more than the {given.shape[1]} given "
            f"and at most {lm.config.max_positions - M + 1}"
        )
    return fetch(lm.run(_decode_memory, memory, given, num_tokens=num_tokens))


@functools.partial(jax.jit, static_argnames=("module", "num_tokens"))
def _decode_memory(
    params: Params,
    memory: Float[Array, "B M D"],
    given: Int[Array, "B G"],
    *,
    module: CausalLM,
    num_tokens: int,
) -> Int[Array, "B {num_tokens}"]:
    read = embed(params, given, module=module)
    x = jnp.concatenate([memory.astype(read.dtype), read], axis=1)
    (B, S, _), N = x.shape, num_tokens - given.shape[1]
    new, _ = continue_vectors(
        params, x, jnp.full(B, S, jnp.int32), module=module, num_tokens=N, num_prefill=S
    )
    return jnp.concatenate([given, new], axis=1)


def continue_vectors(
    params: Params,
    x: Float[Array, "B S D"],
    lengths: Int[Array, "B"],
    stop: Int[Array, ""] | int = -1,
    draw: tuple[Array, Float[Array, ""], Float[Array, ""]] | None = None,
    *,
    module: CausalLM,
    num_tokens: int,
    num_prefill: int,
) -> tuple[Int[Array, "B {num_tokens}"], Int[Array, "B"]]:
    """New tokens after each sequence of input vectors, and how many before its end.

    What all sequences have is read at once, `num_prefill` positions; after that a position
    at a time: a sequence reads its own vectors as long as it has any, and then the tokens
    that it was continued with.

    Args:
      params: of the LM.
      x: input vectors, padded on the right.
      lengths: how many vectors of each sequence are true; `num_prefill` or more.
      stop: the token that ends a continuation and is not part of it; -1 for none.
      draw: random keys [B], temperature and top_p; None for the likeliest token.
      module: of the LM.
      num_tokens: the most tokens of a continuation (N).
      num_prefill: positions that are read at once.
    """
    (B, S, _), N = x.shape, num_tokens

    def unfinished(state):
        return ~jnp.all(state[-1])

    def step(state):
        position, logits, cache, said, counts, done = state
        token = _next_token(logits, counts, draw)
        speaks = (position >= lengths) & ~done
        places = jnp.arange(N)[None] == counts[:, None]
        said = jnp.where(places & speaks[:, None], token[:, None], said)
        ends = speaks & (token == stop)
        counts = counts + (speaks & ~ends)
        done = done | ends | (counts == N)
        own = jax.lax.dynamic_index_in_dim(x, position, axis=1)  # clamped past the end
        new = embed(params, token[:, None], module=module)
        following = jnp.where((position >= lengths)[:, None, None], new, own)
        # Where all are done this is one position too many, for which there is room.
        logits, cache = advance(params, cache, following, module=module)
        return position + 1, logits, cache, said, counts, done

    # No longer than the LM's window: rotary angles that are scaled by the length in use
    # would be those of a longer text than there is.
    cache = empty_cache(module, B, min(S + N, module.config.max_positions), x.dtype)
    logits, cache = advance(params, cache, x[:, :num_prefill], module=module)
    said, counts = jnp.zeros((B, N), jnp.int32), jnp.zeros(B, jnp.int32)
    start = (jnp.int32(num_prefill), logits, cache, said, counts, jnp.zeros(B, bool))
    *_, said, counts, _ = jax.lax.while_loop(unfinished, step, start)
    return said, counts


def empty_cache(module: CausalLM, num_texts: int, length: int, dtype: Any) -> Cache:
    """A cache with room for `length` positions of each text."""
    return module.empty_cache(num_texts, length, dtype)


def advance(
    params: Params, cache: Cache, x: Float[Array, "B S D"], *, module: CausalLM
) -> tuple[Float[Array, "B V"], Cache]:
    """Reads input vectors after what is in the cache; logits after the last of them."""
    hidden, cache = module.apply({"params": params}, x, cache)
    return logits_of(params, hidden[:, -1], module=module), cache


def _next_token(logits, counts, draw):
    if draw is None:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    keys, temperature, top_p = draw
    keys = jax.vmap(jax.random.fold_in)(keys, counts)
    return sample(logits, keys, temperature, top_p).astype(jnp.int32)


def check_sampling(temperature: float, top_p: float) -> None:
    """Raises `InputError` where tokens cannot be drawn with these; see `sample`."""
    if not (temperature >= 0 and 0 < top_p <= 1):
        raise InputError(
            f"temperature is {temperature} and top_p is {top_p}; give at least 0, and "
            "above 0 to 1"
        )


def sample(
    logits: Float[Array, "B V"],
    keys: Array,
    temperature: Float[Array, ""],
    top_p: Float[Array, ""],
) -> Int[Array, "B"]:
    """A token for each text, from the likeliest with probability `top_p` together.

    Source: Holtzman et al. 2020, arXiv:1904.09751.
    """
    logits = logits / temperature
    order = jnp.argsort(logits, axis=-1, descending=True)
    ranked = jnp.take_along_axis(logits, order, axis=-1)
    probabilities = jax.nn.softmax(ranked, axis=-1)
    # A token is kept if those before it do not suffice; so the first one always is.
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    ranked = jnp.where(before < top_p, ranked, -jnp.inf)
    rank = jax.vmap(jax.random.categorical)(keys, ranked)
    return jnp.take_along_axis(order, rank[:, None], axis=-1)[:, 0]
