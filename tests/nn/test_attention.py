"""Attention against loops in numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memcomp.nn.attention import (
    Attend,
    Positions,
    attend,
    causal_mask,
    empty_cache,
    prefix_mask,
)

FAST_COMPILE = {"xla_backend_optimization_level": 0}
B, T, S, N, H = 2, 4, 6, 6, 5


def fast(function):
    return jax.jit(function, compiler_options=FAST_COMPILE)


def heads(num_heads, length, seed):
    x = np.random.default_rng(seed).standard_normal((B, length, num_heads, H))
    return 2 * x.astype(np.float32)


def by_hand(q, k, v, mask, scale=H**-0.5, softcap=np.inf):
    """One query, one head at a time, in float64."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    group = q.shape[2] // k.shape[2]
    out = np.zeros_like(q)
    for b, t, n in np.ndindex(q.shape[:3]):
        seen = np.flatnonzero(mask[t])
        scores = k[b, seen, n // group] @ q[b, t, n] * scale
        if softcap < np.inf:
            scores = softcap * np.tanh(scores / softcap)
        weights = np.exp(scores - scores.max())
        out[b, t, n] = weights / weights.sum() @ v[b, seen, n // group]
    return out


@pytest.mark.parametrize("num_kv_heads", [1, 2, 3, 6])
def test_attention_over_grouped_heads_matches_loops(num_kv_heads):
    q, k, v = heads(N, T, 0), heads(num_kv_heads, S, 1), heads(num_kv_heads, S, 2)
    mask = causal_mask(jnp.arange(T) + 2, S)
    got = fast(attend)(jnp.asarray(q), jnp.asarray(k), jnp.asarray(v), mask)
    # Measured 1.2e-6, where values reach 6.
    np.testing.assert_allclose(got, by_hand(q, k, v, np.asarray(mask)), atol=6e-6, rtol=0)


@pytest.mark.parametrize("options", [{"scale": 1.0}, {"softcap": 1.5}])
def test_logits_are_scaled_and_capped(options):
    q, k, v = heads(N, T, 0), heads(N, S, 1), heads(N, S, 2)
    mask = causal_mask(jnp.arange(T) + 2, S)
    got = fast(functools.partial(attend, **options))(*map(jnp.asarray, (q, k, v)), mask)
    want = by_hand(q, k, v, np.asarray(mask), **options)
    assert np.abs(want - by_hand(q, k, v, np.asarray(mask))).max() > 0.1
    # Measured 1.3e-6.
    np.testing.assert_allclose(got, want, atol=6e-6, rtol=0)


def test_a_window_shows_a_query_itself_and_as_many_less_one_before():
    got = causal_mask(jnp.asarray([0, 3]), 5, window=2)
    np.testing.assert_array_equal(got, [[1, 0, 0, 0, 0], [0, 0, 1, 1, 0]])


@pytest.mark.parametrize("window", [None, 3])
def test_prefix_mask_shows_the_prefix_to_itself_and_no_more(window):
    got = prefix_mask(jnp.arange(2, 7), 8, jnp.asarray([0, 1, 5, 8]), window)
    for row, n in enumerate((0, 1, 5, 8)):
        for t in range(2, 7):
            for s in range(8):
                seen = s <= t or (s < n and t < n)
                want = seen and (window is None or abs(s - t) < window)
                assert got[row, t - 2, s] == want, (n, t, s)


def test_causal_mask_shows_a_query_itself_and_what_is_before():
    got = causal_mask(jnp.asarray([0, 3]), 5)
    np.testing.assert_array_equal(got, [[1, 0, 0, 0, 0], [1, 1, 1, 1, 0]])


def test_a_row_without_keys_gives_no_nan():
    q = jnp.asarray(heads(N, T, 0))
    assert jnp.isfinite(fast(attend)(q, q, q, jnp.zeros((T, T), bool))).all()


def test_softmax_of_bfloat16_heads_is_in_float32():
    # 4096 equal keys: each weight is 2**-12, and bfloat16 sums stop growing at 256.
    ones = jnp.ones((1, 4096, 1, H), jnp.bfloat16)
    got = fast(attend)(ones[:, :1], ones, ones, jnp.ones((1, 4096), bool))
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got.astype(jnp.float32), 1)


def positions(start, stop):
    mask = causal_mask(jnp.arange(start, stop), S)
    return Positions(mask, None, jnp.asarray(start), jnp.asarray(0))


def test_new_keys_are_written_after_the_cached_ones():
    cache = empty_cache(1, B, S, 2, H, jnp.float32)
    assert cache.k.shape == (1, B, S, 2, H) and int(cache.length) == 0
    k, v = jnp.asarray(heads(2, S, 1)), jnp.asarray(heads(2, S, 2))
    q = jnp.asarray(heads(N, S, 0))
    cached = (cache.k[0], cache.v[0])
    outs = []
    for start, stop in (0, 3), (3, 4), (4, 6):
        piece = slice(start, stop)
        new = q[:, piece], k[:, piece], v[:, piece]
        out, cached = fast(Attend().apply)({}, *new, cached, positions(start, stop))
        outs.append(out)
    np.testing.assert_array_equal(cached[0], k)
    np.testing.assert_array_equal(cached[1], v)
    want, none = fast(Attend().apply)({}, q, k, v, None, positions(0, S))
    assert none is None
    np.testing.assert_allclose(jnp.concatenate(outs, axis=1), want, atol=6e-6)
