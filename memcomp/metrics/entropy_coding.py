"""Arithmetic coding of texts with a language model's own next-token probabilities.

What is decoded is what was encoded only if both sides see the same probabilities to the
last bit. A parallel pass over a text, other shapes, another place in a batch: each rounds
differently. Here both sides call one compiled program, `_step`, with a KV cache: ROWS
texts side by side, one token each; the position alone says how long the cache is, and a
stream's head says in which row it was written. So a stream can be decoded by itself, by
the same LM in the same dtype, on the same kind of device with the same jax; on a GPU, in
another process, choices of kernels must be fixed too
(XLA_FLAGS=--xla_gpu_deterministic_ops=true).

Probabilities become integers exactly: 1 + floor(p 2**30), with no sum to be matched, for
the coder takes any total. A token's share is then at least p / (1 + V / 2**30), which
costs at most V / 2**30 / ln 2 bits a token more than -log2 p: 0.0004 for V = 256k. No
token costs more than 30 bits and this, however unlikely.

Source: Rissanen and Langdon 1979, "Arithmetic coding"; with language models: Deletang et
  al. 2023, arXiv:2309.10668.
"""

import collections
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32

from memcomp.data.tokens import ids_to_text, texts_to_ids
from memcomp.errors import InputError
from memcomp.lm.decode import advance, empty_cache
from memcomp.lm.protocol import Cache, CausalLM, LanguageModel, Params, embed
from memcomp.lm.score import start_token
from memcomp.metrics.range_coder import RangeDecoder, RangeEncoder

ROWS = 16  # texts at a time; a part of the format
COUNT_BITS = 30
FIRST_CACHE = 64  # positions, a power of two; a part of the format
MAX_TOKENS = 2**16  # of a text: how long a damaged head can keep the decoder busy


class Coded(NamedTuple):
    """One text as bytes.

    Attributes:
      data: the stream: its head, and what the range coder wrote.
      num_tokens: of the text.
      cross_entropy_bits: -log2 p under the LM, a sum over the tokens: what no code with
        these probabilities is below on average.
    """

    data: bytes
    num_tokens: int
    cross_entropy_bits: float


def encode(lm: LanguageModel, texts: Sequence[Int[np.ndarray, "_"]]) -> list[Coded]:
    """Each text as bytes, from which `decode` with the same LM makes the same tokens.

    Every token is coded, the first one after the LM's start token (`start_token`), or
    uniformly where it has none. A text that the LM is too short for is read in windows
    of the LM's positions, each with the last token before it.

    Args:
      lm: the language model.
      texts: token ids of each; may be empty.

    Raises:
      InputError: ids outside the vocabulary, or a text of more than MAX_TOKENS.
    """
    texts = [np.asarray(text) for text in texts]
    for i, text in enumerate(texts):
        _check(text, i, lm.config.vocab_size)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    coded: dict[int, Coded] = {}
    for first in range(0, len(order), ROWS):
        group = order[first : first + ROWS]
        results = _encode_group(lm, [texts[i] for i in group])
        coded |= zip(group, results, strict=True)
    return [coded[i] for i in range(len(texts))]


def decode(lm: LanguageModel, streams: Sequence[bytes]) -> list[Int32[np.ndarray, "_"]]:
    """The token ids of each stream that `encode` has made, in any order and company.

    Raises:
      InputError: a stream that is damaged, where that shows; else its tokens are wrong.
    """
    heads = [_read_head(stream) for stream in streams]
    waiting = collections.defaultdict(list)
    for i in sorted(range(len(heads)), key=lambda i: heads[i].num_tokens):
        waiting[heads[i].row].append(i)
    tokens: dict[int, np.ndarray] = {}
    # One stream of each row at a time.
    for group in itertools.zip_longest(*waiting.values()):
        decoded = _decode_group(lm, [heads[i] for i in group if i is not None])
        tokens |= zip([i for i in group if i is not None], decoded, strict=True)
    return [tokens[i] for i in range(len(streams))]


def encode_texts(lm: LanguageModel, texts: Sequence[str]) -> list[Coded]:
    """`encode` of strings, tokenized without special tokens.

    Tokens always come back; so does the text, if the tokenizer gives it back from them.

    Raises:
      InputError: the LM has no tokenizer.
    """
    if lm.tokenizer is None:
        raise InputError(f"{lm.name} has no tokenizer.json; add one to code text with it")
    ids = texts_to_ids(lm.tokenizer, texts)
    return encode(lm, [np.asarray(row, np.int32) for row in ids])


def decode_texts(lm: LanguageModel, streams: Sequence[bytes]) -> list[str]:
    """The strings of streams that `encode_texts` has made."""
    return [ids_to_text(lm.tokenizer, ids) for ids in decode(lm, streams)]


def _check(text: np.ndarray, i: int, vocab_size: int) -> None:
    if text.ndim != 1 or len(text) > MAX_TOKENS:
        raise InputError(
            f"text {i} has shape {text.shape}; give at most {MAX_TOKENS} token ids"
        )
    if len(text) and not 0 <= text.min() <= text.max() < vocab_size:
        raise InputError(
            f"text {i} has token ids {text.min()} to {text.max()}; wanted 0 to "
            f"{vocab_size - 1}"
        )


class _Head(NamedTuple):
    num_tokens: int
    row: int
    payload: bytes


def _head(num_tokens: int, row: int) -> bytes:
    """One number in base 128, low digits first; all but the last have the high bit."""
    number, head = num_tokens * ROWS + row, bytearray()
    while number >= 128:
        head.append(number & 127 | 128)
        number >>= 7
    return bytes([*head, number])


def _read_head(stream: bytes) -> _Head:
    number = 0
    for i, byte in enumerate(stream):
        number |= (byte & 127) << 7 * i
        if number > MAX_TOKENS * ROWS + ROWS - 1:
            break
        if byte < 128:
            return _Head(number // ROWS, number % ROWS, stream[i + 1 :])
    raise InputError("the stream has no head; wanted bytes of `encode`")


def _encode_group(lm: LanguageModel, texts: list[np.ndarray]) -> list[Coded]:
    tokens = np.zeros((ROWS, max(map(len, texts))), np.int32)
    for row, text in zip(tokens, texts, strict=False):
        row[: len(text)] = text
    reader, last, found = _Reader(lm), np.zeros(ROWS, np.int32), []
    for t in range(tokens.shape[1]):
        predicted = reader.predict(last)
        last = tokens[:, t].copy()
        # Fetched at once: steps that run ahead would each hold [B V] frequencies.
        found.append(jax.device_get(_look_up(predicted, last)))
    coded = []
    for row, text in enumerate(texts):
        encoder, nats = RangeEncoder(), 0.0
        for at in found[: len(text)]:
            encoder.put(int(at.start[row]), int(at.end[row]), int(at.total[row]))
            nats += float(at.nats[row])
        data = _head(len(text), row) + encoder.finish()
        coded.append(Coded(data, len(text), nats / math.log(2)))
    return coded


def _decode_group(lm: LanguageModel, heads: list[_Head]) -> list[np.ndarray]:
    """Tokens of each of some streams of distinct rows."""
    decoders = [RangeDecoder(head.payload) for head in heads]
    tokens = [np.zeros(head.num_tokens, np.int32) for head in heads]
    reader, last = _Reader(lm), np.zeros(ROWS, np.int32)
    for t in range(max(map(len, tokens))):
        cumulative = np.asarray(reader.predict(last).cumulative)
        last = np.zeros(ROWS, np.int32)
        for head, decoder, ids in zip(heads, decoders, tokens, strict=True):
            if t < len(ids):
                last[head.row] = ids[t] = decoder.get(cumulative[head.row])
    for decoder in decoders:
        decoder.finish()
    return tokens


class _Predicted(NamedTuple):
    """What may come next, in each row.

    Attributes:
      log_probs: natural.
      cumulative: integer frequencies, summed up to each token, its own included.
    """

    log_probs: Float[Array, "B V"]
    cumulative: Int[Array, "B V"]


class _Interval(NamedTuple):
    start: Int[Array, "B"]
    end: Int[Array, "B"]
    total: Int[Array, "B"]
    nats: Float[Array, "B"]


class _Reader:
    """ROWS texts side by side, read token by token; all that both sides share.

    The cache starts anew with each window of the LM's positions, and is as long as the
    position in it asks for: a power of two.
    """

    def __init__(self, lm: LanguageModel):
        self._lm = lm
        self._position = 0
        self._cache: Any = None

    def predict(self, last: Int32[np.ndarray, "B"]) -> _Predicted:
        """What follows `last`; at the start of the texts, whatever `last` is."""
        lm, at_start = self._lm, self._position == 0
        self._make_room(self._position % lm.config.max_positions)
        self._position += 1
        if at_start:
            first = start_token(lm)
            if first is None:
                return _uniform(lm.config.vocab_size)
            last = np.full(ROWS, first, np.int32)
        predicted, self._cache = lm.run(_step, self._cache, last)
        return predicted

    def _make_room(self, position: int) -> None:
        lm = self._lm
        if position and (position < FIRST_CACHE or position & (position - 1)):
            return
        length = min(max(2 * position, FIRST_CACHE), lm.config.max_positions)
        empty = empty_cache(lm.module, ROWS, length, lm.dtype)
        # Keys and values may be one array of zeros, which cannot be donated twice.
        empty = jax.tree.map(jnp.copy, empty)
        self._cache = jax.tree.map(_put_in, empty, self._cache) if position else empty


def _put_in(large: Array, small: Array) -> Array:
    """`large` with `small` at its start; `small` if it is as large, as states are."""
    return large.at[tuple(map(slice, small.shape))].set(small)


def _uniform(vocab_size: int) -> _Predicted:
    log_probs = jnp.full((ROWS, vocab_size), -math.log(vocab_size), jnp.float32)
    counts = jnp.arange(1, vocab_size + 1, dtype=jnp.int32)
    return _Predicted(log_probs, jnp.broadcast_to(counts, log_probs.shape))


@functools.partial(jax.jit, static_argnames="module", donate_argnames="cache")
def _step(
    params: Params, cache: Cache, last: Int[Array, "B"], *, module: CausalLM
) -> tuple[_Predicted, Cache]:
    """The one program that both sides call: reads a token a row, predicts the next."""
    x = embed(params, last[:, None], module=module)
    logits, cache = advance(params, cache, x, module=module)
    log_probs = jax.nn.log_softmax(logits)
    # The product with a power of two and the sums of integers are exact.
    counts = 1 + jnp.floor(jnp.exp(log_probs) * 2.0**COUNT_BITS).astype(jnp.int32)
    return _Predicted(log_probs, jnp.cumsum(counts, axis=-1, dtype=jnp.int32)), cache


@jax.jit
def _look_up(predicted: _Predicted, tokens: Int[Array, "B"]) -> _Interval:
    """Where each row's token is among the frequencies, and its surprise."""

    def at(array, index):
        return jnp.take_along_axis(array, index[:, None], axis=-1)[:, 0]

    before = at(predicted.cumulative, jnp.maximum(tokens - 1, 0))
    return _Interval(
        start=jnp.where(tokens > 0, before, 0),
        end=at(predicted.cumulative, tokens),
        total=predicted.cumulative[:, -1],
        nats=-at(predicted.log_probs, tokens),
    )
