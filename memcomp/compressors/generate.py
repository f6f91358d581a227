"""Generates text, or token ids, from soft prompts.

Letters: B sequences, S positions of the longest sequence, P vectors of a prompt,
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
from memcomp.lm.cache import from_numbers
from memcomp.lm.decode import check_sampling, continue_vectors
from memcomp.lm.protocol import CausalLM, LanguageModel, Params, embed
from memcomp.sharding import fetch

STRIDE = 32  # lengths are rounded to its multiples, so that few programs are compiled


def generate(
    lm: LanguageModel,
    prompts: SoftPrompts,
    ask: str = "reproduce",
    *,
    num_tokens: int = 128,
    template: str = "published",
    **decoding: Any,
) -> list[str]:
    """Generates the LM's answer from the vectors of each context.

    Args:
      lm: the language model.
      prompts: soft prompts, as from `compress`.
      ask: "reproduce" or "continue", for a pretrained compressor; any other string is a
        question about the contexts, for a fine-tuned compressor.
      num_tokens: largest number of tokens of an answer.
      template: template of questions, a key of `memcomp.compressors.templates.TEMPLATES`.
      **decoding: `temperature`, `top_p`, `key`, `stop` and `batch_size` of
        `decode_rows`; decoding is greedy without them.

    Raises:
      InputError: the soft prompts are of another LM, the LM has no tokenizer, a setting is
        out of its range, or the LM has too few positions.
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
    """Makes the sequence that the LM reads for each context before it answers.

    Args:
      lm: the language model.
      counts: number of vectors of each context.
      ask: see `generate`.
      template: see `generate`.

    Raises:
      InputError: there is no such template, or the tokenizer has no chat template.
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
    """Decodes the LM's continuation of each sequence, in the dtype of the LM.

    An answer depends on the other sequences of its batch only by rounding: all sequences
    begin at position 0, and each is continued where its own prompt ends.

    Args:
      lm: the language model.
      prompts: soft prompts, one for each sequence.
      rows: sequences that the LM reads, such as `layout.prompt_of` an `answer_row`.
      num_tokens: largest number of tokens of an answer.
      temperature: logits are divided by it before sampling; 0 for greedy decoding.
      top_p: tokens are drawn from the likeliest ones of this total probability.
      key: random key, of which sequence i uses `fold_in(key, i)`; needed if temperature is
        above 0.
      stop: id of the token that ends an answer and is not part of it; None for the
        tokenizer's EOS, if it has one.
      batch_size: number of sequences at once.

    Raises:
      InputError: the soft prompts are of another LM or of another number; a setting is out
        of its range; the LM has too few positions; its logits are not finite.

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
    cache = prompts.cache
    check_rows(lm, rows, num_tokens, 0 if cache is None else cache.shape[1])
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; give 1 or more")
    if stop is None:
        stop = getattr(lm.tokenizer, "eos_token_id", None)
    B = min(batch_size, len(rows))
    key = jax.random.key(0) if key is None else key
    answers = []
    for first in range(0, len(rows), B):
        # The last batch is filled up with copies of its first sequence to the same shape.
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
            None if cache is None else cache[numbers],
            num_tokens=num_tokens,
            num_prefill=least // STRIDE * STRIDE or least,
            sampled=temperature > 0,
        )
        decoded, counts, finite = fetch((decoded, counts, finite))
        lm.check_finite(finite)
        answers += [row[:n] for row, n in zip(decoded, counts, strict=True)]
    return answers[: len(rows)]


def check_rows(
    lm: LanguageModel, rows: Sequence[Row], num_tokens: int, num_cached: int = 0
) -> None:
    """Raises `InputError` if `decode_rows` cannot add `num_tokens` to each sequence.

    `num_cached` is the number of positions of a cache before the sequences.
    """
    if num_tokens < 1:
        raise InputError(f"num_tokens is {num_tokens}; give 1 or more")
    if min(len(row.tokens) for row in rows) < 1:
        raise InputError("a row is empty; give at least one vector or token to continue")
    longest = num_cached + max(len(row.tokens) for row in rows)
    # The LM never reads the last token.
    check_room(longest + num_tokens - 1, lm.name, lm.config.max_positions)


def _stacked(rows: Sequence[Row]):
    """Returns tokens and slots [B S], padded on the right, and lengths [B]."""
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
    cache: Float[Array, "B M W"] | None,
    *,
    module: CausalLM,
    num_tokens: int,
    num_prefill: int,
    sampled: bool,
) -> tuple[Int[Array, "B {num_tokens}"], Int[Array, "B"], Bool[Array, ""]]:
    embedded = embed(params, tokens, module=module)
    if cache is not None:
        room = cache.shape[1] + tokens.shape[1] + num_tokens
        cache = from_numbers(cache, room, embedded.dtype, module=module)
    return continue_vectors(
        params,
        input_vectors(tokens, slots, embedded, special, prompts),
        lengths,
        stop,
        (keys, temperature, top_p) if sampled else None,
        cache,
        module=module,
        num_tokens=num_tokens,
        num_prefill=num_prefill,
    )
