"""Rotary positions against complex numbers, and what they are for."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memcomp.nn.rotary import (
    Rotary,
    inverse_frequencies,
    no_rotation,
    rotary_table,
    rotate,
)

H = 8
LLAMA3 = Rotary(
    64, 500_000.0, "llama3", 8.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_positions=8192,
)  # fmt: skip


def turned(x, rotary, positions):
    """`rotate` of x [T N H] as multiplication by exp(i angle), in float64."""
    half = (rotary.dim + 1) // 2
    frequencies = rotary.theta ** (-np.arange(half) * 2 / rotary.dim)
    angles = positions[:, None, None] * frequencies
    z = (x[..., :half] + 1j * x[..., half : 2 * half]) * np.exp(1j * angles)
    return np.concatenate([z.real, z.imag, x[..., 2 * half :]], axis=-1)


@pytest.mark.parametrize("dim", [2, 3, 4, H])
def test_rotation_is_multiplication_by_a_unit_complex_number(dim):
    rotary, positions = Rotary(dim, 100.0), np.array([0, 1, 5, 40])
    x = np.random.default_rng(0).standard_normal((4, 3, H))
    table = rotary_table(rotary, jnp.asarray(positions), 64)
    got = rotate(jnp.asarray(x, jnp.float32), table)
    # Measured 3e-6, at position 40.
    np.testing.assert_allclose(got, turned(x, rotary, positions), atol=1.5e-5, rtol=0)


def test_one_table_serves_every_row_of_a_batch():
    rotary, positions = Rotary(4, 100.0), jnp.arange(5)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, 3, H)), jnp.float32)
    table = rotary_table(rotary, positions, 5)
    many = rotate(x, table)
    for row in range(2):
        np.testing.assert_array_equal(many[row], rotate(x[row], table))
    tables = rotary_table(rotary, jnp.stack([positions, positions + 3]), 8)
    np.testing.assert_array_equal(rotate(x, tables)[0], many[0])
    assert jnp.abs(rotate(x, tables)[1] - many[1]).max() > 0.1


@settings(deadline=None, max_examples=25)
@given(shift=st.integers(0, 500), seed=st.integers(0, 99))
def test_products_of_rotated_heads_depend_on_distance_alone(shift, seed):
    q, k = np.random.default_rng(seed).standard_normal((2, 1, 1, H))
    rotary = Rotary(H, 100.0)

    def product(start):
        positions = jnp.asarray([start + 4, start])
        cos, sin = rotary_table(rotary, positions, 1)
        a = rotate(jnp.asarray(q, jnp.float32), (cos[:1], sin[:1]))
        b = rotate(jnp.asarray(k, jnp.float32), (cos[1:], sin[1:]))
        return float(jnp.vdot(a, b))

    # Angles of 500 radians have a rounding of 3e-5.
    assert abs(product(shift) - product(0)) < 1e-3


def test_linear_scaling_divides_positions():
    plain, linear = Rotary(H, 100.0), Rotary(H, 100.0, "linear", 4.0)
    for a, b in zip(
        rotary_table(linear, 4 * jnp.arange(7), 28),
        rotary_table(plain, jnp.arange(7), 7),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("rotary", [Rotary(5, 100.0), LLAMA3])
def test_a_table_of_no_rotation_gives_heads_back_bit_by_bit(rotary, dtype):
    positions = jnp.array([0, 1, 7, 65_535, 2**24])
    table = rotary_table(no_rotation(rotary), positions, 1)
    assert [t.shape for t in table] == [t.shape for t in rotary_table(rotary, positions, 1)]
    x = np.random.default_rng(0).standard_normal((5, 3, 64)) * 1e4
    x = jnp.asarray(x, dtype)
    np.testing.assert_array_equal(rotate(x, table), x)


def test_dynamic_scaling_starts_beyond_the_original_length():
    dynamic = Rotary(H, 100.0, "dynamic", 2.0, original_positions=16)
    plain = inverse_frequencies(Rotary(H, 100.0), 16)
    for length in 1, 16:
        np.testing.assert_allclose(inverse_frequencies(dynamic, length), plain, rtol=1e-6)
    longer = inverse_frequencies(dynamic, 32)
    # Base 100 * (2 * 32/16 - 1)^(8/6): the slowest pair turns three times slower.
    np.testing.assert_allclose(longer[-1], plain[-1] / 3, rtol=1e-5)
    assert longer[0] == plain[0] == 1


def test_llama3_scaling_keeps_short_waves_and_stretches_long_ones():
    plain = inverse_frequencies(Rotary(64, 500_000.0), 1)
    waves = 2 * np.pi / plain
    ratio = plain / inverse_frequencies(LLAMA3, 1)
    short, long = waves < 8192 / 4, waves > 8192
    assert short.any() and long.any() and (~short & ~long).any()
    np.testing.assert_allclose(ratio[short], 1, rtol=1e-6)
    np.testing.assert_allclose(ratio[long], 8, rtol=1e-6)
    assert (np.diff(ratio) > -1e-5).all()


def test_tables_are_float32_and_heads_keep_their_dtype():
    table = rotary_table(LLAMA3, jnp.arange(3), 3)
    assert {t.dtype for t in table} == {jnp.dtype(jnp.float32)}
    x = jnp.ones((3, 2, 64), jnp.bfloat16)
    assert rotate(x, table).dtype == jnp.bfloat16


def test_every_field_changes_the_frequencies():
    dynamic = dataclasses.replace(LLAMA3, scaling="dynamic")
    changes = {"dim": 32, "theta": 1e4, "scaling": "linear", "factor": 2.0} | {
        "low_freq_factor": 2.0,
        "high_freq_factor": 8.0,
        "original_positions": 4096,
    }
    assert changes.keys() == {f.name for f in dataclasses.fields(Rotary)}
    for name, value in changes.items():
        changed = inverse_frequencies(dataclasses.replace(LLAMA3, **{name: value}), 1)
        before = inverse_frequencies(LLAMA3, 1)
        assert changed.shape != before.shape or (changed != before).any(), name
    assert (inverse_frequencies(dynamic, 9000) != inverse_frequencies(dynamic, 1)).any()
