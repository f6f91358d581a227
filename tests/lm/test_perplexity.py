import dataclasses
import math

import numpy as np
import pytest

from memcomp.errors import InputError
from memcomp.lm.load import load_lm
from memcomp.lm.perplexity import bits_per_byte

TEXTS = ["It was a fine day — and the men\nwalked on to the sea.", "No! said she."]


@pytest.fixture(scope="module")
def lm():
    return load_lm("builtin")


def by_hand(lm, ids):
    """Sum of nats of ids[1:], all in one window."""
    padded = np.zeros((1, 32), np.int32)  # one shape, one program
    padded[0, : len(ids)] = ids
    logits = np.asarray(lm.logits(padded), np.float64)[0, : len(ids) - 1]
    targets = logits[np.arange(len(ids) - 1), ids[1:]]
    return float(np.log(np.exp(logits).sum(axis=-1)).sum() - targets.sum())


def test_every_token_is_scored_once_after_bos(lm):
    nats = tokens = 0
    for text in TEXTS:
        ids = [0, *lm.tokenizer(text)["input_ids"]]
        nats, tokens = nats + by_hand(lm, ids), tokens + len(ids) - 1
    num_bytes = sum(len(text.encode()) for text in TEXTS)
    assert num_bytes > sum(map(len, TEXTS))  # the dash has three bytes
    got = bits_per_byte(lm, TEXTS, window=64)
    assert (got.num_tokens, got.num_bytes) == (tokens, num_bytes)
    assert got.nats_per_token == pytest.approx(nats / tokens, rel=1e-5)
    assert got.bits_per_byte == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-5)


def test_a_window_begins_with_the_last_token_of_the_one_before(lm):
    ids = [0, *lm.tokenizer(TEXTS[0])["input_ids"]]
    nats = sum(by_hand(lm, ids[i : i + 6]) for i in range(0, len(ids) - 1, 5))
    got = bits_per_byte(lm, TEXTS[:1], window=5)
    assert got.num_tokens == len(ids) - 1
    assert got.nats_per_token == pytest.approx(nats / got.num_tokens, rel=1e-5)


def test_neither_batching_nor_order_changes_the_score(lm):
    one = bits_per_byte(lm, TEXTS, window=5, batch_size=1)
    many = bits_per_byte(lm, TEXTS[::-1], window=5)
    assert one.nats_per_token == pytest.approx(many.nats_per_token, rel=1e-5)


def test_only_the_beginning_of_a_text_is_scored(lm):
    got = bits_per_byte(lm, ["Hello there. " * 100], max_chars=5, window=5)
    assert got.num_bytes == 5


def test_what_cannot_be_scored_is_refused(lm):
    with pytest.raises(InputError, match="no text to score"):
        bits_per_byte(lm, [])
    with pytest.raises(InputError, match="window is 513"):
        bits_per_byte(lm, TEXTS, window=513)
    with pytest.raises(InputError, match="no tokenizer.json"):
        bits_per_byte(dataclasses.replace(lm, tokenizer=None), TEXTS)
