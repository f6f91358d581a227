"""Makes kinds of text that are harder and harder to compress from one: `TEXT_KINDS`.

They separate what a compressor has learnt of language from mere copying.

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
    """Sorted token ids of text, without special tokens and unused entries of the embedding.

    Args:
      tokenizer: tokenizer from transformers; None for all ids.
      vocab_size: number of entries of the LM's embedding.
    """
    ids = np.arange(num_token_ids(tokenizer, vocab_size))
    if tokenizer is None:
        return ids
    added = tokenizer.added_tokens_decoder.items()
    special = [number for number, token in added if token.special]
    return np.setdiff1d(ids, [*special, *tokenizer.all_special_ids])


def _patterned(tokens: Tokens, ids: Ids, rng: np.random.Generator) -> Tokens:
    """Replaces each id by the next one, a pattern that the language does not have.

    Ids that are no text are skipped; the last id is followed by the first.
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
    """Turns a text into another kind of text, with as many tokens.

    Args:
      kind: a key of `TEXT_KINDS`.
      tokens: tokens of a text.
      ids: sorted ids that the result may have; see `ordinary_ids`.
      seed: seed of random draws, together with `text_id`.
      text_id: id of the text.

    Raises:
      InputError: there is no such kind.
    """
    if kind not in TEXT_KINDS:
        raise InputError(f"no kind of text {kind!r}; give one of {', '.join(TEXT_KINDS)}")
    rng = np.random.default_rng([seed, text_id])
    return TEXT_KINDS[kind](tokens.astype(np.int32), ids, rng)
