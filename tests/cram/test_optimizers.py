"""GGT against the dense matrix of second moments, in exact enough arithmetic."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memcomp.cram.optimizers import scale_by_ggt
from memcomp.cram.recipe import RECIPES, optimizer
from memcomp.errors import InputError

B1, B2, EPS = 0.7, 0.9, 0.01


def dense(grads, power):
    """The update of a row after `grads` [W P], newest last, with a [P P] matrix."""
    age = np.arange(len(grads))[::-1]
    mean = (B1**age) @ grads
    scaled = B2 ** age[:, None] * grads
    squares, vectors = np.linalg.eigh(scaled.T @ scaled)
    singular = np.sqrt(np.maximum(squares, 0) / squares[-1])
    move = vectors @ (vectors.T @ mean / (singular + EPS) ** (2 * power))
    return move / np.sqrt(np.mean(move**2))


@pytest.mark.parametrize("power", [0.5, 0.75, 1.0])
@pytest.mark.parametrize("steps", [1, 3, 9])
def test_update_is_that_of_the_dense_matrix(power, steps):
    """More parameters than the window, which has room for 5: of 9 the first 4 are gone."""
    rng = np.random.default_rng(steps)
    grads = rng.standard_normal((steps, 2, 6)) * 10.0 ** rng.integers(-3, 3, (steps, 1, 1))
    with jax.enable_x64(True):
        ggt = scale_by_ggt(B1, B2, EPS, 5, power)
        state = ggt.init(jnp.zeros((2, 6), jnp.float64))
        for grad in grads:
            got, state = ggt.update(jnp.asarray(grad), state)
    for row in range(2):
        want = dense(grads[-5:, row], power)
        np.testing.assert_allclose(got[row], want, rtol=0, atol=1e-10)  # measured 3e-11


def test_directions_of_a_rotated_problem_are_rotated():
    """Which AdamW's are not: its second moments belong to the axes."""
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.standard_normal((8, 8)))
    grads = rng.standard_normal((4, 1, 8))
    with jax.enable_x64(True):

        def last(grads, name):
            recipe = dataclasses.replace(
                RECIPES["default"], optimizer=name, weight_decay=0.0
            )
            transform = optimizer(recipe)
            memory = jnp.zeros((1, 8), jnp.float64)
            state = transform.init(memory)
            for grad in grads:
                update, state = transform.update(
                    jnp.asarray(grad), state, memory, learning_rate=1.0
                )
            return np.asarray(update)

        np.testing.assert_allclose(
            last(grads @ turn, "ggt"), last(grads, "ggt") @ turn, atol=1e-9
        )
        off = last(grads @ turn, "adamw") - last(grads, "adamw") @ turn
        assert np.abs(off).max() > 0.1


def test_no_gradient_is_no_move():
    ggt = scale_by_ggt(B1, B2, EPS, 5, 0.75)
    move, state = ggt.update(jnp.zeros((2, 3)), ggt.init(jnp.zeros((2, 3))))
    assert not np.any(move) and not np.any(state.window)


@pytest.mark.parametrize(
    "b1, b2, words",
    [
        (0.9, 0.9, "ggt wants 0 <= b1 < b2 <= 1"),
        (-0.1, 0.9, "b1 is -0.1; it must be 0 or more"),
        (0.7, 1.1, "b2 is 1.1; it must be 1 or less"),
    ],
)
def test_decays_that_ggt_has_no_use_for_are_refused(b1, b2, words):
    with pytest.raises(InputError, match=words):
        dataclasses.replace(RECIPES["default"], optimizer="ggt", b1=b1, b2=b2)


def test_recipe_ggt_in_one_line_of_optax():
    """The chain around it: decoupled decay, then the rate."""
    recipe = dataclasses.replace(
        RECIPES["default"], optimizer="ggt", b1=0.7, b2=0.9, weight_decay=0.5
    )
    memory, grad = jnp.full((1, 4), 2.0), jnp.array([[1.0, -1, 1, 1]])
    transform = optimizer(recipe)
    update, _ = transform.update(grad, transform.init(memory), memory, learning_rate=0.1)
    np.testing.assert_allclose(update, -0.1 * (grad + 0.5 * memory), rtol=1e-5)
