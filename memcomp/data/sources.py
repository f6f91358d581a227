"""Sources of texts, in one table of names, `SOURCES`.

A new source is an entry in the table, with a function. Configs and `read_texts` find it
there.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from memcomp.data.chunks import draw_chunks, halves
from memcomp.data.files import (
    Found,
    lines,
    read_csv,
    read_folder,
    read_jsonl,
    read_stdin,
    read_txt,
    whole,
)
from memcomp.disk import local_path
from memcomp.errors import InputError

BUILTIN = pathlib.Path(__file__).parent.parent / "builtin" / "texts.txt"

Files = Sequence[pathlib.Path]
Options = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Source:
    """Source of texts.

    Attributes:
      make: function (files, **options) that yields the texts in order. The first n texts
        must not depend on how many are taken.
      files: function of all options that returns the files or the folder of the texts; it
        raises an InputError that says what to download, and from where.
      options: names of the options that `make` takes; see `read_texts`.
      endless: whether there is no last text, so that `num_texts` must be given.
      stored: whether TensorFlow Datasets keeps the texts, because making them takes long.
    """

    make: Callable[..., Iterator[Found]]
    files: Callable[[Options], Files] = lambda options: ()
    options: tuple[str, ...] = ()
    endless: bool = False
    stored: bool = False

    def found(self, options: Options) -> Iterator[Found]:
        """Yields the texts; raises an InputError if files are missing or wrong."""
        files = self.files(options)
        return self.make(files, **{name: options[name] for name in self.options})


def _manual(pattern: str, what: str) -> Callable[[Options], Files]:
    """Makes `Source.files` for files in `manual_dir` that the user has to download."""

    def files(options: Options) -> Files:
        folder = options["manual_dir"]
        found = sorted(local_path(folder).glob(pattern)) if folder else []
        if not found:
            where = f"{folder} has no {pattern}" if folder else "manual_dir is not set"
            raise InputError(
                f"{where}: get {what} and put it at {folder or 'MANUAL_DIR'}/{pattern}"
            )
        return found

    return files


def _vocabulary(options: Options) -> Files:
    if not options["vocabulary"]:
        raise InputError(
            'texts "random_words" need `vocabulary`: a file with one word a line'
        )
    return [local_path(options["vocabulary"])]


def _builtin(files: Files) -> Iterator[Found]:
    for number, line in lines(files[0]):
        yield Found("builtin", f"line {number} of {files[0].name}", line)


def _pg19(files: Files, *, seed: int) -> Iterator[Found]:
    """Yields second halves of chunks that are drawn from files of one book each."""
    books = ((path.name, whole(path)) for path in files)
    for i, chunk in enumerate(draw_chunks(books, seed=seed)):
        place = f"text {i} of 'pg19', of {chunk.book},"
        yield Found("pg19", place, chunk.text, chunk.context)


def _halved_rows(name: str) -> Callable[..., Iterator[Found]]:
    """Makes `Source.make` for the second halves of the chunks in a CSV file, in order."""

    def make(files: Files) -> Iterator[Found]:
        for row in read_csv(files, field="text"):
            context, text = halves(str(row.text))
            yield Found(name, row.place, text, context)

    return make


def _random_words(files: Files, *, seed: int, num_words: int) -> Iterator[Found]:
    words = [line.strip() for _, line in lines(files[0])]
    if not words:
        raise InputError(f"{files[0]} has no words; wanted one a line")
    for i in itertools.count():
        drawn = np.random.default_rng([seed, i]).integers(len(words), size=num_words)
        yield Found("random_words", f"text {i}", " ".join(words[j] for j in drawn))


def _uniform_tokens(
    files: Files, *, seed: int, num_words: int, vocab_size: int | None
) -> Iterator[Found]:
    if vocab_size is None:
        raise InputError(
            'texts "uniform_tokens" need `vocab_size`: ids are drawn from 0 to below it'
        )
    for i in itertools.count():
        ids = np.random.default_rng([seed, i]).integers(vocab_size, size=num_words)
        yield Found("uniform_tokens", f"text {i}", ids.astype(np.int32))


SOURCES: dict[str, Source] = {
    "builtin": Source(_builtin, files=lambda options: [BUILTIN]),
    "random_words": Source(
        _random_words, _vocabulary, options=("seed", "num_words"), endless=True
    ),
    "uniform_tokens": Source(
        _uniform_tokens, options=("seed", "num_words", "vocab_size"), endless=True
    ),
    "pg19": Source(
        _pg19,
        _manual(
            "pg19/*.txt",
            "the .txt files of PG-19's validation split "
            "(https://storage.googleapis.com/deepmind-gutenberg, folder validation)",
        ),
        options=("seed",),
        stored=True,
    ),
    "pg19_csv": Source(
        _halved_rows("pg19_csv"),
        _manual(
            "pg19_valid_1k_chunks.csv",
            "the data set yurakuratov/pg19_valid_1k_chunks of the Hugging Face Hub as CSV",
        ),
        stored=True,
    ),
    "fanfics_csv": Source(
        _halved_rows("fanfics_csv"),
        _manual(
            "fanfics_1k_chunks.csv",
            "the data set yurakuratov/fanfics_1k_chunks of the Hugging Face Hub as CSV",
        ),
        stored=True,
    ),
    "-": Source(read_stdin),
}
_FOLDER = Source(read_folder)
_SUFFIXES = {
    ".txt": Source(read_txt),
    ".jsonl": Source(read_jsonl, options=("field",)),
    ".csv": Source(read_csv, options=("field",)),
}


def find_source(name: str) -> Source:
    """Returns the entry of `SOURCES`, or the source of a folder or a file.

    Raises:
      InputError: there is no such source.
    """
    if not name:
        raise InputError(
            'texts is not set; give a file, a folder, "-" for standard input, or one of '
            f"{', '.join(map(repr, SOURCES))}"
        )
    if name in SOURCES:
        return SOURCES[name]
    path = local_path(name)
    row = _FOLDER if path.is_dir() else _SUFFIXES.get(path.suffix.lower())
    if row is None:
        raise InputError(
            f"no texts at {name!r}: wanted {', '.join(map(repr, SOURCES))}, a folder of "
            f".txt files, or a file that ends in {', '.join(_SUFFIXES)}"
        )
    return dataclasses.replace(row, files=lambda options: [path])
