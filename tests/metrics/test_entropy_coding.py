"""Texts to bytes with an LM's probabilities and back, in the bits of its surprise."""

import dataclasses
import functools
import math
import string
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_lm import make_tiny_lm

from memcomp.data.texts import read_texts
from memcomp.errors import InputError
from memcomp.lm.load import load_lm
from memcomp.metrics import entropy_coding
from memcomp.metrics.entropy_coding import (
    ROWS,
    decode,
    decode_texts,
    encode,
    encode_texts,
)

UNICODE = [
    "",
    " ",
    "a",
    "\x00\r\n\t\x7f",
    "naïve — “quoted” … ﬁ",
    "e\u0301 is not é",
    "שלום, عالم, 世界",
    "👩\u200d👩\u200d👧 🏴\U000e0067\U000e007f",
    "<|endoftext|> is a token, <|endoftext|>",
    "  spaces  before ,and after . ",
    "\ufeff\ufffd\uffff\U0010ffff",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
]


@functools.cache
def builtin_lm():
    return load_lm("builtin")


@functools.cache
def real_texts():
    return [text for _, text in read_texts("builtin")]


def thousand_texts(vocab_size):
    """Token ids: 500 random, 500 pieces of real text whose bytes are numbered anew."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 30, 1000)
    lengths[:3] = 63, 64, 65
    book = np.frombuffer(" ".join(real_texts()).encode(), np.uint8) % vocab_size
    starts = rng.integers(0, len(book) - 100, 1000)
    return [
        book[start : start + n].astype(np.int32) if i % 2 else rng.integers(0, 23, n)
        for i, (start, n) in enumerate(zip(starts, lengths, strict=True))
    ]


def assert_same(got, texts):
    assert len(got) == len(texts)
    for one, text in zip(got, texts, strict=True):
        np.testing.assert_array_equal(one, text)


@pytest.mark.ci
def test_a_thousand_texts_come_back(tiny_lm):
    texts = thousand_texts(23)
    coded = encode(tiny_lm, texts)
    assert_same(decode(tiny_lm, [c.data for c in coded]), texts)
    assert len({c.data for c in coded}) >= len({tuple(t.tolist()) for t in texts})


@pytest.mark.ci
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_texts_come_back_in_low_precision(dtype):
    texts = thousand_texts(23)[:ROWS]
    lm = make_tiny_lm(dtype)
    assert_same(decode(lm, [c.data for c in encode(lm, texts)]), texts)


def test_tokens_that_the_lm_rules_out_come_back(tiny_lm):
    """Probabilities of 0 cost what 24 bits say, not what the LM's surprise would."""
    head = 100 * tiny_lm.params["head"]
    lm = dataclasses.replace(tiny_lm, params=tiny_lm.params | {"head": head})
    texts = [np.random.default_rng(6).integers(0, 23, 60)]
    coded = encode(lm, texts)
    assert_same(decode(lm, [coded[0].data]), texts)
    assert 8 * len(coded[0].data) <= 24 * 60 + 24 < coded[0].cross_entropy_bits


def test_texts_longer_than_the_lm_come_back(tiny_lm):
    texts = [np.random.default_rng(n).integers(0, 23, n) for n in (64, 65, 128, 129, 150)]
    coded = encode(tiny_lm, texts)
    assert_same(decode(tiny_lm, [c.data for c in coded]), texts)


def test_a_stream_comes_back_alone_and_in_other_company(tiny_lm):
    texts = thousand_texts(23)[: 2 * ROWS + 3]
    streams = [c.data for c in encode(tiny_lm, texts)]
    assert_same(decode(tiny_lm, streams[::-1]), texts[::-1])
    assert_same(decode(tiny_lm, [streams[17]] * 3), [texts[17]] * 3)
    assert_same(decode(tiny_lm, []), [])


def longer(lm, max_positions=200):
    """The same LM with more positions."""
    config = dataclasses.replace(lm.config, max_positions=max_positions)
    return dataclasses.replace(lm, config=config, module=type(lm.module)(config))


def bits_by_hand(lm, ids, start):
    """-log2 p of all tokens in float64, a parallel pass a window; uniform without start."""
    window, bits = min(lm.config.max_positions, 200), 0.0
    for first in range(0, len(ids), window):
        before = ids[first - 1] if first else start
        read = [*([] if before is None else [before]), *ids[first : first + window - 1]]
        padded = np.zeros((1, window), np.int32)  # one shape, one program
        padded[0, : len(read)] = read
        logits = np.asarray(lm.logits(padded), np.float64)[0]
        targets = ids[first : first + window]
        if before is None:
            bits, targets = bits + math.log2(lm.config.vocab_size), targets[1:]
        logits = logits[: len(targets)]
        peak = logits.max(axis=-1)
        total = np.log(np.exp(logits - peak[:, None]).sum(axis=-1)) + peak
        nats = total - logits[np.arange(len(targets)), targets]
        bits += float(nats.sum()) / math.log(2)
    return bits


def assert_near_the_cross_entropy(coded, by_hand, rel):
    """Head and tail are 3 bytes at most, up to 1,023 tokens; unlikely tokens are capped."""
    assert coded.cross_entropy_bits == pytest.approx(by_hand, rel=rel)
    assert 8 * len(coded.data) <= by_hand * 1.001 + 24


@pytest.mark.ci
def test_bits_are_the_cross_entropy(tiny_lm):
    texts = [np.random.default_rng(n).integers(0, 23, n) for n in (1, 30, 64, 150, 600)]
    for coded, text in zip(encode(tiny_lm, texts), texts, strict=True):
        by_hand = bits_by_hand(tiny_lm, text, None)
        # Parallel and cached passes, measured: 5e-7.
        assert_near_the_cross_entropy(coded, by_hand, 3e-6)
        if len(text) == 600:
            assert 8 * len(coded.data) < 1.01 * by_hand


@pytest.mark.slow
def test_a_cache_that_grows_holds_what_was_read(tiny_lm):
    lm, text = longer(tiny_lm), np.random.default_rng(5).integers(0, 23, 230)
    coded = encode(lm, [text])[0]
    assert_near_the_cross_entropy(coded, bits_by_hand(lm, text, None), 3e-6)


@pytest.mark.parametrize("bos, eos, start", [(5, 7, 5), (None, 7, 7), (None, None, None)])
def test_the_first_token_follows_bos_or_eos(tiny_lm, bos, eos, start):
    tokenizer = types.SimpleNamespace(bos_token_id=bos, eos_token_id=eos)
    lm = dataclasses.replace(tiny_lm, tokenizer=tokenizer)
    coded = encode(lm, [np.array([3, 1])])[0]
    assert_near_the_cross_entropy(coded, bits_by_hand(lm, [3, 1], start), 3e-6)
    assert decode(lm, [coded.data])[0].tolist() == [3, 1]


@pytest.mark.ci
def test_bits_of_text_are_the_cross_entropy_after_the_start_token():
    lm, texts = builtin_lm(), [real_texts()[9], real_texts()[20][:60]]
    for coded, text in zip(encode_texts(lm, texts), texts, strict=True):
        ids = lm.tokenizer(text)["input_ids"]
        assert coded.num_tokens == len(ids) <= 64
        by_hand = bits_by_hand(lm, ids, lm.tokenizer.bos_token_id)
        assert_near_the_cross_entropy(coded, by_hand, 3e-6)


@pytest.mark.ci
def test_any_unicode_comes_back():
    lm = builtin_lm()
    data = [c.data for c in encode_texts(lm, UNICODE)]
    assert decode_texts(lm, data) == UNICODE


@pytest.mark.slow
def test_a_thousand_texts_come_back_from_the_built_in_lm():
    """Real passages, words of them in disorder, random characters and random tokens."""
    lm, rng = builtin_lm(), np.random.default_rng(0)
    words = " ".join(real_texts()).split()
    texts = real_texts() + UNICODE
    while len(texts) < 800:
        start, n = int(rng.integers(0, len(words) - 40)), int(rng.integers(1, 40))
        texts.append(" ".join(words[start : start + n]))
        texts.append(" ".join(rng.choice(words, n)))
        points = rng.integers(0, 0xD800, n)  # surrogates come after
        texts.append("".join(map(chr, points)))
        texts.append("".join(rng.choice(list(string.printable), n)))
    texts = texts[:800]
    coded = encode_texts(lm, texts)
    assert decode_texts(lm, [c.data for c in coded]) == texts
    tokens = [rng.integers(0, 4096, n) for n in rng.integers(0, 60, 200)]
    random = encode(lm, tokens)
    assert_same(decode(lm, [c.data for c in random]), tokens)
    bits = sum(8 * len(c.data) - 24 for c in coded)
    assert bits <= 1.01 * sum(c.cross_entropy_bits for c in coded)


@pytest.mark.parametrize("ids", [[23], [-1]])
def test_what_are_no_token_ids_is_refused(tiny_lm, ids):
    with pytest.raises(InputError, match="text 0 has"):
        encode(tiny_lm, [np.array(ids)])


def test_text_without_a_tokenizer_is_refused(tiny_lm):
    with pytest.raises(InputError, match="has no tokenizer"):
        encode_texts(tiny_lm, ["a"])


def coded_by_hand(symbols, tables):
    """Bytes of symbols, a row of log-probabilities each, that come back from them."""
    stream = entropy_coding.range_coder()
    models = [entropy_coding._model(stream, np.float32(table)) for table in tables]
    encoder = stream.queue.RangeEncoder()
    for symbol, model in zip(symbols, models, strict=True):
        encoder.encode(symbol, model)
    data = entropy_coding._to_bytes(encoder)
    decoder = entropy_coding._decoder(stream, data)
    assert [decoder.decode(model) for model in models] == symbols
    return data


@st.composite
def messages(draw):
    """Symbols, each with log-probabilities of its own, from sure to almost impossible."""
    tables, symbols = [], []
    for _ in range(draw(st.integers(0, 30))):
        size = draw(st.integers(2, 12))
        logits = draw(st.lists(st.integers(-200, 0), min_size=size, max_size=size))
        tables.append(np.array(logits) - np.log(np.exp(logits).sum()))
        symbols.append(draw(st.integers(0, size - 1)))
    return symbols, tables


@pytest.mark.ci
@settings(max_examples=100, deadline=None)
@given(messages())
def test_any_symbols_with_any_probabilities_come_back(message):
    symbols, tables = message
    data = coded_by_hand(symbols, tables)
    bits = [min(-table[s] / math.log(2), 24) for s, table in zip(*message, strict=True)]
    # A byte names the interval. Of 12 symbols none costs more than 1e-5 bits too much.
    assert 8 * len(data) <= sum(bits) + 8 + 1e-5 * len(symbols)


def test_carries_run_through_many_bytes():
    """Just below one half for long, then above it or not: 0x7FFF..., or 0x8000... ."""
    thirds, halves = np.log(np.full(3, 1 / 3)), np.log(np.full(2, 1 / 2))
    for ending in ([0], [1], [1, 1], [0, 1]):
        tables = [thirds] * 500 + [halves] * len(ending)
        coded_by_hand([1] * 500 + ending, tables)
    written = {coded_by_hand([1] * (n + 1), [thirds] * n + [halves])[0] for n in (500, 501)}
    assert written <= {0x7F, 0x80}


def test_nothing_is_no_bytes_and_one_of_two_for_eighty_symbols_is_ten():
    assert coded_by_hand([], []) == b""
    symbols = [int(b) for b in f"{0x0123456789ABCDEF0011:080b}"]
    assert len(coded_by_hand(symbols, [np.log([0.5, 0.5])] * 80)) == 10


def test_probabilities_cost_what_24_bits_say():
    """V / 2**24 / ln 2 bits a token, for any vocabulary and any probabilities."""
    for vocab_size in (50_000, 128_256, 262_144):
        rng = np.random.default_rng(vocab_size)
        logits = rng.standard_normal(vocab_size) * 4
        table = logits - logits.max()
        table -= np.log(np.exp(table).sum())
        symbols = rng.choice(vocab_size, 100, p=np.exp(table)).tolist()
        bits = -float(table[symbols].sum()) / math.log(2)
        most = bits + 8 + 1.01 * len(symbols) * vocab_size / 2**24 / math.log(2)
        assert 8 * len(coded_by_hand(symbols, [table] * 100)) <= most


@pytest.mark.ci
def test_each_step_is_of_one_program(tiny_lm):
    """Texts of all lengths share it, as long as the cache is; so do both directions."""
    lm = longer(tiny_lm, 201)
    before = entropy_coding._step._cache_size()
    texts = [np.arange(n) % 23 for n in (1, 7, 40, 64, 300)]
    assert_same(decode(lm, [c.data for c in encode(lm, texts)]), texts)
    assert entropy_coding._step._cache_size() == before + 3  # 64, 128 and 201
