"""Decoding: the text that the LM gives back for a memory.

Letters: B texts, M rows of memory, W numbers of a row, G given tokens.
"""

import functools
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from memcomp.cram.ways.table import WAYS
from memcomp.data.tokens import checked_ids
from memcomp.errors import InputError
from memcomp.lm.protocol import CausalLM, LanguageModel, Params
from memcomp.lm.score import start_token
from memcomp.ranges import check_choice
from memcomp.sharding import fetch


def decode(
    lm: LanguageModel,
    memory: Any,
    num_tokens: Any,
    given: Any = None,
    way: str = "vectors",
) -> Int[np.ndarray, "*B {num_tokens}"]:
    """Greedy text of a memory in the dtype of the LM, as a user gets it back.

    One program is compiled for each shape.

    Args:
      lm: the language model.
      memory: float memory of one text [M W], or of several [B M W].
      num_tokens: length of the result, including the given tokens.
      given: ids [G] or [B G] of leading tokens that are not decoded but read after the
        memory, as in the reference protocol.
      way: way in which the memory was written, a key of `WAYS`.

    Returns:
      Token ids; the first G are `given`.

    Raises:
      InputError: the memory or the tokens do not fit the LM or the way, the LM has too few
        positions, or its logits are not finite.
    """
    check_choice("way", way, WAYS)
    memory = _checked_memory(lm, memory, way)
    given = np.zeros((*memory.shape[:-2], 0), np.int32) if given is None else given
    given = checked_ids("given", given, lm.config.vocab_size, axes=memory.ndim - 1)
    if memory.ndim == 2:
        return decode(lm, memory[None], num_tokens, given[None], way)[0]
    if len(given) != len(memory):
        raise InputError(f"{len(given)} rows are given for {len(memory)} memories")
    num_given, num_memory = given.shape[1], memory.shape[1] - WAYS[way].rows(0)
    if num_given and not WAYS[way].gives_tokens:
        raise InputError(f"{num_given} tokens are given; memory of {way!r} takes none")
    most = lm.config.max_positions + 1 - WAYS[way].num_positions(num_memory, 1)
    whole = isinstance(num_tokens, int | np.integer) and not isinstance(num_tokens, bool)
    if not whole or not num_given < num_tokens <= most:
        raise InputError(
            f"num_tokens is {num_tokens!r}; give a whole number, more than the {num_given} "
            f"given and at most {most}"
        )
    options = {"way": way, "start": start_token(lm) or 0, "num_tokens": int(num_tokens)}
    tokens, finite = lm.run(_decode, memory, given, **options)
    lm.check_finite(fetch(finite))
    return fetch(tokens)


def _checked_memory(
    lm: LanguageModel, memory: Any, way: str
) -> Float[np.ndarray, "*B M W"]:
    try:
        memory = np.asarray(memory, np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"memory is no array of numbers: {error}") from error
    W = WAYS[way].width(lm.module)
    if memory.ndim not in (2, 3) or not memory.size or memory.shape[-1] != W:
        raise InputError(
            f"memory is {list(memory.shape)}; give [M, {W}], of one text, or [B, M, {W}], "
            f"as memory of {way} for {lm.name} is {W} wide"
        )
    if not np.isfinite(memory).all():
        raise InputError("memory has values that are not finite; give the memory of a text")
    return memory


@functools.partial(jax.jit, static_argnames=("module", "way", "start", "num_tokens"))
def _decode(
    params: Params,
    memory: Float[Array, "B M W"],
    given: Int[Array, "B G"],
    *,
    module: CausalLM,
    way: str,
    start: int,
    num_tokens: int,
) -> tuple[Int[Array, "B {num_tokens}"], Bool[Array, ""]]:
    options = {"module": module, "num_tokens": num_tokens}
    return WAYS[way].decode(params, memory, given, start, **options)
