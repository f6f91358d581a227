"""Texts to compress: found in files, on standard input or drawn, then made tokens.

The built-in texts, `memcomp/builtin/texts.txt`, are 32 short passages written for
memcomp in the manner of English novels of 1840-1920; they are under its licence.
"""

import csv
import dataclasses
import itertools
import json
import operator
import pathlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from memcomp.errors import InputError

BUILTIN = pathlib.Path(__file__).parent.parent / "builtin" / "texts.txt"
# Protocol -> whether the tokenizer's special tokens, such as BOS, are added.
PROTOCOLS = {"strict": False, "reference": True}
# Where a passage may start, the best first: after a blank line, after the end of a
# sentence, after any space.
_STARTS = tuple(map(re.compile, (r"\n[ \t]*\n\s*", r"[.!?][\"'”’)]*\s+", r"\s+")))


@dataclasses.dataclass(frozen=True, eq=False)
class Text:
    """One text as tokens.

    Attributes:
      text_id: position in its source, from 0; also the number folded into the seed.
      source: where it came from, for the record: file name, "builtin", "random_words".
      tokens: ids, in the order of the text.
    """

    text_id: int
    source: str
    tokens: Int32[np.ndarray, " T"]


@dataclasses.dataclass(frozen=True)
class _Options:
    field: str
    seed: int
    vocabulary: str | None
    num_words: int


class _Found(NamedTuple):
    source: str  # for the record
    place: str  # for messages: file and line
    text: str


def read_texts(
    source: str,
    *,
    field: str = "text",
    num_texts: int | None = None,
    passages: int = 1,
    seed: int = 0,
    vocabulary: str | None = None,
    num_words: int = 4096,
) -> list[tuple[str, str]]:
    r"""Texts and the names of where they came from, always in the same order.

    Whitespace is collapsed, `" ".join(text.split())`: line breaks are a file's, not
    the text's.

    Args:
      source: one of
        "builtin": the 32 passages that ship with memcomp;
        "random_words": words drawn uniformly, with replacement, from `vocabulary`, and
        joined by spaces; text i is drawn by `default_rng([seed, i])`, so that neither
        `num_texts` nor `num_words` changes its beginning;
        "-": standard input, one text a line;
        a folder: every .txt in it and below, sorted by path, each file one text;
        a .txt file: one text;
        a .jsonl or .csv file: one text a row. Empty lines are passed over where a line
        is a text. A file named as one of the first three is reached as "./builtin".
      field: of a .jsonl or .csv row.
      num_texts: the first so many; all where None, which "random_words" does not have.
      passages: each text is cut into so many passages, which are the texts then: part
        k starts at character k * length // passages, moved on to the next paragraph,
        or to the next sentence or word in a part without one, and ends where the next
        starts. For novels, of which one wants several beginnings.
      seed: of "random_words"; at least 0.
      vocabulary: file with one word a line, for "random_words".
      num_words: of each "random_words" text: at least as many as tokens are wanted.

    Raises:
      InputError: no such source, a file that cannot be read, an empty text, fewer texts
        than `num_texts`. Rows after the last one that is wanted are not looked at.

    Source: whitespace and random words as in Kuratov et al. 2025, arXiv:2502.13063,
    preprocess_pg19 and train.py, which draw five times as many words as tokens,
    unseeded; they take the second half of each chunk of PG-19, which is not done here.
    """
    for name, value, least in (
        ("num_texts", 1 if num_texts is None else num_texts, 1),
        ("passages", passages, 1),
        ("num_words", num_words, 1),
        ("seed", seed, 0),
    ):
        if value < least:
            raise InputError(f"{name} is {value}; give {least} or more")
    if source == "random_words" and num_texts is None:
        raise InputError('texts "random_words" have no end; say num_texts')
    options = _Options(field, seed, vocabulary, num_words)
    found = (
        _Found(text.source, text.place, " ".join(passage.split()))
        for text in _reader(source)(source, options)
        for passage in _cut(text, passages)
    )
    texts = []
    for one in itertools.islice(found, num_texts):
        if not one.text:
            raise InputError(f"{one.place} is an empty text; remove it or fill it")
        texts.append((one.source, one.text))
    if len(texts) < (num_texts or 1):
        where = "standard input" if source == "-" else source
        raise InputError(
            f"{where} has {len(texts)} texts where {num_texts or 1} are wanted; "
            "lower num_texts or give more texts"
        )
    return texts


def tokenize(
    tokenizer: Any,
    texts: Iterable[Any],
    *,
    num_tokens: int | Sequence[int] | None,
    protocol: str = "strict",
    vocab_size: int | None = None,
) -> list[Text]:
    """The first tokens of each text; `text_id` is the position in `texts`.

    Args:
      tokenizer: of transformers; None will do where all texts are token ids.
      texts: pairs (source, text) as from `read_texts`, strings, or one-dimensional
        arrays of token ids. Strings are not collapsed; ids get no special tokens.
      num_tokens: of every text, or one number a text; None: the whole text. Special
        tokens count.
      protocol: "strict" adds no special tokens; "reference" adds those that the
        tokenizer adds by default, so that BOS is token 1 where there is one.
      vocab_size: ids must be below it.

    Raises:
      InputError: an empty text, one with fewer tokens than asked for, ids outside the
        vocabulary, strings without a tokenizer, an unknown protocol.
    """
    if protocol not in PROTOCOLS:
        raise InputError(f"protocol {protocol!r} is not one of {', '.join(PROTOCOLS)}")
    texts = list(texts)
    result = []
    for text_id, (text, length) in enumerate(
        zip(texts, _lengths(num_tokens, len(texts)), strict=True)
    ):
        source, content = text if _is_pair(text) else ("given", text)
        name = f"text {text_id} ({source})"
        if isinstance(content, str):
            ids = _encode(tokenizer, content, length, PROTOCOLS[protocol], name)
        else:
            ids = np.asarray(content)
        tokens = _checked(ids, length, vocab_size, name)
        result.append(Text(text_id=text_id, source=source, tokens=tokens))
    return result


def _is_pair(text: Any) -> bool:
    return isinstance(text, tuple) and len(text) == 2 and isinstance(text[0], str)


def _lengths(num_tokens: Any, num_texts: int) -> Sequence[int | None]:
    if num_tokens is None:
        return [None] * num_texts
    if np.ndim(num_tokens) == 0:
        num_tokens = [num_tokens] * num_texts
    lengths = list(map(operator.index, num_tokens))
    if len(lengths) == 1:  # a config's tuple with one number, as from the command line
        lengths = lengths * num_texts
    if len(lengths) != num_texts:
        raise InputError(
            f"num_tokens has {len(lengths)} numbers for {num_texts} texts; "
            "give one number, or one a text"
        )
    if any(n < 1 for n in lengths):
        raise InputError(f"num_tokens is {min(lengths)}; give 1 or more")
    return lengths


def _encode(
    tokenizer: Any, text: str, length: int | None, special: bool, name: str
) -> np.ndarray:
    if tokenizer is None:
        raise InputError(
            f"{name} is a string and the language model has no tokenizer; "
            "give token ids, or a folder with a tokenizer.json"
        )
    if not text.strip():
        raise InputError(f"{name} is empty; remove it or fill it")
    # A novel is not tokenized whole for its first words. Tokens near the cut may
    # differ from those of the whole text; those 16 before it are more than any word
    # has an influence on.
    if length is not None:
        for end in (8 * length + 256, 64 * length + 2048):
            ids = _ids(tokenizer, text[:end], special)
            if len(ids) >= length + 16 or end >= len(text):
                return ids
    return _ids(tokenizer, text, special)


def _ids(tokenizer: Any, text: str, special: bool) -> np.ndarray:
    # verbose: else transformers warns of texts that are longer than the LM's positions,
    # before they are truncated.
    encoded = tokenizer(text, add_special_tokens=special, verbose=False)
    return np.asarray(encoded["input_ids"], dtype=np.int64)


def _checked(
    ids: np.ndarray, length: int | None, vocab_size: int | None, name: str
) -> np.ndarray:
    if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
        raise InputError(
            f"{name} is an array of {ids.dtype} with {ids.ndim} axes; "
            "give a string or a one-dimensional array of integer token ids"
        )
    if ids.size == 0:
        raise InputError(f"{name} is empty; remove it or fill it")
    if length is not None and ids.size < length:
        raise InputError(
            f"{name} has {ids.size} tokens, fewer than num_tokens = {length}; "
            "give a longer text or ask for fewer tokens"
        )
    ids = ids[:length]
    top = np.iinfo(np.int32).max + 1 if vocab_size is None else vocab_size
    if ids.min() < 0 or ids.max() >= top:
        bad = ids[(ids < 0) | (ids >= top)][0]
        raise InputError(f"{name} has token id {bad}; give ids from 0 to {top - 1}")
    return ids.astype(np.int32)


def _reader(source: str) -> Callable[[str, _Options], Iterator[_Found]]:
    if source in NAMES:
        return NAMES[source]
    path = pathlib.Path(source).expanduser()
    if path.is_dir():
        return _read_folder
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"no texts at {source!r}: wanted {', '.join(map(repr, NAMES))}, a folder of "
            f".txt files, or a file that ends in {', '.join(SUFFIXES)}"
        )
    return SUFFIXES[path.suffix.lower()]


def _cut(found: _Found, passages: int) -> Iterator[str]:
    """The passages of one text; see `read_texts`."""
    text = found.text
    ends = [k * len(text) // passages for k in range(1, passages + 1)]
    starts = [0]
    for low, high in itertools.pairwise(ends):
        matches = (pattern.search(text, low, high) for pattern in _STARTS)
        starts.append(next((m.end() for m in matches if m), high))
    for start, end in itertools.pairwise([*starts, len(text)]):
        if passages > 1 and not text[start:end].strip():
            raise InputError(
                f"{found.place} is too short for {passages} passages; ask for fewer"
            )
        yield text[start:end]


def _read_builtin(source: str, options: _Options) -> Iterator[_Found]:
    for number, line in _lines(BUILTIN):
        yield _Found(source, f"line {number} of {BUILTIN.name}", line)


def _read_random_words(source: str, options: _Options) -> Iterator[_Found]:
    if options.vocabulary is None:
        raise InputError(
            'texts "random_words" need `vocabulary`: a file with one word a line'
        )
    words = [line.strip() for _, line in _lines(pathlib.Path(options.vocabulary))]
    if not words:
        raise InputError(f"{options.vocabulary} has no words; wanted one a line")
    for i in itertools.count():
        rng = np.random.default_rng([options.seed, i])
        drawn = rng.integers(len(words), size=options.num_words)
        yield _Found(source, f"text {i}", " ".join(words[j] for j in drawn))


def _read_stdin(source: str, options: _Options) -> Iterator[_Found]:
    # Bytes, because the locale's encoding need not be UTF-8.
    stream = getattr(sys.stdin, "buffer", sys.stdin)
    for number, line in enumerate(stream, start=1):
        place = f"line {number} of standard input"
        if isinstance(line, bytes):
            try:
                line = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise InputError(f"{place} is not UTF-8 text; convert it") from error
        if line.strip():
            yield _Found(source, place, line)


def _read_folder(source: str, options: _Options) -> Iterator[_Found]:
    folder = pathlib.Path(source).expanduser()
    files = [p for p in folder.rglob("*") if p.suffix.lower() == ".txt" and p.is_file()]
    if not files:
        raise InputError(f"folder {source} has no .txt files; give one that has")
    names = {path.relative_to(folder).as_posix(): path for path in files}
    for name in sorted(names):
        text = "".join(line for _, line in _lines(names[name], blank=True))
        yield _Found(name, str(names[name]), text)


def _read_txt(source: str, options: _Options) -> Iterator[_Found]:
    path = pathlib.Path(source).expanduser()
    text = "".join(line for _, line in _lines(path, blank=True))
    yield _Found(path.name, str(path), text)


def _read_jsonl(source: str, options: _Options) -> Iterator[_Found]:
    path = pathlib.Path(source).expanduser()
    for number, line in _lines(path):
        place = f"line {number} of {path}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(
                f"{place} is not JSON ({error}); wanted one object a line"
            ) from error
        if not isinstance(row, dict):
            raise InputError(f"{place} is not a JSON object; wanted one object a line")
        yield _Found(path.name, place, _field(row, options.field, place))


def _read_csv(source: str, options: _Options) -> Iterator[_Found]:
    path = pathlib.Path(source).expanduser()
    # The default limit, 131,072 characters a field, is below the chunks of PG-19.
    limit = csv.field_size_limit(2**31 - 1)
    try:
        rows = csv.DictReader((line for _, line in _lines(path, blank=True)), strict=True)
        for row in rows:
            place = f"line {rows.line_num} of {path}"
            there = {name: value for name, value in row.items() if value is not None}
            yield _Found(path.name, place, _field(there, options.field, place))
    except csv.Error as error:
        raise InputError(f"{path} is not CSV ({error}); wanted a header line") from error
    finally:
        csv.field_size_limit(limit)


def _field(row: dict[Any, Any], field: str, place: str) -> str:
    if not isinstance(row.get(field), str):
        what = "has no field" if field not in row else "has no text in field"
        names = ", ".join(repr(name) for name in row if name is not None)
        raise InputError(
            f"{place} {what} {field!r}; its fields are {names or 'none'}: name one of "
            "them that is text"
        )
    return row[field]


def _lines(path: pathlib.Path, *, blank: bool = False) -> Iterator[tuple[int, str]]:
    """Numbered lines of a file; those without a text only where `blank` is set."""
    try:
        # utf-8-sig: a byte order mark is no part of a text.
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if blank or line.strip():
                    yield number, line
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 text; convert it, or leave it out"
        ) from error
    except FileNotFoundError as error:
        raise InputError(f"no file {path}; check the name") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


NAMES = {
    "builtin": _read_builtin,
    "random_words": _read_random_words,
    "-": _read_stdin,
}
SUFFIXES = {".txt": _read_txt, ".jsonl": _read_jsonl, ".csv": _read_csv}
