"""BLEU and ROUGE against their definitions, written out."""

import collections
import importlib
import itertools
import math

import numpy as np
import pytest

from memcomp.errors import InputError
from memcomp.metrics import overlap

PAIRS = [
    ("the cat sat on the mat", "the cat sat on the red mat today"),
    ("the the the the the cat", "the cat is here and there it sat"),
    ("a b c d e f g", "a b c d e f g"),
    ("well the cat sat on a mat there", "the cat sat on the mat"),
]
OUTPUTS, REFERENCES = zip(*PAIRS, strict=True)


def ngrams(text, n):
    words = text.split()
    return collections.Counter(zip(*(words[i:] for i in range(n)), strict=False))


def bleu_by_definition(pairs):
    precisions = []
    for n in range(1, 5):
        hits = sum((ngrams(a, n) & ngrams(b, n)).total() for a, b in pairs)
        precisions.append(hits / sum(ngrams(a, n).total() for a, _ in pairs))
    output, reference = (
        sum(len(t.split()) for t in side) for side in zip(*pairs, strict=True)
    )
    brevity = min(1.0, math.exp(1 - reference / output))
    return brevity * math.prod(precisions) ** 0.25


def longest_common_subsequence(a, b):
    a, b = a.split(), b.split()
    common = (
        size
        for size in range(len(a), 0, -1)
        for chosen in itertools.combinations(a, size)
        for left in [iter(b)]
        if all(word in left for word in chosen)
    )
    return next(common, 0)


def test_corpus_bleu_is_its_definition():
    got = overlap.corpus_bleu(OUTPUTS, REFERENCES, words="none")
    # Over the four pairs no count is 0, so that nothing is smoothed; measured 1e-16.
    assert got == pytest.approx(bleu_by_definition(PAIRS), abs=1e-12)
    assert 0.3 < got < 0.7


def test_bleu_of_each_text_is_that_of_a_corpus_of_one():
    got = overlap.text_bleu(OUTPUTS, REFERENCES, words="none")
    assert got.shape == (4,)
    for i in (0, 2, 3):
        assert got[i] == pytest.approx(bleu_by_definition(PAIRS[i : i + 1]), abs=1e-12)
    # No three words in a row are shared: those counts are smoothed, and not 0.
    assert 0 < got[1] < 0.3


def test_equal_texts_have_bleu_1_and_others_0():
    short = ["yes", "not so", "It is, at 3.5 %, (low)."]
    np.testing.assert_allclose(overlap.text_bleu(short, short), 1)
    np.testing.assert_array_equal(overlap.text_bleu(["", "x"], ["yes", "no"]), 0)
    assert overlap.corpus_bleu(["", ""], ["yes", "no"]) == 0


def test_punctuation_is_a_word_by_13a_alone():
    pair = ["the cat sat down ."], ["the cat sat down."]
    assert overlap.corpus_bleu(*pair) == pytest.approx(1)
    assert overlap.corpus_bleu(*pair, words="none") < 0.9
    signatures = overlap.bleu_signatures()
    for name, effective in (("text_bleu", "eff:yes"), ("corpus_bleu", "eff:no")):
        assert {"tok:13a", effective} <= set(signatures[name].split("|"))


def test_ids_are_words_of_their_own():
    one, other = overlap.words_of_ids([1, 23, 4, 5]), overlap.words_of_ids([12, 3, 4, 5])
    assert overlap.corpus_bleu([one], [one], words="none") == pytest.approx(1)
    assert overlap.text_bleu([one], [other], words="none")[0] < 0.6


def test_rouge_is_its_definition():
    got = overlap.rouge(OUTPUTS, REFERENCES)
    assert list(got) == ["rouge_1", "rouge_2", "rouge_l"]
    for i, (output, reference) in enumerate(PAIRS):
        common = longest_common_subsequence(output, reference)
        want = {"rouge_l": (common, len(output.split()), len(reference.split()))}
        for n in (1, 2):
            a, b = ngrams(output, n), ngrams(reference, n)
            want[f"rouge_{n}"] = ((a & b).total(), a.total(), b.total())
        for name, (hits, of_output, of_reference) in want.items():
            score = [float(part[i]) for part in got[name]]
            f1 = 2 * hits / (of_output + of_reference)
            np.testing.assert_allclose(score, [hits / of_output, hits / of_reference, f1])


def test_rouge_of_nothing_is_0_and_words_are_not_stemmed():
    for output, reference in (("", "a b"), ("\u732b", "\u732b")):
        for score in overlap.rouge([output], [reference]).values():
            assert [float(part[0]) for part in score] == [0, 0, 0]
    assert overlap.rouge(["running cats"], ["Run, cat!"])["rouge_1"].f1[0] == 0


@pytest.mark.parametrize("measure", [overlap.corpus_bleu, overlap.text_bleu, overlap.rouge])
def test_what_is_missing_is_said(measure, monkeypatch):
    for outputs, references in ((["a"], ["a", "b"]), ([], [])):
        with pytest.raises(InputError, match=f"{len(outputs)} outputs for"):
            measure(outputs, references)

    def refuse(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(InputError, match=r"pip install 'memcomp\[compress\]'"):
        measure(["a"], ["a"])
