"""Texts in files: plain text, JSON lines, CSV and standard input."""

import csv
import hashlib
import json
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from memcomp.disk import find_files
from memcomp.errors import InputError


class Found(NamedTuple):
    """One text where it was found.

    Attributes:
      source: where it came from, for the record.
      place: file and line, for messages.
      text: to be compressed; a string, or token ids.
      context: what comes before it in its book; "" where that is not known.
    """

    source: str
    place: str
    text: str | np.ndarray
    context: str = ""


def lines(path: pathlib.Path, *, blank: bool = False) -> Iterator[tuple[int, str]]:
    """Numbered lines of a file; those without a text only where `blank` is set.

    Raises:
      InputError: the file is not there, cannot be read, or is not UTF-8.
    """
    try:
        # utf-8-sig: a byte order mark is no part of a text. surrogateescape: so that the
        # line of a wrong byte is known, as decoding runs ahead of the lines.
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
            for number, line in enumerate(file, start=1):
                if not line.isascii():
                    line.encode()
                if blank or line.strip():
                    yield number, line
    except UnicodeEncodeError as error:
        raise InputError(
            f"line {number} of {path} is not UTF-8 text; convert the file, or leave it out"
        ) from error
    except FileNotFoundError as error:
        raise InputError(f"no file {path}; check the name") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def whole(path: pathlib.Path) -> str:
    """All of a file; raises as `lines`."""
    return "".join(line for _, line in lines(path, blank=True))


def read_stdin(files: Sequence[pathlib.Path]) -> Iterator[Found]:
    """A text a line of standard input."""
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
            yield Found("-", place, line)


def read_folder(files: Sequence[pathlib.Path]) -> Iterator[Found]:
    """The .txt files of a folder and below, sorted by path, each file one text.

    Linked folders and files are read as if they were there themselves.
    """
    (folder,) = files
    found = find_files(folder, ".txt")
    if not found:
        raise InputError(f"folder {folder} has no .txt files; give one that has")
    names = {path.relative_to(folder).as_posix(): path for path in found}
    for name in sorted(names):
        yield Found(name, str(names[name]), whole(names[name]))


def read_txt(files: Sequence[pathlib.Path]) -> Iterator[Found]:
    """A file that is one text."""
    (path,) = files
    yield Found(path.name, str(path), whole(path))


def read_jsonl(files: Sequence[pathlib.Path], *, field: str) -> Iterator[Found]:
    """A text a line: `field` of an object."""
    (path,) = files
    for place, row in json_rows(path):
        yield Found(path.name, place, text_field(row, field, place))


def json_rows(path: pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects in the lines of a file, each with its place for messages.

    Raises:
      InputError: a line is not one object in JSON, or the file cannot be read.
    """
    for number, line in lines(path):
        place = f"line {number} of {path}"
        try:
            row, again = _parsed(line)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{place} is not JSON ({error}); wanted one object a line"
            ) from error
        if not isinstance(row, dict):
            raise InputError(f"{place} is not a JSON object; wanted one object a line")
        if again is not None:
            raise InputError(
                f"{place} has the field {again!r} twice; leave one of them out"
            )
        yield place, row


def _parsed(line: str) -> tuple[Any, str | None]:
    """What a line of JSON says, and a field that its object has twice."""
    again = None

    def as_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal again  # inner objects come first, so that in the end it is the outer one's
        again = _repeated([name for name, _ in pairs])
        return dict(pairs)

    return json.loads(line, object_pairs_hook=as_dict), again


def _repeated(names: Sequence[str]) -> str | None:
    """The first name that comes a second time; None where all differ."""
    return next((name for i, name in enumerate(names) if name in names[:i]), None)


def read_csv(files: Sequence[pathlib.Path], *, field: str) -> Iterator[Found]:
    """A text a row: `field` of it, as the header line names it."""
    (path,) = files
    # The default limit, 131,072 characters a field, is below the chunks of PG-19.
    limit = csv.field_size_limit(2**31 - 1)
    try:
        rows = csv.reader((line for _, line in lines(path, blank=True)), strict=True)
        names = next(filter(None, rows), [])
        if (again := _repeated(names)) is not None:
            raise InputError(
                f"line {rows.line_num} of {path} names the column {again!r} twice; give "
                "each column a name of its own"
            )
        for row in filter(None, rows):
            place = f"line {rows.line_num} of {path}"
            if len(row) != len(names):
                raise InputError(
                    f"{place} has {len(row)} fields where the header names "
                    f"{', '.join(map(repr, names))}; put a text with commas or line breaks "
                    "in quotes, and leave no field out"
                )
            there = dict(zip(names, row, strict=True))
            yield Found(path.name, place, text_field(there, field, place))
    except csv.Error as error:
        raise InputError(
            f"line {rows.line_num} of {path} is not CSV ({error}); wanted a header line, "
            "and quotes that are closed"
        ) from error
    finally:
        csv.field_size_limit(limit)


def content_sha256(files: Sequence[pathlib.Path], chosen: Mapping[str, Any]) -> str:
    """SHA-256 of the names and contents of files, and of the options that were chosen.

    Args:
      files: or folders of .txt files.
      chosen: what else decides which texts they give; of JSON.

    Raises:
      InputError: a file cannot be read.
    """
    digest = hashlib.sha256(json.dumps(chosen, sort_keys=True).encode())
    for name, path in _members(files):
        try:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from error
        digest.update(f"\n{name}\0{content}".encode())
    return digest.hexdigest()


def _members(files: Sequence[pathlib.Path]) -> Iterator[tuple[str, pathlib.Path]]:
    """Names and paths of files, and of those in folders and below."""
    for path in files:
        for member in find_files(path, ".txt") if path.is_dir() else [path]:
            yield member.relative_to(path.parent).as_posix(), member


def text_field(row: Mapping[str, Any], field: str, place: str) -> str:
    """The text in `field` of a row that was read at `place`.

    Raises:
      InputError: there is none, or it is not text.
    """
    if not isinstance(row.get(field), str):
        what = "has no field" if field not in row else "has no text in field"
        names = ", ".join(repr(name) for name in row if name is not None)
        raise InputError(
            f"{place} {what} {field!r}; its fields are {names or 'none'}: name one of "
            "them that is text"
        )
    # JSON can spell one half of a surrogate pair, which is no character.
    return row[field].encode("utf-8", "replace").decode()
