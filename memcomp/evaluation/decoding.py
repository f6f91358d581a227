"""Greedy, free-running decoding from memory: what a user gets back."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from memcomp.data.tokens import checked_ids
from memcomp.errors import InputError
from memcomp.lm import LanguageModel
from memcomp.sharding import fetch, on_mesh


def decode(
    lm: LanguageModel, memory: Any, num_tokens: Any, given: Any = None
) -> Int[np.ndarray, "*B {num_tokens}"]:
    """The LM's greedy continuation of memory, in the dtype of the LM, with a KV cache.

    One program is compiled for each shape.

    Args:
      lm: the language model.
      memory: floats of one text [M D], or of several [B M D].
      num_tokens: length of the result, the given tokens included.
      given: ids [G] or [B G] of leading tokens that are not decoded but read after the
        memory, as the reference protocol wants.

    Returns:
      Token ids; the first G are `given`.

    Raises:
      InputError: no such memory or tokens, no room for so many tokens, or logits that
        are not finite.
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
    with on_mesh(lm.mesh):
        tokens, finite = _decode(
            lm.params, memory, given, module=lm.module, num_tokens=int(num_tokens)
        )
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
def _decode(
    params: Any,
    memory: Float[Array, "B M D"],
    given: Int[Array, "B G"],
    *,
    module: Any,
    num_tokens: int,
) -> tuple[Int[Array, "B {num_tokens}"], Bool[Array, ""]]:
    """The tokens, and whether all logits were finite."""
    variables = {"params": params}
    rows = module.apply(variables, method="unembedding")

    def read(x, cache):
        hidden, cache = module.apply(variables, x, cache)
        logits = jnp.einsum(
            "bd,vd->bv", hidden[:, -1], rows, preferred_element_type=jnp.float32
        )
        return jnp.argmax(logits, axis=-1), cache, jnp.isfinite(logits).all()

    def step(carry, _):
        token, cache, finite = carry
        x = module.apply(variables, token[:, None], method="embed")
        following, cache, still = read(x, cache)
        return (following, cache, finite & still), token

    read_given = module.apply(variables, given, method="embed")
    B, M, _ = memory.shape
    # The last token is never read.
    cache = module.empty_cache(B, M + num_tokens - 1, read_given.dtype)
    prefill = jnp.concatenate([memory.astype(read_given.dtype), read_given], axis=1)
    start = read(prefill, cache)
    num_steps = num_tokens - given.shape[1] - 1
    (last, _, finite), decoded = jax.lax.scan(step, start, length=num_steps)
    return jnp.concatenate([given, decoded.T, last[:, None]], axis=1), finite
