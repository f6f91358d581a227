"""Figures of one text, against hand-counted cases."""

import hashlib
import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from memcomp.cram.result import CramResult
from memcomp.lm.score import Baseline, baselines
from memcomp.runs.records import record, thinned


def some_result(protocol="strict", **changes):
    fields = {
        "text_id": 7,
        "restart": 0,
        "seed_id": 7,
        "source": "a.txt",
        "tokens": np.array([3, 1, 4, 1], np.int32),
        "memory": np.zeros((2, 16), np.float32),
        "num_parameters": 32,
        "accuracy": 0.75,
        "prefix": 2,
        "loss_nats": 0.5,
        "min_loss_nats": 0.25,
        "margin": -0.1,
        "steps": 11,
        "token_steps": 44,
        "protocol": protocol,
        "num_given": int(protocol == "reference"),
        "way": "vectors",
        "lm_name": "tiny",
        "lm_fingerprint": "f",
        "seconds": 1.5,
        "loss_curve": np.linspace(3, 0.5, 11),
        "accuracy_curve": np.linspace(0, 0.75, 11),
        "first_right_steps": np.array([2, 7, -1, 0]),
    }
    return CramResult(**{**fields, **changes})


BASELINE = Baseline(2.0, 0.25, np.array([np.nan, 1.00004, 2.0, 3.0], np.float32))


def test_strict_sums_over_all_tokens_at_the_stored_vector(tiny_lm):
    decoded = np.array([3, 1, 4, 1]), np.array([3, 1, 0, 1])
    got = record(some_result(), BASELINE, decoded, tiny_lm)
    assert got["loss_nats"] == 0.5
    assert got["information_gain_nats"] == pytest.approx(4 * (2.0 - 0.5))
    assert got["information_gain_bits"] == pytest.approx(6.0 / math.log(2))
    assert got["token_gain"] == pytest.approx(2.0)
    assert got["token_steps"] == 44
    assert got["memory_bits"] == 2 * 16 * 32
    assert got["exact_greedy"] and not got["exact_greedy_bfloat16"]
    assert not got["exact_teacher_forced"]
    assert got["first_right_steps"] == [2, 7, -1, 0]
    assert got["surprise_nats"] == [None, 1.0, 2.0, 3.0]
    assert got["text"] is None and got["num_bytes"] is None and got["tokens_text"] is None
    ids = b"".join(int(i).to_bytes(4, "little") for i in some_result().tokens)
    assert got["text_sha256"] == hashlib.sha256(ids).hexdigest()


def test_a_text_that_diverged_at_its_first_step_makes_a_line_of_json(tiny_lm):
    empty = dict(loss_curve=np.zeros(0), accuracy_curve=np.zeros(0), steps=0)
    lost = dict(loss_nats=math.inf, min_loss_nats=math.inf, margin=-math.inf)
    result = some_result(**empty, **lost, accuracy=0.0, diverged_at=0)
    got = record(result, BASELINE, (np.zeros(4, int), np.zeros(4, int)), tiny_lm)
    json.dumps(got, allow_nan=False)
    assert got["diverged_at"] == 0 and got["loss_nats"] is got["margin_logits"] is None


def test_reference_takes_the_smallest_loss_and_multiplies_means_by_the_length(tiny_lm):
    """As the published tables do, although T - 1 tokens are scored."""
    decoded = np.array([3, 0, 4, 1]), np.array([3, 1, 4, 1])
    got = record(some_result("reference"), BASELINE, decoded, tiny_lm)
    assert got["loss_nats"] == 0.25
    assert got["information_gain_nats"] == pytest.approx(4 * (2.0 - 0.25))
    assert got["greedy_prefix_tokens"] == 1


@pytest.mark.parametrize("num_given", [0, 1])
def test_baseline_is_the_lm_without_memory(tiny_lm, num_given):
    """An LM without BOS and EOS predicts the first token uniformly."""
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, 23, n).astype(np.int32) for n in (3, 5)]
    got = baselines(tiny_lm, texts, num_given=num_given, pad_to=6, vocab_chunk=7)
    for text, baseline in zip(texts, got, strict=True):
        logits = np.asarray(tiny_lm.logits(text[None, :-1])[0], np.float64)
        losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(text) - 1), text[1:]]
        right = list(logits.argmax(-1) == text[1:])
        losses = list(losses)
        if num_given == 0:
            losses, right = [math.log(23), *losses], [False, *right]
        assert baseline.loss_nats == pytest.approx(np.mean(losses), rel=1e-5)
        assert baseline.accuracy == pytest.approx(np.mean(right))
        surprise = baseline.surprise_nats
        assert len(surprise) == len(text) and np.isnan(surprise).sum() == num_given
        np.testing.assert_allclose(surprise[num_given:], losses, rtol=1e-5)


def test_baseline_reads_bos_before_the_first_token(tiny_lm):
    class Tokenizer:
        bos_token_id = 2
        eos_token_id = 3

    import dataclasses

    lm = dataclasses.replace(tiny_lm, tokenizer=Tokenizer())
    text = np.array([4, 9], np.int32)
    got = baselines(lm, [text], num_given=0, pad_to=2, vocab_chunk=100)[0]
    logits = tiny_lm.logits(jnp.array([[2, 4]]))[0]
    want = np.mean(
        [
            -jnp.log(jnp.exp(logits) / jnp.exp(logits).sum(-1, keepdims=True))[i, t]
            for i, t in enumerate(text)
        ]
    )
    assert got.loss_nats == pytest.approx(want, rel=1e-5)


def test_thinned_curves_keep_the_first_and_the_last_step():
    loss = np.arange(5000.0)
    curve = thinned(loss, loss)
    assert len(curve["steps"]) <= 100
    assert (curve["steps"][0], curve["steps"][-1]) == (0, 4999)
    assert curve["loss_nats"] == [float(s) for s in curve["steps"]]
