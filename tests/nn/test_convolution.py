"""`causal_convolution` against numpy's own convolution, channel by channel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memcomp.nn.convolution import causal_convolution

BATCH, T, E = 2, 7, 3


def problem(width, length=T):
    rng = np.random.default_rng(width)
    shapes = (BATCH, length, E), (width, E), (E,), (BATCH, width - 1, E)
    return tuple(rng.standard_normal(shape).astype(np.float32) for shape in shapes)


def oracle(x, kernel, bias, state):
    inputs = np.concatenate([state, x], axis=1).astype(np.float64)
    y = np.empty(x.shape)
    for b in range(len(x)):
        for e in range(x.shape[2]):
            y[b, :, e] = np.convolve(inputs[b, :, e], kernel[::-1, e], "valid") + bias[e]
    return y, inputs[:, x.shape[1] :]


@pytest.mark.parametrize("length", [1, 2, T])
@pytest.mark.parametrize("width", [1, 2, 4])
def test_values_and_state_match_numpy(width, length):
    arrays = problem(width, length)
    got = causal_convolution(*map(jnp.asarray, arrays))
    want = oracle(*arrays)
    # Measured 3.0e-7.
    np.testing.assert_allclose(got[0], want[0], rtol=0, atol=1.5e-6)
    np.testing.assert_array_equal(got[1], want[1].astype(np.float32))


def test_without_bias_and_state_they_are_zero():
    x, kernel, bias, state = map(jnp.asarray, problem(4))
    want = causal_convolution(x, kernel, jnp.zeros_like(bias), jnp.zeros_like(state))
    got = causal_convolution(x, kernel)
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_array_equal(got[1], want[1])


def test_bfloat16_is_summed_in_float32_and_rounded_once():
    x, kernel, bias, state = (jnp.asarray(a, jnp.bfloat16) for a in problem(4))
    got, last = causal_convolution(x, kernel, bias, state)
    assert got.dtype == last.dtype == jnp.bfloat16
    wide = (np.asarray(a, np.float32) for a in (x, kernel, bias, state))
    want = jnp.asarray(oracle(*wide)[0], jnp.bfloat16)
    np.testing.assert_array_equal(jax.device_get(got), jax.device_get(want))
