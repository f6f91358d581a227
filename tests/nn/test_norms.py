"""Norms against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memcomp.nn.norms import LayerNorm, RMSNorm

EPS = 0.1  # large, so that it shows where it is added
SHAPE = (2, 3, 6)


def inputs():
    rng = np.random.default_rng(0)
    x, scale, bias = (rng.standard_normal(s) for s in (SHAPE, SHAPE[-1:], SHAPE[-1:]))
    return 2 * x + 1, scale, bias


def apply(norm, x, options=None, **params):
    return norm(EPS, **options or {}).apply({"params": params}, x)


def test_rms_norm_matches_its_formula():
    x, scale, _ = inputs()
    want = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + EPS) * scale
    got = apply(RMSNorm, jnp.asarray(x, jnp.float32), scale=jnp.asarray(scale, jnp.float32))
    # Measured 2.4e-7.
    np.testing.assert_allclose(got, want, atol=1.2e-6, rtol=0)


def test_layer_norm_matches_its_formula():
    x, scale, bias = inputs()
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    want = centred / np.sqrt(variance + EPS) * scale + bias
    params = {
        "scale": jnp.asarray(scale, jnp.float32),
        "bias": jnp.asarray(bias, jnp.float32),
    }
    got = apply(LayerNorm, jnp.asarray(x, jnp.float32), **params)
    # Measured 3e-7.
    np.testing.assert_allclose(got, want, atol=1.5e-6, rtol=0)


def test_rms_norm_adds_its_offset_to_the_stored_scale():
    x, scale, _ = (jnp.asarray(a, jnp.float32) for a in inputs())
    got = apply(RMSNorm, x, {"offset": 1.0}, scale=scale - 1)
    # Measured 2.4e-7.
    np.testing.assert_allclose(got, apply(RMSNorm, x, scale=scale), atol=1.2e-6, rtol=0)


def test_rms_norm_over_two_axes_is_that_over_their_product():
    x, _, _ = (jnp.asarray(a, jnp.float32) for a in inputs())
    scale = jnp.asarray(np.random.default_rng(1).standard_normal(SHAPE[1:]), jnp.float32)
    got = apply(RMSNorm, x, {"axes": ("heads", "head_dim")}, scale=scale)
    want = apply(RMSNorm, x.reshape(SHAPE[0], -1), scale=scale.reshape(-1))
    np.testing.assert_allclose(got.reshape(SHAPE[0], -1), want, atol=1e-6, rtol=0)


def test_layer_norm_that_is_not_affine_has_no_parameters():
    x, scale, bias = (jnp.asarray(a, jnp.float32) for a in inputs())
    assert not LayerNorm(EPS, affine=False).init(jax.random.key(0), x)
    got = apply(LayerNorm, x, {"affine": False})
    want = apply(LayerNorm, x, scale=jnp.ones_like(scale), bias=jnp.zeros_like(bias))
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("norm", [RMSNorm, LayerNorm])
def test_bfloat16_activations_are_normalised_in_float32(norm):
    # The square of 300 plus small ones: bfloat16 sums would be off by percents.
    x = jnp.asarray(np.r_[300.0, np.full(4095, 1.0)][None], jnp.bfloat16)
    params = {"scale": jnp.ones(4096, jnp.bfloat16), "bias": jnp.zeros(4096, jnp.bfloat16)}
    if norm is RMSNorm:
        del params["bias"]
    got = apply(norm, x, **params)
    wide = {name: p.astype(jnp.float32) for name, p in params.items()}
    want = apply(norm, x.astype(jnp.float32), **wide)
    assert got.dtype == jnp.bfloat16
    # Half a unit in the last place of bfloat16 is 0.2 %.
    np.testing.assert_allclose(got.astype(jnp.float32), want, rtol=4e-3, atol=1e-6)


@pytest.mark.parametrize("norm", [RMSNorm, LayerNorm])
def test_new_norms_have_scale_one_and_name_their_axis(norm):
    params = norm(EPS).init(jax.random.key(0), jnp.ones(SHAPE))["params"]
    assert params["scale"].names == ("embed",)
    np.testing.assert_array_equal(params["scale"].value, np.ones(SHAPE[-1]))


def test_a_new_scale_and_its_offset_make_one():
    params = RMSNorm(EPS, offset=1.0).init(jax.random.key(0), jnp.ones(SHAPE))["params"]
    np.testing.assert_array_equal(params["scale"].value, np.zeros(SHAPE[-1]))
