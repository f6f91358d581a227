import itertools

import numpy as np
import pytest

from memcomp.data import chunks
from memcomp.data.chunks import draw_chunks, ends, halves, sentences
from memcomp.errors import InputError


@pytest.fixture
def published():
    """Chunks of the paper's size."""


@pytest.fixture(autouse=True)
def small(monkeypatch, request):
    """Chunks of 51 to 99 words."""
    if "published" in request.fixturenames:
        return
    monkeypatch.setattr(chunks, "WORDS", (50, 100))
    monkeypatch.setattr(chunks, "NUM_CHUNKS", 20)


def book(num_sentences, seed=0):
    """Sentences of 2 to 9 words, each of them another one."""
    lengths = np.random.default_rng(seed).integers(2, 10, size=num_sentences)
    return " ".join(f"B{seed}s{i}" + " word" * (n - 1) + "." for i, n in enumerate(lengths))


@pytest.mark.parametrize(
    "text",
    [
        "He ran. | She did not!",
        '"Stop!" | he cried. | "No," said I. | "You may not."',
        "Mr. Gray met Mrs. White and\u2014Dr. Black, at St. Paul's. | He bowed.",
        "J. S. Mill wrote, i.e. he published. | A. was silent.",
        "It was I. | You saw (me.) | 'Twas late.",
        "He waited... and waited... | Nothing came.",
        "It is 3.5 miles. | 12 of them walked?! | yes",
        "No end",
        "",
    ],
)
def test_sentences_end_where_a_reader_would_say(text):
    want = [part for part in text.split(" | ") if part]
    assert sentences(text.replace(" | ", " ")) == want


def test_a_run_of_sentences_has_the_same_sentences_again():
    rng = np.random.default_rng(0)
    pieces = ["a", "B", "Mr.", "c.", "D.", '"E!"', "f?", "(G.)", "I.", "\u2014h", "7.", "."]
    for _ in range(200):
        text = " ".join(rng.choice(pieces, size=40))
        found = sentences(text)
        assert " ".join(found) == text
        start, end = sorted(rng.integers(len(found) + 1, size=2))
        assert sentences(" ".join(found[start:end])) == found[start:end]


def test_the_second_half_has_the_sentence_in_the_middle():
    assert halves("A bb. C dd. E ff.") == ("A bb.", "C dd. E ff.")
    assert halves("A bb. C dd.") == ("A bb.", "C dd.")
    assert halves("A bb.") == ("", "A bb.")


@pytest.mark.parametrize("num_sentences", [0, 9, 10, 11, 30, 60])
def test_ends_are_those_that_trying_all_finds(num_sentences):
    counts = np.random.default_rng(num_sentences).integers(1, 9, size=num_sentences)
    first, number, share = ends(counts)
    got = [
        (start, first[start] + k)
        for start in range(len(first))
        for k in range(number[start])
    ]
    pairs = itertools.product(range(num_sentences), range(num_sentences + 1))
    want = [
        (start, end)
        for start, end in pairs
        if end - start >= 10 and 50 < counts[start:end].sum() < 100
    ]
    assert got == want
    for start in range(len(first)):
        tried = num_sentences + 1 - (start + 10)  # ends that the paper draws from
        assert share[start] == number[start] / tried


@pytest.mark.ci
def test_chunks_are_drawn_as_by_drawing_until_one_is_right():
    text = book(24)
    counts = np.array([len(s.split()) for s in sentences(text)])
    rng, want = np.random.default_rng(1), np.zeros((24, 25))
    starts = rng.integers(0, 24 - 10 + 1, size=60_000)
    for start, end in zip(starts, rng.integers(starts + 10, 24 + 1), strict=True):
        want[start, end] += 50 < counts[start:end].sum() < 100
    got = np.zeros_like(want)
    for seed in range(300):
        for chunk in draw_chunks([("a", text)], seed=seed):
            found = sentences(f"{chunk.context} {chunk.text}")
            start = int(found[0].split()[0].split("s")[1].rstrip("."))
            got[start, start + len(found)] += 1
    got, want = got / got.sum(), want / want.sum()
    assert (got > 0).sum() > 50
    # 6,000 draws: a share of 0.01 has a standard error of 0.0013; measured 0.0032.
    np.testing.assert_allclose(got, want, atol=0.008)


def test_a_chunk_is_two_halves_of_one_run_of_its_book():
    books = {"a": book(60, 1), "b": book(80, 2), "short": book(11, 3)}
    drawn = list(draw_chunks(books.items(), seed=0))
    assert len(drawn) == 20 and {c.book for c in drawn} == {"a", "b"}
    for chunk in drawn:
        whole = f"{chunk.context} {chunk.text}"
        assert whole in books[chunk.book]
        assert 50 < len(whole.split()) < 100 and len(sentences(whole)) >= 10
        assert halves(whole) == (chunk.context, chunk.text)


def test_the_seed_and_nothing_else_says_which_chunks_are_drawn():
    books = [("a", book(60, 1)), ("b", book(80, 2))]
    one = list(draw_chunks(books, seed=0))
    assert one == list(draw_chunks(books, seed=0))
    assert one != list(draw_chunks(books, seed=1))
    assert list(itertools.islice(draw_chunks(books, seed=0), 3)) == one[:3]


def test_books_that_are_all_too_short_are_refused():
    with pytest.raises(InputError, match="more than 50 and fewer than 100 words"):
        next(draw_chunks([("a", book(5))], seed=0))


def test_the_paper_s_chunks_are_1000_of_12_to_25_thousand_words(published):
    counts = [
        len(f"{chunk.context} {chunk.text}".split())
        for chunk in draw_chunks([("a", book(5_000)), ("b", book(2_000))], seed=0)
    ]
    assert len(counts) == 1000
    assert 12_000 < min(counts) < 12_100 and 24_900 < max(counts) < 25_000
