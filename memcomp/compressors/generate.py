"""What a language model says from soft prompts: as text, and as token ids.

Letters: B rows, S positions of the longest row, P vectors of a prompt,
D d_model, N new tokens.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from memcomp.compressors import layout
from memcomp.compressors.compress import SoftPrompts, check_lm, own_tokens
from memcomp.compressors.layout import TOKEN, Row, check_room, input_vectors
from memcomp.compressors.templates import make_template
from memcomp.data.tokens import ids_to_text
from memcomp.errors import InputError
from memcomp.lm.decode import check_sampling, continue_vectors
from memcomp.lm.protocol import CausalLM, LanguageModel, Params, embed
from memcomp.sharding import fetch

STRIDE = 32  # lengths are rounded to multiples of it, so that few programs are compiled


def generate(
    lm: LanguageModel,
    prompts: SoftPrompts,
    ask: str = "reproduce",
    *,
    num_tokens: int = 128,
    template: str = "published",
    **decoding: Any,
) -> list[str]:
    """What the LM says from the vectors of each context.

    Args:
      lm: the language model.
      prompts: of `compress`.
      ask: "reproduce", what a pretrained compressor has learnt; "continue"; or anything
        else, which is a question about the contexts, for one that is fine-tuned.
      num_tokens: the most tokens an answer.
      template: of questions, a key of `memcomp.compressors.templates.TEMPLATES`.
      **decoding: `temperature`, `top_p`, `key`, `stop` and `batch_size` of
        `decode_rows`; greedy without them.

    Raises:
      InputError: soft prompts of another LM, an LM without a tokenizer, settings without
        sense, or no room for so many tokens.
    """
    if lm.tokenizer is None:
        raise InputError(f"{lm.name} has no tokenizer; use decode_rows, which gives ids")
    rows = asked_rows(lm, prompts.counts, ask, template)
    answers = decode_rows(lm, prompts, rows, num_tokens=num_tokens, **decoding)
    return [ids_to_text(lm.tokenizer, answer) for answer in answers]


def asked_rows(
    lm: LanguageModel,
    counts: Sequence[int] | Int[np.ndarray, "B"],
    ask: str,
    template: str,
) -> list[Row]:
    """What the LM reads of each context before it answers; see `generate`.

    Args:
      lm: the language model.
      counts: vectors of each context.
      ask: as of `generate`.
      template: as of `generate`.

    Raises:
      InputError: no such template, or one that the tokenizer does not have.
    """
    return [_asked(lm, ask, template, int(count)) for count in counts]


def _asked(lm: LanguageModel, ask: str, template: str, count: int) -> Row:
    nothing = np.zeros(0, np.int32)
    if ask == "reproduce":
        return layout.autoencoding_row(nothing, count, None)
    if ask == "continue":
        return layout.continuation_row(nothing, count)
    words = make_template(template, lm.tokenizer)
    question = words.question(own_tokens(lm, words.written(ask)), nothing)
    return layout.answer_row(question, count, None)


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
        decoded, counts, finite = lm.run(
            _continue_rows,
            tokens,
            slots,
            lengths,
            prompts.special,
            prompts.vectors[numbers],
            jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, numbers),
            -1 if stop is None else stop,
            np.float32(temperature),
            np.float32(top_p),
            num_tokens=num_tokens,
            num_prefill=least // STRIDE * STRIDE or least,
            sampled=temperature > 0,
        )
        decoded, counts, finite = fetch((decoded, counts, finite))
        lm.check_finite(finite)
        answers += [row[:n] for row, n in zip(decoded, counts, strict=True)]
    return answers[: len(rows)]


def check_rows(lm: LanguageModel, rows: Sequence[Row], num_tokens: int) -> None:
    """Raises `InputError` where `decode_rows` cannot say `num_tokens` after each row."""
    if num_tokens < 1:
        raise InputError(f"num_tokens is {num_tokens}; give 1 or more")
    if min(len(row.tokens) for row in rows) < 1:
        raise InputError("a row is empty; give at least one vector or token to continue")
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
def _continue_rows(
    params: Params,
    tokens: Int[Array, "B S"],
    slots: Int[Array, "B S"],
    lengths: Int[Array, "B"],
    special: Float[Array, "Z D"],
    prompts: Float[Array, "B P D"],
    keys: Array,
    stop: Int[Array, ""] | int,
    temperature: Float[Array, ""],
    top_p: Float[Array, ""],
    *,
    module: CausalLM,
    num_tokens: int,
    num_prefill: int,
    sampled: bool,
) -> tuple[Int[Array, "B {num_tokens}"], Int[Array, "B"], Bool[Array, ""]]:
    embedded = embed(params, tokens, module=module)
    return continue_vectors(
        params,
        input_vectors(tokens, slots, embedded, special, prompts),
        lengths,
        stop,
        (keys, temperature, top_p) if sampled else None,
        module=module,
        num_tokens=num_tokens,
        num_prefill=num_prefill,
    )
