"""Finds which runs have the same texts, and names the texts in a report."""

import collections
import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

DIGITS = 6  # of a SHA-256, if nothing else distinguishes two corpora
RANDOM = ("random_words", "uniform", "uniform_tokens")  # sources that no LM can predict


class Corpus(NamedTuple):
    """The texts of a run.

    Attributes:
      name: name of the texts in the config, or the last part of their path; "" if the
        config has neither.
      place: path of the texts.
      content: SHA-256 of the texts; "" for a run without texts.
    """

    name: str
    place: str
    content: str


def corpus_of(about: Mapping[str, Any]) -> Corpus:
    """Returns the corpus that config.json names."""
    config, texts = about["config"], about.get("texts") or {}
    where = config.get("texts") or ""
    if isinstance(where, Mapping):
        where = where.get("source") or ""
    name = config.get("source") or where
    return Corpus(last_part(name), str(where).rstrip("/"), texts.get("sha256", ""))


def last_part(source: Any) -> str:
    """Last part of a path."""
    return os.path.basename(str(source).rstrip("/"))


def labels(corpora: Iterable[Corpus]) -> dict[Corpus, str]:
    """Gives each corpus a distinct label: "valid", or "a/valid" and "b/valid" for two."""
    by_name: dict[str, list[Corpus]] = collections.defaultdict(list)
    for corpus in sorted(set(corpora)):
        by_name[corpus.name].append(corpus)
    return {c: label for same in by_name.values() for c, label in _told_apart(same)}


def is_random(label: str) -> bool:
    """Whether the texts of this label are drawn at random."""
    return label.partition(" [")[0] in RANDOM


def _told_apart(same: list[Corpus]) -> Iterable[tuple[Corpus, str]]:
    """Returns labels of corpora that have the same name."""
    first = {c.content: c for c in reversed(same)}
    name = same[0].name
    if len(first) == 1:
        return [(c, name) for c in same]
    marks = _endings([c.place for c in first.values()]) or [key[:DIGITS] for key in first]
    paths = all(last_part(mark) == name for mark in marks)
    named = {
        key: mark if paths else f"{name} [{mark}]"
        for key, mark in zip(first, marks, strict=True)
    }
    return [(c, named[c.content]) for c in same]


def _endings(places: list[str]) -> list[str]:
    """Shortest endings of the paths that all differ; empty if some paths are equal."""
    parts = [place.split("/") for place in places]
    for n in range(1, max(map(len, parts)) + 1):
        endings = ["/".join(part[-n:]) for part in parts]
        if len(set(endings)) == len(endings):
            return endings
    return []
