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
    """Text and where it was found.

    Attributes:
      source: source of the text, for the record.
      place: file and line, for messages.
      text: text to compress, a string or token ids.
      context: text that comes before it in its book; "" if that is unknown.
    """

    source: str
    place: str
    text: str | np.ndarray
    context: str = ""


def lines(path: pathlib.Path, *, blank: bool = False) -> Iterator[tuple[int, str]]:
    """Yields numbered lines of a file; blank lines only if `blank` is set.

    Raises:
      InputError: the file is not there, cannot be read, or is not UTF-8.
    """
    try:
        # utf-8-sig removes a byte order mark. surrogateescape tells the line of a wrong
        # byte, although decoding runs ahead of the lines.
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
    """Reads a whole file; raises as `lines`."""
    return "".join(line for _, line in lines(path, blank=True))


def read_stdin(files: Sequence[pathlib.Path]) -> Iterator[Found]:
    """Reads standard input, one text per line."""
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
    """Reads the .txt files at and below a folder, sorted by path, each file as one text.

    Links to folders and files are followed.
    """
    (folder,) = files
    found = find_files(folder, ".txt")
    if not found:
        raise InputError(f"folder {folder} has no .txt files; give one that has")
    names = {path.relative_to(folder).as_posix(): path for path in found}
    for name in sorted(names):
        yield Found(name, str(names[name]), whole(names[name]))


def read_txt(files: Sequence[pathlib.Path]) -> Iterator[Found]:
    """Reads a file as one text."""
    (path,) = files
    yield Found(path.name, str(path), whole(path))


def read_jsonl(files: Sequence[pathlib.Path], *, field: str) -> Iterator[Found]:
    """Reads one text per line, from `field` of a JSON object."""
    (path,) = files
    for place, row in json_rows(path):
        yield Found(path.name, place, text_field(row, field, place))


def json_rows(path: pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the JSON objects in the lines of a file, each with its place for messages.

    Raises:
      InputError: a line is not one JSON object, or the file cannot be read.
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
    """Parses a line of JSON; also returns a field that its object has twice, or None."""
    again = None

    def as_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal again  # inner objects come first, so that the outer one sets it last
        again = _repeated([name for name, _ in pairs])
        return dict(pairs)

    return json.loads(line, object_pairs_hook=as_dict), again


def _repeated(names: Sequence[str]) -> str | None:
    """Returns the first name that occurs a second time; None if all differ."""
    return next((name for i, name in enumerate(names) if name in names[:i]), None)


def read_csv(files: Sequence[pathlib.Path], *, field: str) -> Iterator[Found]:
    """Reads one text per CSV row, from the column `field` of the header line."""
    (path,) = files
    # Chunks of PG-19 exceed the default limit of 131,072 characters in a field.
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
      files: files, or folders of .txt files.
      chosen: options that determine which texts the files give, as JSON values.

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
    """Yields names and paths of files, and of those at and below folders."""
    for path in files:
        for member in find_files(path, ".txt") if path.is_dir() else [path]:
            yield member.relative_to(path.parent).as_posix(), member


def text_field(row: Mapping[str, Any], field: str, place: str) -> str:
    """Returns the text in `field` of a row that was read at `place`.

    Raises:
      InputError: the field is missing or not text.
    """
    if not isinstance(row.get(field), str):
        what = "has no field" if field not in row else "has no text in field"
        names = ", ".join(repr(name) for name in row if name is not None)
        raise InputError(
            f"{place} {what} {field!r}; its fields are {names or 'none'}: name one of "
            "them that is text"
        )
    # JSON can contain one half of a surrogate pair, which is no character.
    return row[field].encode("utf-8", "replace").decode()
