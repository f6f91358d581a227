"""The optimiser of a memory against PyTorch's published update, and the schedules."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from memcomp.cram.config import CramConfig
from memcomp.cram.rates import learning_rate
from memcomp.cram.recipe import RECIPES, optimizer


def test_reference_is_adamw_with_decoupled_decay():
    """Against the update written out: Loshchilov and Hutter 2019, algorithm 2."""
    recipe = RECIPES["reference"]
    rng = np.random.default_rng(0)
    memory = want = rng.standard_normal((2, 3)).astype(np.float32)
    memory = jnp.asarray(memory)
    transform = optimizer(recipe)
    state = transform.init(memory)
    first, second = np.zeros((2, 3)), np.zeros((2, 3))
    for step in range(1, 6):
        grad = rng.standard_normal((2, 3)).astype(np.float32)
        updates, state = transform.update(
            jnp.asarray(grad), state, memory, learning_rate=0.01
        )
        memory = optax.apply_updates(memory, updates)
        first = 0.9 * first + 0.1 * grad
        second = 0.9 * second + 0.1 * grad**2
        unbiased = (first / (1 - 0.9**step), second / (1 - 0.9**step))
        move = unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
        want = want - 0.01 * (move + 0.01 * want)
    np.testing.assert_allclose(memory, want, rtol=2e-6)


def rates(schedule, stale):
    """Of 100 steps, given for each how long there was no progress before it."""
    recipe = dataclasses.replace(
        RECIPES["reference"],
        learning_rate=0.5,
        warmup_steps=10,
        max_steps=100,
        patience=40,
        schedule=schedule,
        final_learning_rate=0.001,
    )
    numbers = CramConfig(recipe=recipe).numbers()
    return np.array(
        [
            float(learning_rate(schedule, numbers, jnp.int32(i), jnp.int32(s)))
            for i, s in enumerate(stale)
        ]
    )


@pytest.mark.parametrize("schedule, end", [("constant", 0.5), ("cosine", 0.001)])
def test_schedules_rise_to_the_learning_rate_and_end_where_said(schedule, end):
    got = rates(schedule, range(100))
    np.testing.assert_allclose(got[:10], 0.05 * np.arange(1, 11), rtol=1e-6)
    assert np.all(np.diff(got[10:]) <= 0)
    np.testing.assert_allclose(got[-1], end, atol=2e-4)
    np.testing.assert_allclose(got[55], (0.5 + end) / 2, rtol=1e-6)  # half-way down


def test_restarts_go_down_with_the_patience_and_up_with_progress():
    got = rates("restarts", [*range(30), *range(70)])
    np.testing.assert_allclose(got[20], 0.2505, rtol=1e-6)
    np.testing.assert_allclose(got[[30, 70]], [0.5, 0.001], rtol=1e-4)
    assert np.all(np.diff(got[10:30]) < 0) and np.all(np.diff(got[30:70]) < 0)


def test_low_dim_steps_on_what_memory_is_made_of():
    """Against z, W and b stepped on with optax.adamw, and the loss written in them."""
    recipe = dataclasses.replace(RECIPES["low_dim"], rank=3, weight_decay=0.1)
    target = jnp.arange(8.0).reshape(2, 4)
    memory = jnp.ones((2, 4)) / jnp.arange(1.0, 9).reshape(2, 4)
    transform = optimizer(recipe)
    state = transform.init(memory)
    free = state[0]
    np.testing.assert_allclose(free.z @ free.W + free.b, memory, rtol=1e-6)
    adamw = optax.adamw(0.05, b1=0.9, b2=0.9, eps=recipe.eps, weight_decay=0.1)
    plain = adamw.init(free)

    def loss(memory):
        return jnp.sum((memory - target) ** 2)

    for _ in range(5):
        updates, state = transform.update(
            jax.grad(loss)(memory), state, memory, learning_rate=0.05
        )
        memory = optax.apply_updates(memory, updates)
        grad = jax.grad(lambda free: loss(free.z @ free.W + free.b))(free)
        updates, plain = adamw.update(grad, plain, free)
        free = optax.apply_updates(free, updates)
    # Measured 0 of values up to 1.5; a rounding of their difference is 1e-7.
    np.testing.assert_allclose(memory, free.memory(), rtol=0, atol=1e-6)
    assert jnp.abs(memory - target).mean() < 3  # measured 2.76 after 5 steps, from 3.41
