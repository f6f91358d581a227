"""Texts that are harder and harder to compress, out of one: `TEXT_KINDS`.

What a compressor makes of them tells what it learnt of language from what it only copies.

Letters: T tokens, V token ids.

Source: Ge et al. 2024, arXiv:2307.06945, table 3; Wang et al. 2024, arXiv:2406.13618,
table 5.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Int, Int32, Int64

from memcomp.data.texts import num_token_ids
from memcomp.errors import InputError

Tokens = Int32[np.ndarray, " T"]
Ids = Int64[np.ndarray, " V"]


def ordinary_ids(tokenizer: Any, vocab_size: int) -> Ids:
    """The ids that stand for text, in order: no special tokens, no rows of padding.

    Args:
      tokenizer: of transformers; None for all ids.
      vocab_size: rows of the embedding.
    """
    ids = np.arange(num_token_ids(tokenizer, vocab_size))
    if tokenizer is None:
        return ids
    added = tokenizer.added_tokens_decoder.items()
    special = [number for number, token in added if token.special]
    return np.setdiff1d(ids, [*special, *tokenizer.all_special_ids])


def _patterned(tokens: Tokens, ids: Ids, rng: np.random.Generator) -> Tokens:
    """Each id plus one, so that there is a pattern and it is none of the language.

    Of ids that are no text the next one is taken; after the last comes the first.
    """
    following = np.searchsorted(ids, tokens, side="right") % len(ids)
    return ids[following].astype(np.int32)


def _random(tokens: Tokens, ids: Ids, rng: np.random.Generator) -> Tokens:
    return rng.choice(ids, size=len(tokens)).astype(np.int32)


TEXT_KINDS: dict[str, Callable[[Tokens, Ids, np.random.Generator], Tokens]] = {
    "normal": lambda tokens, ids, rng: tokens,
    "reversed": lambda tokens, ids, rng: tokens[::-1],
    "patterned": _patterned,
    "random": _random,
}


def text_of_kind(
    kind: str, tokens: Int[np.ndarray, " T"], *, ids: Ids, seed: int, text_id: int
) -> Tokens:
    """As many tokens, of another kind of text.

    Args:
      kind: of `TEXT_KINDS`.
      tokens: of a text.
      ids: those that may come, in order; see `ordinary_ids`.
      seed: with `text_id`, of what is drawn.
      text_id: number of the text.

    Raises:
      InputError: no such kind.
    """
    if kind not in TEXT_KINDS:
        raise InputError(f"no kind of text {kind!r}; give one of {', '.join(TEXT_KINDS)}")
    rng = np.random.default_rng([seed, text_id])
    return TEXT_KINDS[kind](tokens.astype(np.int32), ids, rng)
