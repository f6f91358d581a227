"""Which runs are of the same texts, and what their texts are called in a report."""

import collections
import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

DIGITS = 6  # of a SHA-256, where nothing else tells two corpora apart
RANDOM = ("random_words", "uniform", "uniform_tokens")  # sources that no LM can predict


class Corpus(NamedTuple):
    """The texts of a run.

    Attributes:
      name: what its config calls them, or the last part of where they are; "" where the
        config says nothing.
      place: where they are.
      content: SHA-256 of what is there; "" for a run of before it was recorded.
    """

    name: str
    place: str
    content: str


def corpus_of(about: Mapping[str, Any]) -> Corpus:
    """The corpus that config.json names."""
    config, texts = about["config"], about.get("texts")
    where = config.get("texts") or ""
    if isinstance(where, Mapping):
        where = where.get("source") or ""
    name = config.get("source") or where
    content = texts.get("sha256") if isinstance(texts, Mapping) else None
    return Corpus(last_part(name), str(where).rstrip("/"), str(content or ""))


def last_part(source: Any) -> str:
    """The last part of a path."""
    return os.path.basename(str(source).rstrip("/"))


def labels(corpora: Iterable[Corpus]) -> dict[Corpus, str]:
    """Names that tell corpora apart: "valid", or "a/valid" and "b/valid" of two."""
    by_name: dict[str, list[Corpus]] = collections.defaultdict(list)
    for corpus in sorted(set(corpora)):
        by_name[corpus.name].append(corpus)
    return {c: label for same in by_name.values() for c, label in _told_apart(same)}


def is_random(label: str) -> bool:
    """Whether the texts of this label are drawn, not written."""
    return label.partition(" [")[0] in RANDOM


def _told_apart(same: list[Corpus]) -> Iterable[tuple[Corpus, str]]:
    """Corpora of one name with their labels."""
    contents = collections.defaultdict(set)
    for corpus in same:
        contents[corpus.place].add(corpus.content)

    def identity(corpus: Corpus) -> str:
        # A run that does not say is of what another run found in the same place.
        known = contents[corpus.place] - {""}
        return corpus.content or (min(known) if len(known) == 1 else corpus.place)

    first = {identity(c): c for c in reversed(same)}
    name = same[0].name
    if len(first) == 1:
        return [(c, name) for c in same]
    marks = _endings([c.place for c in first.values()]) or [key[:DIGITS] for key in first]
    paths = all(last_part(mark) == name for mark in marks)
    named = {
        key: mark if paths else f"{name} [{mark}]"
        for key, mark in zip(first, marks, strict=True)
    }
    return [(c, named[identity(c)]) for c in same]


def _endings(places: list[str]) -> list[str]:
    """The shortest endings of paths that all differ; nothing where some are equal."""
    parts = [place.split("/") for place in places]
    for n in range(1, max(map(len, parts)) + 1):
        endings = ["/".join(part[-n:]) for part in parts]
        if len(set(endings)) == len(endings):
            return endings
    return []
