"""Conversion of text to token ids and back, by the tokenizer of a language model."""

import bisect
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Int32, Int64

from memcomp.errors import InputError, refusing

# Decoders write this for bytes that are no whole character.
CUT = "\N{REPLACEMENT CHARACTER}"
# Tokens that a tokenizer adds to a text. If one of them is also <unk>, as in GPT-2, <unk>
# never stands for text, because every byte has a token.
ADDED = ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")


def checked_ids(
    what: str, ids: Any, vocab_size: int, *, axes: int = 1
) -> Int32[np.ndarray, "..."]:
    """Checks token ids that a user gives, and returns them as an array.

    Args:
      what: name of the ids for messages, such as "a context".
      ids: value that the user gives.
      vocab_size: ids must be below it.
      axes: number of axes that the array must have.

    Raises:
      InputError: `ids` are no integers, have another number of axes, or are outside the
        vocabulary.
    """
    try:
        ids = np.asarray(ids)
    except ValueError as error:  # sequences of different lengths
        raise InputError(f"{what} is no array of token ids: {error}") from error
    if ids.ndim != axes or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
        raise InputError(
            f"{what} is an array of {ids.dtype} with {ids.ndim} axes; give integer token "
            f"ids in an array with {axes}"
        )
    if (bad := ids[(ids < 0) | (ids >= vocab_size)]).size:
        raise InputError(
            f"{what} has token id {bad[0]}; give ids from 0 to {vocab_size - 1}"
        )
    return ids.astype(np.int32)


def texts_to_ids(
    tokenizer: Any, texts: Sequence[str], *, special_tokens: bool = False
) -> list[list[int]]:
    """Tokenizes texts.

    The name of a special token in a text, such as <|endoftext|>, is read as text.

    Args:
      tokenizer: tokenizer of transformers.
      texts: any strings.
      special_tokens: whether to add those that the tokenizer adds by default, such as BOS.

    Raises:
      InputError: the tokenizer cannot read one of the texts.
    """
    options = {
        "add_special_tokens": special_tokens,
        "split_special_tokens": True,
        "verbose": False,  # else it warns of texts longer than the LM's positions
    }
    with refusing("a text that the tokenizer cannot read"):
        return tokenizer(list(texts), **options)["input_ids"]


def text_to_ids(
    tokenizer: Any, text: str, *, special_tokens: bool = False
) -> Int64[np.ndarray, "_"]:
    """Tokenizes one text; see `texts_to_ids`."""
    (ids,) = texts_to_ids(tokenizer, [text], special_tokens=special_tokens)
    return np.asarray(ids, np.int64)


def ids_to_text(tokenizer: Any, ids: Int[np.ndarray, "_"] | list[int]) -> str:
    """Decodes token ids, and keeps every space."""
    return tokenizer.decode(np.asarray(ids).tolist(), clean_up_tokenization_spaces=False)


def pieces(tokenizer: Any, ids: Int[np.ndarray, "_"]) -> list[str]:
    """Text that each token adds to that of the tokens before it; joined, it is the text.

    A token decoded alone might lose its space. A character of several tokens is in the
    piece of the last of them.
    """
    found, start, seen = [], 0, 0
    for end in range(1, len(ids) + 1):
        before, now = (ids_to_text(tokenizer, ids[start:i]) for i in (seen, end))
        if now.endswith(CUT) and end < len(ids):
            found.append("")
            continue
        found.append(now[len(before) :])
        start, seen = seen, end
    return found


def num_bytes(tokenizer: Any, ids: Int[np.ndarray, "_"]) -> int:
    """Number of UTF-8 bytes that the tokens stand for; special tokens stand for none."""
    ids = np.asarray(ids)
    ids = ids[~np.isin(ids, tokenizer.all_special_ids)]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend and backend.decoder and b'"ByteLevel"' in backend.decoder.__getstate__():
        # In the names of byte-level tokens, each character is a byte.
        return sum(map(len, tokenizer.convert_ids_to_tokens(ids.tolist())))
    # Other decoders write CUT for each byte of an incomplete character.
    text = ids_to_text(tokenizer, ids)
    return len(text.encode()) - text.count(CUT) * (len(CUT.encode()) - 1)


def num_faithful(
    tokenizer: Any, ids: Int[np.ndarray, "_"], text: str, *, whole: bool
) -> int:
    """Number of leading tokens that decode to the beginning of the text.

    A tokenizer may have no token for a character and drop it or write <unk>, or change
    case, spaces or accents. A space in front, or a character that the last token cuts, is
    no difference. If only text after the last token is lost, the result is len(ids) - 1.

    Args:
      tokenizer: tokenizer of transformers.
      ids: token ids of the text, including special tokens that the tokenizer adds.
      text: text that `ids` stand for, or a longer one.
      whole: whether `ids` stand for all of `text`.
    """
    wanted, added = text.lstrip(" "), [getattr(tokenizer, name, None) for name in ADDED]

    def differs(count: int) -> bool:
        own = [token for token in ids[:count].tolist() if token not in added]
        said = ids_to_text(tokenizer, own).lstrip(" ")
        if whole and count == len(ids):
            return said != wanted
        return not wanted.startswith(said.rstrip(CUT))

    if not differs(len(ids)):
        return len(ids)
    return bisect.bisect_left(range(1, len(ids)), True, key=differs)
