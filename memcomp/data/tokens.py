"""Text to token ids and back, by the tokenizer of a language model."""

import bisect
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Int32, Int64

from memcomp.errors import InputError, refusing

# What a decoder writes for bytes that are no whole character.
CUT = "\N{REPLACEMENT CHARACTER}"
# Tokens that a tokenizer adds to a text. Where <unk> is one of them, as in GPT-2, it stands
# for nothing else: every byte has a token.
ADDED = ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")


def checked_ids(
    what: str, ids: Any, vocab_size: int, *, axes: int = 1
) -> Int32[np.ndarray, "..."]:
    """Token ids that somebody gives, as an array.

    Args:
      what: they are, such as "a context".
      ids: whatever was given.
      vocab_size: ids must be below it.
      axes: that the array must have.

    Raises:
      InputError: no whole numbers, of another number of axes, or outside the vocabulary.
    """
    try:
        ids = np.asarray(ids)
    except ValueError as error:  # rows of different lengths
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
    """The token ids of each text.

    What looks like a control token in a text, such as <|endoftext|>, is read as text.

    Args:
      tokenizer: of transformers.
      texts: any strings.
      special_tokens: add those that the tokenizer adds by default, such as BOS.

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
    """`texts_to_ids` of one text."""
    (ids,) = texts_to_ids(tokenizer, [text], special_tokens=special_tokens)
    return np.asarray(ids, np.int64)


def ids_to_text(tokenizer: Any, ids: Int[np.ndarray, "_"] | list[int]) -> str:
    """The text of token ids, with every space where it was."""
    return tokenizer.decode(np.asarray(ids).tolist(), clean_up_tokenization_spaces=False)


def pieces(tokenizer: Any, ids: Int[np.ndarray, "_"]) -> list[str]:
    """What each token adds to the text of those before it; joined, they are the text.

    A token decoded by itself may lose its space, or be a part of a character: that comes
    with the last of its tokens.
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
    """How many bytes of UTF-8 the tokens stand for; control tokens stand for none."""
    ids = np.asarray(ids)
    ids = ids[~np.isin(ids, tokenizer.all_special_ids)]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend and backend.decoder and b'"ByteLevel"' in backend.decoder.__getstate__():
        # Each character of such a token's name is a byte.
        return sum(map(len, tokenizer.convert_ids_to_tokens(ids.tolist())))
    # Other decoders write CUT for each byte of a character that is not whole.
    text = ids_to_text(tokenizer, ids)
    return len(text.encode()) - text.count(CUT) * (len(CUT.encode()) - 1)


def num_faithful(
    tokenizer: Any, ids: Int[np.ndarray, "_"], text: str, *, whole: bool
) -> int:
    """How many leading tokens give back the beginning of the text that they were made of.

    A tokenizer may have no token for a character, and drop it or write <unk>; may change
    case, spaces or accents. A space in front and a character that the last token cuts are
    no difference. Less than all where something is lost after the last token.

    Args:
      tokenizer: of transformers.
      ids: of the text, special tokens that the tokenizer adds included.
      text: at least what `ids` stand for.
      whole: they stand for all of it.
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
