"""`selective_scan` against the recurrence, one position after the other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from selection import first_here

from memcomp.nn.selective_scan import selective_scan

BATCH, E, Z = 2, 5, 3
FAST_COMPILE = {"xla_backend_optimization_level": 0}
NAMES = ("x", "dt", "A", "B", "C", "D", "state")


def problem(length, seed=0):
    """Arguments in float64; some steps are so long that the state is all but forgotten."""
    rng = np.random.default_rng(seed)
    return {
        "x": rng.standard_normal((BATCH, length, E)),
        "dt": np.exp(1.5 * rng.standard_normal((BATCH, length, E)) - 1),
        "A": -np.exp(rng.standard_normal((Z, E))),
        "B": rng.standard_normal((BATCH, length, Z)),
        "C": rng.standard_normal((BATCH, length, Z)),
        "D": rng.standard_normal(E),
        "state": rng.standard_normal((BATCH, Z, E)),
    }


def step_by_step(x, dt, A, B, C, D, state):
    """The recurrence as the paper writes it."""

    def step(h, now):
        x, dt, B, C = now
        decay = jnp.exp(jnp.einsum("be,ze->bze", dt, A))
        h = decay * h + jnp.einsum("be,bz->bze", dt * x, B)
        return h, jnp.einsum("bze,bz->be", h, C) + jnp.einsum("e,be->be", D, x)

    by_time = [jnp.moveaxis(value, 1, 0) for value in (x, dt, B, C)]
    state, y = jax.lax.scan(step, state, by_time)
    return jnp.moveaxis(y, 0, 1), state


def value_and_gradients(scan, arguments):
    """y, the last state, and the gradient of a function of both to each argument."""

    def loss(arguments):
        y, state = scan(**arguments)
        weights = jnp.linspace(0.5, 1.5, y.shape[1], dtype=y.dtype)
        wave = jnp.einsum("t,bte->", weights, jnp.sin(y))
        return wave + jnp.sum(jnp.cos(2 * state)), (y, state)

    score = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=FAST_COMPILE)
    (_, outputs), gradients = score(arguments)
    return dict(zip(("y", "last"), outputs, strict=True)) | gradients


# One position, less than a chunk, a chunk, several, several and a bit.
@pytest.mark.parametrize(
    "length, chunk", first_here([(13, 4), (1, 4), (3, 4), (4, 4), (12, 4), (7, 1)])
)
def test_values_and_gradients_in_float64_match_the_recurrence(length, chunk):
    with jax.enable_x64(True):
        arguments = jax.tree.map(jnp.asarray, problem(length))
        want = value_and_gradients(step_by_step, arguments)
        scan = functools.partial(selective_scan, chunk=chunk)
        got = value_and_gradients(scan, arguments)
        for name, value in want.items():
            assert got[name].dtype == jnp.float64
            # Measured 5.5e-15 of the largest.
            scale = np.abs(value).max()
            np.testing.assert_allclose(
                got[name], value, rtol=0, atol=3e-14 * scale, err_msg=name
            )


def test_float32_over_many_chunks_matches_the_recurrence_in_float64():
    arguments = {n: jnp.asarray(v, jnp.float32) for n, v in problem(100).items()}
    with jax.enable_x64(True):
        exact = {n: jnp.asarray(v, jnp.float64) for n, v in arguments.items()}
        want = jax.device_get(value_and_gradients(step_by_step, exact))
    got = value_and_gradients(selective_scan, arguments)
    for name, value in want.items():
        assert got[name].dtype == jnp.float32
        error = np.abs(got[name] - value).max() / np.abs(value).max()
        # Measured 1.4e-5 (1.1e-5 by the recurrence itself in float32).
        assert error < 7e-5, name


def test_activations_of_low_precision_are_scanned_in_float32():
    exact = problem(20)
    low = {name: jnp.asarray(value, jnp.bfloat16) for name, value in exact.items()}
    y, state = selective_scan(**low)
    assert y.dtype == state.dtype == jnp.float32
    wide = {name: value.astype(jnp.float32) for name, value in low.items()}
    np.testing.assert_array_equal(y, selective_scan(**wide)[0])


def test_without_skip_and_state_they_are_zero():
    arguments = {n: jnp.asarray(v, jnp.float32) for n, v in problem(6).items()}
    zeros = {"D": jnp.zeros(E), "state": jnp.zeros((BATCH, Z, E))}
    want = selective_scan(**{**arguments, **zeros})
    got = selective_scan(**{n: v for n, v in arguments.items() if n not in zeros})
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_array_equal(got[1], want[1])


def test_a_text_read_in_two_pieces_ends_in_the_same_state():
    arguments = {n: jnp.asarray(v, jnp.float32) for n, v in problem(11).items()}
    y, last = selective_scan(**arguments, chunk=4)
    by_time = {"x", "dt", "B", "C"}
    first = {n: v[:, :6] if n in by_time else v for n, v in arguments.items()}
    second = {n: v[:, 6:] if n in by_time else v for n, v in arguments.items()}
    head, state = selective_scan(**first, chunk=4)
    tail, state = selective_scan(**{**second, "state": state}, chunk=4)
    # Measured 9.5e-7.
    np.testing.assert_allclose(jnp.concatenate([head, tail], 1), y, rtol=0, atol=5e-6)
    np.testing.assert_allclose(state, last, rtol=0, atol=5e-6)


@pytest.mark.slow
def test_vmapped_gradients_equal_one_by_one():
    texts = [
        {n: jnp.asarray(v, jnp.float32) for n, v in problem(9, seed).items()}
        for seed in range(3)
    ]
    scan = functools.partial(selective_scan, chunk=4)

    def gradients(arguments):
        return jax.grad(lambda a: jnp.sum(jnp.sin(scan(**a)[0])))(arguments)

    many = jax.vmap(gradients)(jax.tree.map(lambda *leaves: jnp.stack(leaves), *texts))
    for i, text in enumerate(texts):
        alone = gradients(text)
        for name in NAMES:
            # Measured 0; another order of sums would be right as well.
            np.testing.assert_allclose(many[name][i], alone[name], rtol=0, atol=5e-6)


def test_long_steps_neither_overflow_nor_lose_their_gradient():
    arguments = {n: jnp.asarray(v, jnp.float32) for n, v in problem(40).items()}
    arguments["dt"] = arguments["dt"].at[:, ::3].set(1e4)
    got = value_and_gradients(selective_scan, arguments)
    for name, value in got.items():
        assert np.isfinite(value).all(), name
    assert np.abs(got["x"]).max() > 0


def test_memory_of_the_gradient_is_linear_in_length_and_holds_no_states():
    width, rates = 64, 16
    temp = {}
    for length in 256, 1024:
        shapes = {
            "x": (1, length, width),
            "dt": (1, length, width),
            "A": (rates, width),
            "B": (1, length, rates),
            "C": (1, length, rates),
        }
        arguments = {n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in shapes.items()}
        loss = jax.grad(lambda a: jnp.sum(jnp.sin(selective_scan(**a)[0])))
        compiled = jax.jit(loss).lower(arguments).compile()
        temp[length] = compiled.memory_analysis().temp_size_in_bytes
    # Measured 2.1; the part that does not grow is one chunk.
    assert temp[1024] < 4.2 * temp[256]
    # All states [T Z E] would be 4.2 MB, several times over; measured 1.7 MB.
    assert temp[1024] < 0.6 * 4 * 1024 * rates * width
