"""Texts to train on: Python's own help, folders of text, or documents in JSON lines."""

import functools
import hashlib
import json
import pydoc_data.topics
from collections.abc import Iterator
from typing import Any

from memcomp.data.documents import find_documents
from memcomp.data.files import content_sha256
from memcomp.data.texts import read_texts, source_sha256
from memcomp.disk import find_files, local_path
from memcomp.distributed import say
from memcomp.errors import InputError

PYTHON = ("python/train", "python/valid")


def whole_texts(source: str) -> list[str]:
    """Whole texts of "python/train", "python/valid", or any source of `read_texts`.

    The first two are the topics of Python's own help(), one in ten of them for valid.
    """
    if source not in PYTHON:
        return [str(text) for _, text in read_texts(source)]
    topics = [text for _, text in sorted(pydoc_data.topics.topics.items())]
    held_out = source == "python/valid"
    chosen = [text for i, text in enumerate(topics) if (i % 10 == 9) == held_out]
    return [" ".join(text.split()) for text in chosen]


def whole_texts_sha256(source: str | None, field: str = "text") -> str | None:
    """SHA-256 of what a source of `whole_texts` holds; None for no source."""
    if not source:
        return None
    if source in PYTHON:
        texts = json.dumps(whole_texts(source)).encode()
        return hashlib.sha256(texts).hexdigest()
    return source_sha256(source, (), field=field)


def document_texts(source: str, field: str) -> Iterator[tuple[str]]:
    """Documents of .jsonl files, of which duplicates are left out; or `whole_texts`.

    Args:
      source: a .jsonl file, a folder that has some, or a source of `whole_texts`.
      field: of a .jsonl row, that has the text.

    Raises:
      InputError: there is none, or one cannot be read.
    """
    try:
        jsonl = find_documents(source)[0].suffix == ".jsonl"
    except InputError:
        jsonl = source.endswith(".jsonl")  # of which the error is then said
    if jsonl:
        yield from _documents(source, field).texts("text")
    else:
        yield from ((text,) for text in whole_texts(source) if text.strip())


@functools.cache  # so that its counts are printed once
def _documents(source: str, field: str) -> Any:
    from memcomp.data.corpora import prepare_documents  # late: TFDS takes seconds

    corpus = prepare_documents(source, field=field)
    say(f"{source}: {listed(corpus.counts)}")
    return corpus


def document_texts_sha256(source: str, field: str) -> str | None:
    """SHA-256 of what a source of `document_texts` holds; None for no source."""
    path = local_path(source)
    if source and path.is_dir() and (files := find_files(path, ".jsonl")):
        return content_sha256(files, {"field": field})
    return whole_texts_sha256(source, field)


def listed(counts: Any) -> str:
    """Numbers and what they count, in a line."""
    return ", ".join(f"{number:,} {reason}" for reason, number in counts.items())
