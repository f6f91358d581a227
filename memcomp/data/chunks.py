"""Passages of books, 12,000 to 25,000 words each, cut at sentences and then in half.

Source: Kuratov et al. 2025, arXiv:2502.13063, preprocess_pg19 and train.py. The authors do
not set a seed, and split sentences by nltk's punkt, whose model has to be downloaded.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from memcomp.errors import InputError

NUM_CHUNKS = 1000
WORDS = (12_000, 25_000)  # a chunk has more words than the first, fewer than the second
MIN_SENTENCES = 10

_STOP = re.compile(r"([.!?])[\"'”’)\]*_]*$")
_INITIALS = re.compile(r"\W*(?!I\.)(?:[^\W\d_]\.)+$")
_LAST_LETTERS = re.compile(r"([^\W\d_]+)\.$")
_ABBREVIATIONS = frozenset(
    "capt cf co col dr esq gen gov hon jr lieut lt maj messrs mlle mme mr mrs ms mt mons "
    "prof rev sergt sgt sr st viz vol vs".split()
)


class Chunk(NamedTuple):
    """Passage of a book: `text` is the half to compress, `context` the half before it."""

    book: str
    context: str
    text: str


def sentences(text: str) -> list[str]:
    """Splits a text into sentences and collapses its whitespace.

    A sentence ends after a word that ends in . ! or ?, with or without closing quotes. A
    full stop does not end a sentence if the next word begins with a lower-case letter, or
    after an initial ("J.", "i.e.") or a listed abbreviation such as "Mr." The rule looks at
    two words only, so that sentences joined by spaces are split in the same places again.

    punkt instead learns from a corpus which words are abbreviations and which begin
    sentences. Over 99% of the ends are the same, measured on four novels of ELTeC-eng with
    punkt trained on three others and given our abbreviations.
    """
    words = text.split()
    found, start = [], 0
    for end, (word, following) in enumerate(itertools.pairwise(words), start=1):
        if _ends(word, following):
            found.append(" ".join(words[start:end]))
            start = end
    return found + [" ".join(words[start:])] if words else []


def _ends(word: str, following: str) -> bool:
    stop = _STOP.search(word)
    if stop is None or stop[1] != ".":
        return stop is not None
    letters = _LAST_LETTERS.search(word)
    abbreviated = letters is not None and letters[1].lower() in _ABBREVIATIONS
    first = next((c for c in following if c.isalnum()), "A")
    return not (first.islower() or abbreviated or _INITIALS.match(word))


def halves(text: str) -> tuple[str, str]:
    """Splits a text into two halves with equally many sentences.

    The paper compresses the second half, which has one more if their number is odd.
    """
    found = sentences(text)
    middle = len(found) // 2
    return " ".join(found[:middle]), " ".join(found[middle:])


def draw_chunks(books: Iterable[tuple[str, str]], *, seed: int) -> Iterator[Chunk]:
    """Draws `NUM_CHUNKS` chunks, each from a book drawn uniformly, with replacement.

    Chunk i is drawn by `default_rng([seed, i])`, so that it does not depend on how many
    chunks are taken. Books that are too short for a chunk are not drawn.

    Args:
      books: name and text of each book.
      seed: seed of all draws, at least 0.

    Raises:
      InputError: no book is long enough.
    """
    spans = [s for name, text in books if (s := _Spans(name, sentences(text))).any]
    if not spans:
        raise InputError(
            f"no book has a passage of more than {WORDS[0]} and fewer than {WORDS[1]} "
            "words; give longer books"
        )
    for i in range(NUM_CHUNKS):
        rng = np.random.default_rng([seed, i])
        yield spans[rng.integers(len(spans))].draw(rng)


class _Spans:
    """Possible chunks of a book, from which `draw` draws one.

    The paper draws the first sentence uniformly from 0..S - 10 and the end uniformly from
    first + 10..S until the number of words in between is in range. This draws from the same
    distribution at once: the probability of a first sentence is proportional to its share
    of ends in range.
    """

    def __init__(self, name: str, found: Sequence[str]):
        self._name, self._sentences = name, found
        counts = [len(sentence.split()) for sentence in found]
        self._first_end, self._num_ends, chance = ends(np.array(counts, np.int64))
        self._cumulative = np.cumsum(chance)
        self.any = bool(np.any(self._num_ends))

    def draw(self, rng: np.random.Generator) -> Chunk:
        below = rng.random() * self._cumulative[-1]
        start = int(np.searchsorted(self._cumulative, below, side="right"))
        end = self._first_end[start] + rng.integers(self._num_ends[start])
        middle = start + (end - start) // 2
        return Chunk(
            self._name,
            " ".join(self._sentences[start:middle]),
            " ".join(self._sentences[middle:end]),
        )


def ends(
    counts: Int[np.ndarray, " S"],
) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """Possible ends of chunks that start at sentence 0, 1, ... N - 1 = S - MIN_SENTENCES.

    Args:
      counts: number of words of each sentence.

    Returns:
      For each start: the first end, the number of consecutive ends, and their share of all
      ends from which the paper draws.
    """
    total = np.concatenate([[0], np.cumsum(counts)])
    starts = np.arange(max(len(counts) - MIN_SENTENCES + 1, 0))
    first = np.searchsorted(total, total[starts] + WORDS[0], side="right")
    first = np.maximum(first, starts + MIN_SENTENCES)
    last = np.searchsorted(total, total[starts] + WORDS[1], side="left") - 1
    number = np.maximum(last - first + 1, 0)
    return first, number, number / (len(counts) - starts - MIN_SENTENCES + 1)
