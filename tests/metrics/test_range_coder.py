"""What the range coder writes it reads, in no more bytes than the frequencies ask for."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memcomp.errors import InputError
from memcomp.metrics.range_coder import MAX_TOTAL, RangeDecoder, RangeEncoder


def encode(symbols, tables):
    """Bytes, and the bits that the frequencies ask for; a table a symbol."""
    encoder, bits = RangeEncoder(), 0.0
    for symbol, cumulative in zip(symbols, tables, strict=True):
        start = int(cumulative[symbol - 1]) if symbol else 0
        end, total = int(cumulative[symbol]), int(cumulative[-1])
        encoder.put(start, end, total)
        bits += math.log2(total / (end - start))
    return encoder.finish(), bits


def decode(data, tables):
    decoder = RangeDecoder(data)
    symbols = [decoder.get(cumulative) for cumulative in tables]
    decoder.finish()
    return symbols


def check(symbols, tables):
    data, bits = encode(symbols, tables)
    assert decode(data, tables) == list(symbols)
    # A byte names the interval. Shares cut short cost 3e-8 bits a symbol on average.
    assert 8 * len(data) <= bits + 8 + 1e-6 * len(symbols)
    return data


@st.composite
def messages(draw):
    """Symbols, each with a table of its own, up to totals of 2**32, zeros included."""
    tables, symbols = [], []
    for _ in range(draw(st.integers(0, 30))):
        size = draw(st.integers(1, 12))
        most = draw(st.sampled_from([1, 3, 2**16, MAX_TOTAL // size]))
        counts = draw(st.lists(st.integers(0, most), min_size=size, max_size=size))
        symbol = draw(st.integers(0, size - 1))
        counts[symbol] = max(counts[symbol], 1)
        symbols.append(symbol)
        tables.append(np.cumsum(counts))
    return symbols, tables


@settings(max_examples=100, deadline=None)
@given(messages())
def test_any_symbols_with_any_frequencies_come_back(message):
    check(*message)


@pytest.mark.parametrize("vocab_size", [2, 300, 256_000])
def test_long_messages_come_back(vocab_size):
    rng = np.random.default_rng(vocab_size)
    counts = 1 + (1000 / rng.random(vocab_size)).astype(np.int64)
    cumulative = np.cumsum(np.minimum(counts, 2**13))
    symbols = rng.integers(0, vocab_size, 3000).tolist()
    check(symbols, [cumulative] * len(symbols))


def test_carries_run_through_many_bytes():
    """Just below one half for long, then above it or not: 0x7FFF..., or 0x8000... ."""
    thirds, halves = np.array([1, 2, 3]), np.array([1, 2])
    for ending in ([0], [1], [1, 1], [0, 1]):
        symbols = [1] * 500 + ending
        tables = [thirds] * 500 + [halves] * len(ending)
        check(symbols, tables)
    written = {encode([1] * n + [1], [thirds] * n + [halves])[0][0] for n in (500, 501)}
    assert written <= {0x7F, 0x80}


def test_nothing_is_no_bytes_and_certainty_costs_none():
    assert encode([], [])[0] == b""
    certain = np.array([0, 7, 7])
    assert len(check([1] * 100, [certain] * 100)) <= 1


def test_one_of_two_for_eighty_symbols_is_ten_bytes():
    symbols = [int(b) for b in f"{0x0123456789ABCDEF0011:080b}"]
    data, bits = encode(symbols, [np.array([1, 2])] * 80)
    assert (bits, data) == (80, bytes.fromhex("0123456789ABCDEF0011"))


@pytest.mark.parametrize(
    "interval", [(0, 0, 5), (3, 2, 5), (-1, 2, 5), (2, 6, 5), (0, 1, MAX_TOTAL + 1)]
)
def test_what_is_no_interval_is_refused(interval):
    with pytest.raises(InputError, match="wanted 0 <= start < end"):
        RangeEncoder().put(*interval)


def test_a_stream_cut_short_or_continued_is_refused():
    tables = [np.arange(1, 258)] * 100
    data, _ = encode([200] * 100, tables)
    with pytest.raises(InputError, match="cut short"):
        decode(data[:-12], tables)
    with pytest.raises(InputError, match="damaged"):
        decode(data + b"xx", tables)


def test_a_point_beyond_all_symbols_is_refused():
    """Of 2**64 points three shares leave one: the last."""
    thirds = np.array([1, 2, 3])
    assert RangeDecoder(b"\xff" * 7 + b"\xfe").get(thirds) == 2
    with pytest.raises(InputError, match="stream is damaged"):
        RangeDecoder(b"\xff" * 8).get(thirds)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40), st.integers(1, 300))
def test_any_bytes_give_symbols_or_are_refused(data, size):
    tables = [np.arange(1, size + 1)] * 60
    try:
        symbols = decode(data, tables)
    except InputError:
        return
    assert len(symbols) == 60 and 0 <= min(symbols) <= max(symbols) < size
