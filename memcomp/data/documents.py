"""Training documents in JSON lines, read one by one."""

import collections
import hashlib
import pathlib
from collections.abc import Iterator, Sequence

from memcomp.data.files import json_rows, text_field
from memcomp.disk import find_files, local_path
from memcomp.errors import InputError


def find_documents(source: str) -> list[pathlib.Path]:
    """Returns the file itself, or the .jsonl files at and below a folder, sorted by path.

    Raises:
      InputError: there is no such file.
    """
    path = local_path(source)
    if not source:  # an empty path would be the current folder
        raise InputError("there is no name of documents; give a .jsonl file, or a folder")
    found = find_files(path, ".jsonl") if path.is_dir() else [path]
    if not all(file.is_file() for file in found) or not found:
        raise InputError(
            f"no documents at {source!r}; give a .jsonl file, or a folder that has some"
        )
    return found


def read_documents(
    files: Sequence[pathlib.Path], field: str, counts: collections.Counter[str]
) -> Iterator[str]:
    """Reads the documents of all files, without exact duplicates.

    Memory holds a hash of 16 bytes for each document, plus Python's overhead. Among 2^64
    different documents, about one pair is expected to have the same hash.

    Args:
      files: files of JSON lines.
      field: field of each object that has the text.
      counts: counter that is updated with the documents "read", those "kept", and those
        left out because they are "empty" or a "duplicate".

    Raises:
      InputError: a line, named by its number, is not JSON or lacks the field.
    """
    seen: set[bytes] = set()
    for path in files:
        for place, row in json_rows(path):
            text = text_field(row, field, place)
            counts["read"] += 1
            key = hashlib.blake2b(text.encode(), digest_size=16).digest()
            if not text.strip():
                counts["empty"] += 1
            elif key in seen:
                counts["duplicate"] += 1
            else:
                seen.add(key)
                counts["kept"] += 1
                yield text
