"""The Huffman code: hand-counted, optimal, and read back."""

import collections
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memcomp.errors import InputError
from memcomp.metrics.huffman import HuffmanCode


def test_a_code_counted_by_hand():
    """Weights 5 2 1 1: e, then t, then s and x; canonical words in that order."""
    code = HuffmanCode.from_counts({"e": 5, "t": 2, "x": 1, "s": 1})
    assert code.words() == {"e": "0", "t": "10", "s": "110", "x": "111"}
    assert code.encode("exte") == bytes([0b0_111_10_0_1])
    assert code.encode("stest") == bytes([0b110_10_0_11, 0b0_10_1_0000])
    assert code.table_bits() == 4 * 27


def test_a_character_that_is_alone_has_a_bit():
    code = HuffmanCode.from_counts({"a": 9})
    assert code.encode("aaaaaaa") == bytes([0b0000000_1])
    assert code.decode(code.encode("aaa")) == "aaa"


@settings(max_examples=100, deadline=None)
@given(st.text(min_size=1), st.lists(st.integers(0, 10**6)))
def test_any_text_comes_back_and_no_prefix_code_is_shorter(text, picked):
    counts = collections.Counter(text)
    code = HuffmanCode.from_counts(counts)
    other = "".join(text[i % len(text)] for i in picked)
    for one in (text, other, ""):
        assert code.decode(code.encode(one)) == one
    # Kraft's equality, and Shannon's bounds on the mean length.
    kraft = sum(2.0**-n for n in code.lengths.values())
    assert kraft == (1 if len(counts) > 1 else 0.5)
    mean = sum(counts[c] * n for c, n in code.lengths.items()) / len(text)
    shares = [n / len(text) for n in counts.values()]
    entropy = -sum(p * math.log2(p) for p in shares)
    assert entropy - 1e-9 <= mean <= entropy + 1


def test_what_the_code_does_not_know_is_refused():
    code = HuffmanCode.from_counts({"e": 5, "t": 2, "x": 1})
    with pytest.raises(InputError, match="no words for"):
        code.encode("tea")
    for damaged in (b"", b"\x00\x00", bytes([0b0_1_1_00000])):
        with pytest.raises(InputError, match="damaged"):
            code.decode(damaged)
    with pytest.raises(InputError, match="no characters"):
        HuffmanCode.from_counts({})
