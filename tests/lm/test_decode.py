"""Greedy decoding with the cache equals the slow obvious way without one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memcomp.errors import InputError
from memcomp.lm.decode import decode


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


@pytest.mark.parametrize("num_tokens", [0, 65])
def test_a_length_without_room_is_refused(tiny_lm, num_tokens):
    with pytest.raises(InputError, match=f"num_tokens is {num_tokens}"):
        decode(tiny_lm, np.zeros((1, 16), np.float32), num_tokens)


def test_memory_of_another_width_is_refused(tiny_lm):
    with pytest.raises(InputError, match="12 wide"):
        decode(tiny_lm, np.zeros((1, 12), np.float32), 4)
