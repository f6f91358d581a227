"""The optimiser of a memory against PyTorch's published update, and the schedules."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from memcomp.cram.recipe import RECIPES, SCHEDULES, optimizer


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
        updates, state = transform.update(jnp.asarray(grad), state, memory)
        memory = optax.apply_updates(memory, updates)
        first = 0.9 * first + 0.1 * grad
        second = 0.9 * second + 0.1 * grad**2
        unbiased = (first / (1 - 0.9**step), second / (1 - 0.9**step))
        move = unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
        want = want - 0.01 * (move + 0.01 * want)
    np.testing.assert_allclose(memory, want, rtol=2e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_rise_to_the_learning_rate_and_end_where_said(schedule):
    recipe = dataclasses.replace(
        RECIPES["reference"],
        learning_rate=0.5,
        warmup_steps=10,
        max_steps=100,
        schedule=schedule,
        final_learning_rate=0.001,
        b1=0.0,
        weight_decay=0.0,
    )
    transform = optimizer(recipe)
    memory = jnp.zeros((1, 1))
    state = transform.init(memory)
    rates = []
    for _ in range(100):
        updates, state = transform.update(jnp.ones((1, 1)), state, memory)
        rates.append(-float(updates[0, 0]))
    assert np.all(np.diff(rates[:10]) > 0)
    np.testing.assert_allclose(max(rates), 0.5, rtol=1e-3)
    end = {"constant": 0.5, "cosine": 0.001}[schedule]
    np.testing.assert_allclose(rates[-1], end, atol=1e-3)
