"""Greedy, free-running decoding from memory: what a user gets back."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from memcomp.errors import InputError
from memcomp.lm import LanguageModel
from memcomp.sharding import fetch


def decode(
    lm: LanguageModel,
    memory: Float[np.ndarray, "*B M D"] | Float[Array, "*B M D"],
    num_tokens: int,
    given: Int[np.ndarray, "*B G"] | None = None,
) -> Int[np.ndarray, "*B {num_tokens}"]:
    """The LM's greedy continuation of memory, in the dtype of the LM, with a KV cache.

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
    tokens = _decode(lm.params, memory, given, module=lm.module, num_tokens=num_tokens)
    return fetch(tokens)


@functools.partial(jax.jit, static_argnames=("module", "num_tokens"))
def _decode(
    params: Any,
    memory: Float[Array, "B M D"],
    given: Int[Array, "B G"],
    *,
    module: Any,
    num_tokens: int,
) -> Int[Array, "B {num_tokens}"]:
    variables = {"params": params}
    rows = module.apply(variables, method="unembedding")

    def read(x, cache):
        hidden, cache = module.apply(variables, x, cache)
        logits = jnp.einsum(
            "bd,vd->bv", hidden[:, -1], rows, preferred_element_type=jnp.float32
        )
        return jnp.argmax(logits, axis=-1), cache

    def step(carry, _):
        token, cache = carry
        x = module.apply(variables, token[:, None], method="embed")
        following, cache = read(x, cache)
        return (following, cache), token

    read_given = module.apply(variables, given, method="embed")
    B, M, _ = memory.shape
    # The last token is never read.
    cache = module.empty_cache(B, M + num_tokens - 1, read_given.dtype)
    prefill = jnp.concatenate([memory.astype(read_given.dtype), read_given], axis=1)
    first, cache = read(prefill, cache)
    num_steps = num_tokens - given.shape[1] - 1
    (last, _), decoded = jax.lax.scan(step, (first, cache), length=num_steps)
    return jnp.concatenate([given, decoded.T, last[:, None]], axis=1)
