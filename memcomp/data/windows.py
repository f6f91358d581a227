"""Training input: windows of one flat array of tokens on disk, made from documents.

The array is memory-mapped and a batch is one numpy gather, so that a batch costs only a
copy, without any work for each example.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import grain
import numpy as np
from etils import epath
from jaxtyping import Int, UInt16

from memcomp.disk import writing
from memcomp.errors import InputError

# Number of documents that are tokenized at once, one in each thread.
_GROUP = 16


def flat_tokens(
    documents: Iterable[str], tokenizer: Any, start: int
) -> UInt16[np.ndarray, " N"]:
    """Tokenizes all documents in order, with `start` before each.

    Args:
      documents: whole texts; the names of special tokens in them are read as text.
      tokenizer: a `tokenizers.Tokenizer` of at most 65,536 tokens.
      start: id of the token that begins a document, such as <|endoftext|>.

    Raises:
      InputError: the vocabulary does not fit into 16 bits.
    """
    size = tokenizer.get_vocab_size()
    if size > np.iinfo(np.uint16).max + 1:
        raise InputError(f"a vocabulary of {size} does not fit into 16 bits; lower it")
    tokenizer.encode_special_tokens = True
    documents = list(documents)
    pieces = []
    for first in range(0, len(documents), _GROUP):
        group = documents[first : first + _GROUP]
        # The fast method leaves out the offsets, which would take most of the memory.
        for encoding in tokenizer.encode_batch_fast(group, add_special_tokens=False):
            pieces.append(np.asarray([start, *encoding.ids], np.uint16))
    return np.concatenate(pieces) if pieces else np.zeros(0, np.uint16)


def cached_tokens(
    path: epath.Path, make: Callable[[], UInt16[np.ndarray, " N"]]
) -> UInt16[np.ndarray, " N"]:
    """Opens the array in the .npy file `path`, memory-mapped; makes it if needed.

    The file appears whole or not at all. From a bucket it is read into memory.
    """
    if not path.exists():
        partial = path.with_name(path.name + ".partial")
        with writing(path):
            with partial.open("wb") as file:
                np.save(file, make())
            partial.rename(path)
    if "://" in str(path):
        with path.open("rb") as file:
            return np.load(file)
    return np.load(path, mmap_mode="r")


def windows(
    tokens: UInt16[np.ndarray, " N"],
    *,
    length: int,
    batch_size: int,
    num_batches: int,
    seed: int,
) -> grain.MapDataset:
    """Batches [batch_size, length + 1] of windows, as a grain dataset.

    The first `length` tokens of a window are inputs, its last `length` are targets. In one
    pass over the data the windows are adjacent, so that no token is a target twice, and
    come in random order. Every pass starts at another offset, so that the borders move.
    Batch i depends only on `seed` and i.

    Args:
      tokens: token ids, such as `cached_tokens` returns.
      length: number of targets of a window.
      batch_size: number of windows in a batch.
      num_batches: length of the dataset; passes are repeated as needed.
      seed: seed of order and offsets.

    Raises:
      InputError: there are too few tokens for a window.
    """
    check_window(len(tokens), length)
    starts = window_starts(len(tokens), length, seed)

    def gather(batch: int) -> UInt16[np.ndarray, "B W"]:
        rows = starts(batch * batch_size + np.arange(batch_size))
        return tokens[rows[:, None] + np.arange(length + 1)]

    return grain.MapDataset.range(num_batches).map(gather)


def check_window(num_tokens: int, length: int) -> None:
    """Raises `InputError` if there are fewer tokens than one window has."""
    if num_tokens < length + 1:
        raise InputError(
            f"the texts have {num_tokens} tokens, fewer than the {length + 1} of one "
            "window; give more text or a shorter window"
        )


def window_starts(
    num_tokens: int, length: int, seed: int
) -> Callable[[Int[np.ndarray, " B"]], Int[np.ndarray, " B"]]:
    """Returns a function from indices of windows, over all passes, to their first token."""
    # One window less than would fit, so that every offset from 0 to length - 1 has room.
    per_pass = max(1, (num_tokens - 1) // length - 1)
    offsets = min(length, num_tokens - per_pass * length)

    def order(number: int) -> Int[np.ndarray, " P"]:
        rng = np.random.default_rng([seed, number])
        return rng.integers(offsets) + length * rng.permutation(per_pass)

    return in_passes(order, per_pass)


def in_passes(
    order: Callable[[int], Int[np.ndarray, " P"]], per_pass: int
) -> Callable[[Int[np.ndarray, " B"]], Int[np.ndarray, " B"]]:
    """Returns a function that indexes the concatenation of order(0), order(1), ...

    Args:
      order: function from the number of a pass to its `per_pass` members in order.
      per_pass: number of members of a pass, at least 1.
    """
    # A batch may extend over two passes, and threads that read ahead may be a pass apart.
    order = functools.lru_cache(maxsize=4)(order)

    def members(indices: Int[np.ndarray, " B"]) -> Int[np.ndarray, " B"]:
        passes, places = np.divmod(indices, per_pass)
        result = np.empty_like(indices)
        for number in np.unique(passes):
            chosen = passes == number
            result[chosen] = order(int(number))[places[chosen]]
        return result

    return members
