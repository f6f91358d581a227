"""How well a language model predicts text, in nats per token and bits per byte."""

import functools
import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from memcomp.data.tokens import text_to_ids
from memcomp.errors import InputError
from memcomp.lm.protocol import CausalLM, LanguageModel, Params, embed
from memcomp.lm.score import score_last
from memcomp.sharding import fetch


class Perplexity(NamedTuple):
    """Averages over all tokens or bytes of the texts, so that long texts count more.

    Attributes:
      nats_per_token: mean loss per token.
      bits_per_byte: mean loss per UTF-8 byte of the texts; comparable between tokenizers.
      num_tokens: number of tokens that were scored.
      num_bytes: number of bytes of the texts that were scored.
    """

    nats_per_token: float
    bits_per_byte: float
    num_tokens: int
    num_bytes: int


def bits_per_byte(
    lm: LanguageModel,
    texts: Iterable[str],
    *,
    window: int = 256,
    max_chars: int = 200_000,
    batch_size: int = 16,
) -> Perplexity:
    """Measures the LM's loss on the beginnings of `texts`.

    The first `max_chars` characters of each text are tokenized without special tokens, and
    the tokenizer's BOS is put before them if there is one. The LM reads independent windows
    of `window` + 1 tokens. The first token of a window is the last of the window before, so
    that every token is scored once. Without BOS, the first token of a text is not scored.

    Args:
      lm: the language model.
      texts: whole texts, as strings.
      window: number of tokens that are scored in each window.
      max_chars: number of characters that are read of each text.
      batch_size: number of windows in a batch.

    Raises:
      InputError: the LM has no tokenizer, or too few positions for a window, or there is no
        text.
    """
    if lm.tokenizer is None:
        raise InputError(f"{lm.name} has no tokenizer.json; add one to score text with it")
    if not 1 <= window <= lm.config.max_positions:
        raise InputError(
            f"window is {window}; give 1 to {lm.config.max_positions}, the positions of "
            f"{lm.name}"
        )
    texts = [text[:max_chars] for text in texts]
    num_bytes = sum(len(text.encode()) for text in texts)
    rows = [row for text in texts for row in _rows(lm.tokenizer, text, window)]
    if not rows:
        raise InputError("there is no text to score; give at least one of two tokens")
    total, num_tokens = 0.0, 0
    for first in range(0, len(rows), batch_size):
        batch, mask = _padded(rows[first : first + batch_size], batch_size, window)
        loss = fetch(lm.run(_losses, batch)).astype(np.float64)
        lm.check_finite(np.isfinite(loss[mask]))
        total += float(loss[mask].sum())
        num_tokens += int(mask.sum())
    bits = total / math.log(2)
    return Perplexity(total / num_tokens, bits / num_bytes, num_tokens, num_bytes)


def _rows(tokenizer: Any, text: str, window: int) -> Iterator[list[int]]:
    """Yields the ids of each window: the tokens that it scores, and the one before them."""
    ids = text_to_ids(tokenizer, text).tolist()
    bos = tokenizer.bos_token_id
    ids = ids if bos is None else [bos, *ids]
    for i in range(0, len(ids) - 1, window):
        yield ids[i : i + window + 1]


def _padded(
    rows: list[list[int]], batch_size: int, window: int
) -> tuple[Int[np.ndarray, "B W"], np.ndarray]:
    """Pads windows on the right, where no token sees padding; masks the scored tokens."""
    batch = np.zeros((batch_size, window + 1), np.int32)
    mask = np.zeros((batch_size, window), bool)
    for i, row in enumerate(rows):
        batch[i, : len(row)] = row
        mask[i, : len(row) - 1] = True
    return batch, mask


@functools.partial(jax.jit, static_argnames="module")
def _losses(
    params: Params, windows: Int[Array, "B W"], *, module: CausalLM
) -> Float[Array, "B T"]:
    """Loss in nats of every token except the first of each window."""
    x = embed(params, windows[:, :-1], module=module)
    return score_last(params, x, windows[:, 1:], module=module).loss
