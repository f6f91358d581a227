"""Token sequences of many lengths: end to end in one array, on disk or in memory.

Letters: N tokens of all sequences, R sequences, K = R + 1, B sequences of a batch, T tokens
of a padded sequence.
"""

import array
import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Int, Int32, Int64

from memcomp import distributed
from memcomp.data.tokens import texts_to_ids
from memcomp.disk import make_folder, writing
from memcomp.errors import InputError

_DTYPE = np.dtype("<i4")
_STARTS = "starts.npy"  # written last, so that it marks a complete folder
# Number of examples that are tokenized at once; small, as a novel takes much memory.
_GROUP = 16


class Padded(NamedTuple):
    """Batch of sequences, each padded with 0 on the right.

    Attributes:
      tokens: token ids.
      lengths: number of tokens of each sequence that are not padding; may be 0.
    """

    tokens: Int32[np.ndarray, "B T"]
    lengths: Int32[np.ndarray, " B"]


@dataclasses.dataclass(frozen=True, eq=False)
class Ragged:
    """Sequences of token ids; `ragged[i]` is sequence i.

    Attributes:
      tokens: all sequences end to end, memory-mapped where they are on a disk.
      starts: index of the first token of each sequence, and then the number of all tokens.
    """

    tokens: Int32[np.ndarray, " N"]
    starts: Int64[np.ndarray, " K"]

    @classmethod
    def of(cls, sequences: Iterable[Sequence[int]]) -> "Ragged":
        """Makes a `Ragged` in memory."""
        tokens, starts = array.array("i"), array.array("q", [0])
        for sequence in sequences:
            tokens.extend(sequence)
            starts.append(len(tokens))
        return cls(np.array(tokens, np.int32), np.array(starts, np.int64))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, i: int) -> Int32[np.ndarray, " T"]:
        if not 0 <= i < len(self):  # this also ends an iteration
            raise IndexError(f"sequence {i} of {len(self)}")
        return self.tokens[self.starts[i] : self.starts[i + 1]]

    @property
    def lengths(self) -> Int64[np.ndarray, " R"]:
        """Number of tokens of each sequence."""
        return np.diff(self.starts)

    def padded(
        self,
        rows: Int[np.ndarray, " B"],
        width: int,
        *,
        skip: Int[np.ndarray, " B"] | int = 0,
        limit: Int[np.ndarray, " B"] | None = None,
    ) -> Padded:
        """Gathers at most `width` tokens of each of the sequences `rows`.

        Args:
          rows: indices of sequences, which may repeat.
          width: number of tokens that sequences are padded to (T).
          skip: number of leading tokens of each sequence that are skipped.
          limit: largest number of tokens of each sequence; None for `width`.
        """
        first, end = self.starts[rows] + skip, self.starts[rows + 1]
        lengths = np.clip(
            end - first, 0, width if limit is None else np.minimum(limit, width)
        )
        places = np.arange(width)
        true = places < lengths[:, None]
        # Padding reads the first token of all, and is then set to 0.
        indices = np.where(true, first[:, None] + places, 0)
        every = self.tokens if len(self.tokens) else np.zeros(1, np.int32)
        tokens = np.where(true, every[indices], 0)
        return Padded(tokens.astype(np.int32), lengths.astype(np.int32))


def tokenized(
    tokenizer: Any, rows: Iterable[Sequence[str]], *, special_tokens: bool = False
) -> Iterator[tuple[Sequence[int], ...]]:
    """Tokenizes examples of several texts each, a few examples at a time.

    Args:
      tokenizer: tokenizer of transformers.
      rows: examples with the same number of texts; the names of special tokens in them are
        read as text.
      special_tokens: whether to add those that the tokenizer adds by default, such as BOS.

    Raises:
      InputError: there is no tokenizer.
    """
    if tokenizer is None:
        raise InputError(
            "the language model has no tokenizer; give a folder with a tokenizer.json"
        )
    rows = iter(rows)
    while group := list(itertools.islice(rows, _GROUP)):
        columns = (
            texts_to_ids(tokenizer, texts, special_tokens=special_tokens)
            for texts in zip(*group, strict=True)
        )
        yield from zip(*columns, strict=True)


def cached_ragged(
    folder: epath.Path,
    columns: Sequence[str],
    make: Callable[[], Iterable[Sequence[Sequence[int]]]],
) -> tuple[Ragged, ...]:
    """Opens the columns in `folder`, memory-mapped; makes and writes them if needed.

    They appear whole or not at all, and are never all in memory while they are written.
    From a bucket they are read into memory. With several processes, the first makes them.

    Args:
      folder: folder of the files, which may be a gs:// path.
      columns: names of the columns, and of their files.
      make: function that gives examples with one sequence per column, such as those of
        `tokenized`.
    """
    if distributed.is_first() and not (folder / _STARTS).exists():
        make_folder(folder)
        with writing(folder):
            _write(folder, columns, make())
    distributed.barrier()
    with (folder / _STARTS).open("rb") as file:
        starts = np.load(file)
    return tuple(
        Ragged(_read(folder / f"{name}.tokens", int(ends[-1])), ends)
        for name, ends in zip(columns, starts, strict=True)
    )


def _write(
    folder: epath.Path, columns: Sequence[str], rows: Iterable[Sequence[Sequence[int]]]
) -> None:
    starts = [array.array("q", [0]) for _ in columns]
    with contextlib.ExitStack() as stack:
        files = [
            stack.enter_context((folder / f"{name}.tokens").open("wb")) for name in columns
        ]
        for row in rows:
            for sequence, file, ends in zip(row, files, starts, strict=True):
                file.write(np.asarray(sequence, _DTYPE).tobytes())
                ends.append(ends[-1] + len(sequence))
    partial = folder / (_STARTS + ".partial")
    with partial.open("wb") as file:
        np.save(file, np.array(starts, np.int64))
    partial.rename(folder / _STARTS)


def _read(path: epath.Path, size: int) -> Int32[np.ndarray, " N"]:
    if "://" in str(path):
        return np.frombuffer(path.read_bytes(), _DTYPE)
    if size == 0:  # an empty file cannot be mapped
        return np.zeros(0, np.int32)
    return np.memmap(path, _DTYPE, mode="r", shape=(size,))
