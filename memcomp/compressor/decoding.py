"""Free-running decoding after soft prompts: greedy, or sampled; batched, with a KV cache.

Letters: B rows, S positions of the longest row, D d_model, N new tokens, V vocabulary.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from memcomp.compressor.compress import SoftPrompts, check_lm
from memcomp.compressor.layout import TOKEN, Row, check_room, input_vectors
from memcomp.errors import InputError
from memcomp.lm import LanguageModel
from memcomp.nn.cross_entropy import soft_capped
from memcomp.sharding import fetch

STRIDE = 32  # lengths are rounded to multiples of it, so that few programs are compiled


def decode_rows(
    lm: LanguageModel,
    prompts: SoftPrompts,
    rows: Sequence[Row],
    *,
    num_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    key: Array | None = None,
    stop: int | None = None,
    batch_size: int = 16,
) -> list[Int[np.ndarray, "_"]]:
    """What the LM says after each row, in the dtype of the LM.

    A row's answer does not depend on its batch, beyond rounding: all rows begin at
    position 0, and each goes on where its own prompt ends.

    Args:
      lm: the language model.
      prompts: of one context a row.
      rows: what the LM reads, such as `layout.prompt_of` an `answer_row`.
      num_tokens: the most tokens an answer.
      temperature: what logits are divided by before sampling; 0 for greedy.
      top_p: only the likeliest tokens, with so much probability together, are drawn.
      key: random key, of which row i uses `fold_in(key, i)`; needed where temperature is
        above 0.
      stop: id of the token that ends an answer, and is not part of it; None for the
        tokenizer's EOS, where there is one.
      batch_size: rows at once.

    Raises:
      InputError: soft prompts of another LM, or of another number; settings without
        sense; no room for so many tokens; logits that are not finite.

    Source: top_p: Holtzman et al. 2020, arXiv:1904.09751.
    """
    check_lm("the soft prompts were made", prompts, lm)
    if len(prompts) != len(rows) or not rows:
        raise InputError(
            f"{len(prompts)} soft prompts for {len(rows)} rows; give one for each row"
        )
    check_sampling(temperature, top_p)
    if temperature > 0 and key is None:
        raise InputError("sampling needs a random key; give key, or temperature=0")
    check_rows(lm, rows, num_tokens)
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; give 1 or more")
    if stop is None:
        stop = getattr(lm.tokenizer, "eos_token_id", None)
    B = min(batch_size, len(rows))
    key = jax.random.key(0) if key is None else key
    answers = []
    for first in range(0, len(rows), B):
        # The last batch is filled up with its own first row, for the same program.
        numbers = np.arange(first, first + B)
        numbers = np.where(numbers < len(rows), numbers, first)
        tokens, slots, lengths = _stacked([rows[i] for i in numbers])
        least = int(lengths.min())
        decoded, counts, finite = _decode(
            lm.params,
            tokens,
            slots,
            lengths,
            prompts.special,
            prompts.vectors[numbers],
            jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, numbers),
            np.float32(temperature),
            np.float32(top_p),
            -1 if stop is None else stop,
            module=lm.module,
            num_tokens=num_tokens,
            num_prefill=least // STRIDE * STRIDE or least,
            sampled=temperature > 0,
        )
        decoded, counts, finite = fetch((decoded, counts, finite))
        lm.check_finite(finite)
        answers += [row[:n] for row, n in zip(decoded, counts, strict=True)]
    return answers[: len(rows)]


def check_sampling(temperature: float, top_p: float) -> None:
    """Raises `InputError` where tokens cannot be drawn with these; see `decode_rows`."""
    if not (temperature >= 0 and 0 < top_p <= 1):
        raise InputError(
            f"temperature is {temperature} and top_p is {top_p}; give at least 0, and "
            "above 0 to 1"
        )


def check_rows(lm: LanguageModel, rows: Sequence[Row], num_tokens: int) -> None:
    """Raises `InputError` where `decode_rows` cannot say `num_tokens` after each row."""
    if num_tokens < 1:
        raise InputError(f"num_tokens is {num_tokens}; give 1 or more")
    if min(len(row.tokens) for row in rows) < 1:
        raise InputError("a row is empty; give at least one vector or token to go on from")
    longest = max(len(row.tokens) for row in rows)
    # The last token is never read.
    check_room(longest + num_tokens - 1, lm.name, lm.config.max_positions)


def _stacked(rows: Sequence[Row]):
    """Tokens and slots [B S], padded on the right, and lengths [B]."""
    lengths = np.asarray([len(row.tokens) for row in rows], np.int32)
    width = -(-int(lengths.max()) // STRIDE) * STRIDE
    tokens = np.zeros((len(rows), width), np.int32)
    slots = np.full((len(rows), width), TOKEN, np.int32)
    for i, row in enumerate(rows):
        tokens[i, : lengths[i]], slots[i, : lengths[i]] = row.tokens, row.slots
    return tokens, slots, lengths


@functools.partial(
    jax.jit, static_argnames=("module", "num_tokens", "num_prefill", "sampled")
)
def _decode(
    params: Any,
    tokens: Int[Array, "B S"],
    slots: Int[Array, "B S"],
    lengths: Int[Array, "B"],
    special: Float[Array, "Z D"],
    prompts: Float[Array, "B P D"],
    keys: Array,
    temperature: Float[Array, ""],
    top_p: Float[Array, ""],
    stop: Int[Array, ""] | int,
    *,
    module: Any,
    num_tokens: int,
    num_prefill: int,
    sampled: bool,
) -> tuple[Int[Array, "B {num_tokens}"], Int[Array, "B"], Bool[Array, ""]]:
    """New tokens of each row, how many come before its end, and whether logits are finite.

    What all rows have is read at once, `num_prefill` positions. After that a position at
    a time: a row reads its own prompt as long as it has one, and then what it said.
    """
    variables = {"params": params}
    unembedding = module.apply(variables, method="unembedding")
    embedded = module.apply(variables, tokens, method="embed")
    own = input_vectors(tokens, slots, embedded, special, prompts)
    (B, S), N = tokens.shape, num_tokens

    def read(x, cache):
        hidden, cache = module.apply(variables, x, cache)
        logits = jnp.einsum(
            "bd,vd->bv", hidden[:, -1], unembedding, preferred_element_type=jnp.float32
        )
        return soft_capped(logits, module.softcap), cache

    def unfinished(state):
        return ~jnp.all(state[-1])

    def step(state):
        position, logits, cache, said, counts, finite, done = state
        finite &= jnp.isfinite(logits).all()
        if sampled:
            keys_now = jax.vmap(jax.random.fold_in)(keys, counts)
            token = sample(logits, keys_now, temperature, top_p)
        else:
            token = jnp.argmax(logits, axis=-1)
        speaks = (position >= lengths) & ~done
        places = jnp.arange(N)[None] == counts[:, None]
        said = jnp.where(places & speaks[:, None], token[:, None], said)
        ends = speaks & (token == stop)
        counts = counts + (speaks & ~ends)
        done = done | ends | (counts == N)
        given = jax.lax.dynamic_index_in_dim(own, position, axis=1)  # clamped past the end
        spoken = module.apply(variables, token[:, None], method="embed")
        x = jnp.where((position >= lengths)[:, None, None], spoken, given)
        # Where all are done this is one position too many, for which there is room.
        logits, cache = read(x, cache)
        return position + 1, logits, cache, said, counts, finite, done

    # No longer than the LM's window: rotary angles that are scaled by the length in use
    # would be those of a longer text than there is.
    room = min(S + N, module.config.max_positions)
    cache = module.empty_cache(B, room, own.dtype)
    logits, cache = read(own[:, :num_prefill], cache)
    said, counts = jnp.zeros((B, N), jnp.int32), jnp.zeros(B, jnp.int32)
    prefilled = jnp.int32(num_prefill), logits, cache, said, counts
    start = (*prefilled, jnp.array(True), jnp.zeros(B, bool))
    *_, said, counts, finite, _ = jax.lax.while_loop(unfinished, step, start)
    return said, counts, finite


def sample(
    logits: Float[Array, "B V"],
    keys: Array,
    temperature: Float[Array, ""],
    top_p: Float[Array, ""],
) -> Int[Array, "B"]:
    """A token of each row, from the likeliest ones with probability `top_p` together."""
    logits = logits / temperature
    order = jnp.argsort(logits, axis=-1, descending=True)
    ranked = jnp.take_along_axis(logits, order, axis=-1)
    probabilities = jax.nn.softmax(ranked, axis=-1)
    # A token is kept if those before it do not suffice; so the first one always is.
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    ranked = jnp.where(before < top_p, ranked, -jnp.inf)
    rank = jax.vmap(jax.random.categorical)(keys, ranked)
    return jnp.take_along_axis(order, rank[:, None], axis=-1)[:, 0]
