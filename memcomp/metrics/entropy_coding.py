"""Arithmetic coding of texts with a language model's own next-token probabilities.

Decoding gives the encoded text only if both sides compute the same probabilities to the
last bit. A parallel pass over a text, other shapes and another batch slot each round
differently. So both sides call one compiled program, `_step`, which reads one token of each
of ROWS texts with a KV cache. The length of the cache depends only on the position, and a
stream's head says in which batch slot (row) it was written. A stream can thus be decoded
alone, by the same LM in the same dtype, on the same kind of device with the same jax. On a
GPU, in another process, the choice of kernels must be fixed too
(XLA_FLAGS=--xla_gpu_deterministic_ops=true).

The range coder is that of the package constriction. It rounds probabilities to 24 bits,
none of them to zero, which costs at most V / 2**24 / ln 2 bits per token more than -log2 p:
0.0004 for V = 4,096, 0.022 for V = 256k. No token costs more than 24 bits, however
unlikely. It gets float64, because it has refused unlikely symbols in float32.

Source: Rissanen and Langdon 1979, "Arithmetic coding"; with language models: Deletang et
  al. 2023, arXiv:2309.10668; the coder: Bamler 2022, arXiv:2201.01741.
"""

import collections
import functools
import importlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int32

from memcomp.data.tokens import checked_ids, ids_to_text, texts_to_ids
from memcomp.errors import InputError
from memcomp.lm.cache import advance, empty_cache
from memcomp.lm.protocol import Cache, CausalLM, LanguageModel, Params, embed
from memcomp.lm.score import start_token

ROWS = 16  # number of texts at once; part of the format
CODER = "constriction"  # name of the package
WORD_BYTES = 4  # bytes of a word that the coder writes
FIRST_CACHE = 64  # positions of the first cache, a power of two; part of the format


class Coded(NamedTuple):
    """One text as bytes.

    Attributes:
      data: the stream: its head, and the output of the range coder.
      num_tokens: number of tokens of the text.
      cross_entropy_bits: -log2 p under the LM, summed over the tokens; no code with these
        probabilities is shorter on average.
    """

    data: bytes
    num_tokens: int
    cross_entropy_bits: float


def encode(lm: LanguageModel, texts: Sequence[Int[np.ndarray, "_"]]) -> list[Coded]:
    """Encodes each text to bytes, which `decode` with the same LM turns into its tokens.

    Every token is coded; the first follows the LM's start token (`start_token`), or is
    coded uniformly if there is none. A text with more tokens than the LM has positions is
    read in windows, each of which begins with the last token before it.

    Args:
      lm: the language model.
      texts: token ids of each text, which may be empty.

    Raises:
      InputError: ids are outside the vocabulary, or the package constriction is not
        installed.
    """
    vocab_size = lm.config.vocab_size
    texts = [checked_ids(f"text {i}", text, vocab_size) for i, text in enumerate(texts)]
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    coded: dict[int, Coded] = {}
    for first in range(0, len(order), ROWS):
        group = order[first : first + ROWS]
        results = _encode_group(lm, [texts[i] for i in group])
        coded |= zip(group, results, strict=True)
    return [coded[i] for i in range(len(texts))]


def decode(lm: LanguageModel, streams: Sequence[bytes]) -> list[Int32[np.ndarray, "_"]]:
    """Decodes streams that `encode` has made, in any order and combination."""
    heads = [_read_head(stream) for stream in streams]
    waiting = collections.defaultdict(list)
    for i in sorted(range(len(heads)), key=lambda i: heads[i].num_tokens):
        waiting[heads[i].row].append(i)
    tokens: dict[int, np.ndarray] = {}
    # A group has at most one stream of each row.
    for group in itertools.zip_longest(*waiting.values()):
        decoded = _decode_group(lm, [heads[i] for i in group if i is not None])
        tokens |= zip([i for i in group if i is not None], decoded, strict=True)
    return [tokens[i] for i in range(len(streams))]


def encode_texts(lm: LanguageModel, texts: Sequence[str]) -> list[Coded]:
    """Encodes strings, tokenized without special tokens; see `encode`.

    Decoding gives the same tokens, and the same text if the tokenizer restores it from
    them.

    Raises:
      InputError: the LM has no tokenizer.
    """
    if lm.tokenizer is None:
        raise InputError(f"{lm.name} has no tokenizer.json; add one to code text with it")
    ids = texts_to_ids(lm.tokenizer, texts)
    return encode(lm, [np.asarray(row, np.int64) for row in ids])


def decode_texts(lm: LanguageModel, streams: Sequence[bytes]) -> list[str]:
    """Decodes streams that `encode_texts` has made to strings."""
    return [ids_to_text(lm.tokenizer, ids) for ids in decode(lm, streams)]


class _Head(NamedTuple):
    num_tokens: int
    row: int
    payload: bytes


def _head(num_tokens: int, row: int) -> bytes:
    """Encodes length and row as a number in base 128, low digits first.

    All digits but the last have the high bit set.
    """
    number, head = num_tokens * ROWS + row, bytearray()
    while number >= 128:
        head.append(number & 127 | 128)
        number >>= 7
    return bytes([*head, number])


def _read_head(stream: bytes) -> _Head:
    number = 0
    for i, byte in enumerate(stream):
        number |= (byte & 127) << 7 * i
        if byte < 128:
            return _Head(number // ROWS, number % ROWS, stream[i + 1 :])
    raise InputError("the stream has no head; wanted bytes of `encode`")


def _encode_group(lm: LanguageModel, texts: list[np.ndarray]) -> list[Coded]:
    stream = range_coder()
    encoders = [stream.queue.RangeEncoder() for _ in texts]
    nats = [0.0] * len(texts)
    for row, t, log_probs in _predictions(lm, dict(enumerate(texts))):
        token = int(texts[row][t])
        encoders[row].encode(token, _model(stream, log_probs))
        nats[row] -= float(log_probs[token])
    return [
        Coded(_head(len(text), row) + _to_bytes(encoder), len(text), of_row / math.log(2))
        for row, (text, encoder, of_row) in enumerate(
            zip(texts, encoders, nats, strict=True)
        )
    ]


def _decode_group(lm: LanguageModel, heads: list[_Head]) -> list[np.ndarray]:
    """Decodes streams of distinct rows."""
    stream = range_coder()
    decoders = {head.row: _decoder(stream, head.payload) for head in heads}
    tokens = {head.row: np.zeros(head.num_tokens, np.int32) for head in heads}
    for row, t, log_probs in _predictions(lm, tokens):
        tokens[row][t] = decoders[row].decode(_model(stream, log_probs))
    return list(tokens.values())


def range_coder() -> Any:
    """Returns the module `constriction.stream`.

    Raises:
      InputError: the package is not installed.
    """
    try:
        return importlib.import_module(CODER).stream
    except ImportError as error:
        raise InputError(
            "arithmetic coding needs the package constriction; pip install "
            "'memcomp[lab]', or leave it out of methods"
        ) from error


def _model(stream: Any, log_probs: Float32[np.ndarray, "V"]) -> Any:
    """Makes the coder's model, which depends only on the bits of `log_probs`."""
    probabilities = np.exp(log_probs.astype(np.float64))
    return stream.model.Categorical(probabilities, perfect=False, lazy=True)


def _to_bytes(encoder: Any) -> bytes:
    """Returns the fewest bytes that, padded with zeros, lie in the coder's interval.

    The coder's words end with the first whole word in the interval. The interval is `size`
    parts of 2**32 of a word long, so a number with fewer bytes may lie in it too.
    """
    num_decided, (_, size) = encoder.pos()
    words = encoder.get_compressed()[: num_decided + 1]
    number = int.from_bytes(words.astype(">u4").tobytes(), "big")
    for unit in (2**24, 2**16, 2**8):
        rounder = -(-number // unit) * unit
        if (rounder - number + 1) << 32 < size:
            number = rounder
            break
    return number.to_bytes(WORD_BYTES * len(words), "big").rstrip(b"\0")


def _decoder(stream: Any, data: bytes) -> Any:
    num_words = len(data) // WORD_BYTES + 3  # more zeros than the decoder ever reads
    words = np.frombuffer(data.ljust(WORD_BYTES * num_words, b"\0"), ">u4")
    return stream.queue.RangeDecoder(words.astype(np.uint32))


def _predictions(
    lm: LanguageModel, texts: Mapping[int, np.ndarray]
) -> Iterator[tuple[int, int, Float32[np.ndarray, "V"]]]:
    """Reads up to ROWS texts in parallel, token by token, for the encoder and the decoder.

    The cache starts anew with each window of the LM's positions.

    Args:
      lm: the language model.
      texts: tokens of each text, by its row. They are read only after their prediction was
        yielded, so that the decoder can fill them in.

    Yields:
      Row, position in the text, and log-probabilities of the token there.
    """
    first, cache = start_token(lm), None
    last = np.full(ROWS, first or 0, np.int32)
    vocab_size = lm.config.vocab_size
    for t in range(max(map(len, texts.values()))):
        cache = _with_room(lm, cache, t % lm.config.max_positions)
        log_probs = np.full((ROWS, vocab_size), -math.log(vocab_size), np.float32)
        if t or first is not None:
            found, cache = lm.run(_step, cache, last)
            log_probs = np.asarray(found)
        last = np.zeros(ROWS, np.int32)
        for row, text in texts.items():
            if t < len(text):
                yield row, t, log_probs[row]
                last[row] = text[t]


def _with_room(lm: LanguageModel, cache: Any, position: int) -> Any:
    """Returns a cache with room at a position of the window.

    Its length is a power of two, or all positions of the LM, and depends only on the
    position.
    """
    if position and (position < FIRST_CACHE or position & (position - 1)):
        return cache
    length = min(max(2 * position, FIRST_CACHE), lm.config.max_positions)
    empty = empty_cache(lm.module, ROWS, length, lm.dtype)
    # Keys and values may share one array of zeros, which cannot be donated twice.
    empty = jax.tree.map(jnp.copy, empty)
    return jax.tree.map(_put_in, empty, cache) if position else empty


def _put_in(large: Array, small: Array) -> Array:
    """Returns `large` with `small` at its start; `small` if both have the same shape."""
    return large.at[tuple(map(slice, small.shape))].set(small)


@functools.partial(jax.jit, static_argnames="module", donate_argnames="cache")
def _step(
    params: Params, cache: Cache, last: Int[Array, "B"], *, module: CausalLM
) -> tuple[Float[Array, "B V"], Cache]:
    """The program of encoder and decoder: reads one token per text, predicts the next."""
    x = embed(params, last[:, None], module=module)
    logits, cache = advance(params, cache, x, module=module)
    return jax.nn.log_softmax(logits), cache
