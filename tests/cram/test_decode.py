"""Greedy decoding with the cache equals the slow obvious way without one."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memcomp.cram.api import cram
from memcomp.cram.config import CramConfig
from memcomp.cram.decode import decode
from memcomp.errors import InputError


@functools.partial(jax.jit, static_argnames="module")
def all_logits(params, x, *, module):
    hidden, _ = module.apply({"params": params}, x)
    return hidden @ params["head"].T


def slow_decode(lm, memory, num_tokens, given=()):
    """The whole sequence, padded on the right, through the LM again for every token."""
    tokens = list(given)
    while len(tokens) < num_tokens:
        padded = np.array(tokens + [0] * (num_tokens - len(tokens)), np.int32)
        x = jnp.concatenate([jnp.asarray(memory), lm.params["embedding"][padded]])
        logits = all_logits(lm.params, x[None], module=lm.module)[0]
        tokens.append(int(np.argmax(logits[len(memory) + len(tokens) - 1])))
    return np.array(tokens)


def test_cached_decoding_equals_the_slow_one(tiny_lm):
    memory = np.random.default_rng(0).standard_normal((3, 2, 16)).astype(np.float32)
    got = decode(tiny_lm, memory, 7)
    want = [slow_decode(tiny_lm, m, 7) for m in memory]
    np.testing.assert_array_equal(got, want)
    assert len({tuple(row) for row in got.tolist()}) == 3


def test_given_tokens_come_first_and_are_read(tiny_lm):
    memory = np.random.default_rng(1).standard_normal((1, 16)).astype(np.float32)
    given = np.array([5, 3], np.int32)
    got = decode(tiny_lm, memory, 6, given)
    np.testing.assert_array_equal(got, slow_decode(tiny_lm, memory, 6, given))
    np.testing.assert_array_equal(got[:2], given)


ZEROS = np.zeros((1, 16), np.float32)


@pytest.mark.parametrize("num_tokens", [0, 65, -1, 2.0, 2.5, "3", None, True, [3]])
def test_a_number_of_tokens_without_sense_is_refused(tiny_lm, num_tokens):
    with pytest.raises(InputError, match="num_tokens is .*; give a whole number") as error:
        decode(tiny_lm, ZEROS, num_tokens)
    assert repr(num_tokens) in str(error.value)


@pytest.mark.parametrize(
    "memory, words",
    [
        (np.zeros((1, 12)), r"memory is \[1, 12\]; give \[M, 16\]"),
        (np.zeros(16), r"memory is \[16\]; give"),
        (np.zeros((1, 1, 1, 16)), "memory is"),
        (np.zeros((0, 16)), "memory is"),
        (np.zeros((0, 1, 16)), "memory is"),
        (np.full((1, 16), np.nan), "not finite"),
        (np.full((1, 16), np.inf), "not finite"),
        ("memory", "no array of numbers"),
        ([[1.0], [1.0, 2.0]], "no array of numbers"),
        (None, "memory"),
    ],
)
def test_what_is_no_memory_of_this_lm_is_refused(tiny_lm, memory, words):
    with pytest.raises(InputError, match=words):
        decode(tiny_lm, memory, 4)


@pytest.mark.parametrize(
    "given, words",
    [
        ([23], "token id 23; give ids from 0 to 22"),
        ([-1], "token id -1"),
        ([2**40], "token id"),
        ([1.0], "float64 with 1 axes"),
        ([True], "bool"),
        ("ab", "with 0 axes"),
        ([[1]], "with 2 axes"),
        ([1, 2, 3, 4], "more than the 4 given"),
    ],
)
def test_given_tokens_that_are_none_are_refused(tiny_lm, given, words):
    with pytest.raises(InputError, match=words):
        decode(tiny_lm, ZEROS, 4, given)


def test_given_tokens_of_another_number_of_texts_are_refused(tiny_lm):
    with pytest.raises(InputError, match="2 rows are given for 1"):
        decode(tiny_lm, ZEROS[None], 4, np.ones((2, 1), int))


def overflowing(lm, dtype):
    """An LM whose hidden states are too large for float16, and for no other dtype."""
    scale = 6e4 * np.ones_like(lm.params["final_norm"]["scale"])
    params = lm.params | {"final_norm": {"scale": scale}}
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)
    return dataclasses.replace(lm, params=params, dtype=jnp.dtype(dtype))


@pytest.mark.ci
def test_logits_that_are_not_finite_are_refused_by_the_name_of_the_dtype(tiny_lm):
    low = overflowing(tiny_lm, "float16")
    cfg = CramConfig(num_tokens=4, num_memory=1, max_steps=2)
    for use in (
        lambda: low.logits(np.ones((1, 4), int)),
        lambda: decode(low, ZEROS + 1, 4),
        lambda: cram(low, [np.arange(1, 5)], cfg),
    ):
        with pytest.raises(InputError, match="not finite in float16; .* bfloat16"):
            use()
    whole = overflowing(tiny_lm, "bfloat16")
    assert np.isfinite(whole.logits(np.ones((1, 4), int))).all()
    assert decode(whole, ZEROS + 1, 4).shape == (4,)
