"""What the gradient is of, and how leading tokens are counted."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from memcomp.cram.config import CramConfig
from memcomp.cram.loop import cram_step, init_states
from memcomp.cram.objective import (
    OBJECTIVES,
    SURE,
    SURE_WEIGHT,
    exact_prefix,
    memory_scores,
    scored_positions,
)
from memcomp.cram.recipe import Recipe, optimizer


@pytest.mark.parametrize(
    "margins, length, num_given, want",
    [
        ([1, 1, 1, 1], 4, 0, 4),
        ([1, 1, -1, 1], 4, 0, 2),
        ([-1, 1, 1, 1], 4, 0, 0),
        ([1, 1, 0.05, 1], 4, 0, 2),  # right, but by less than the margin
        ([1, 1, 1, 1], 3, 0, 3),  # padding is no part of the text
        ([-1, 1, 1, -1], 4, 1, 3),  # what is given is right
        ([-1, -1, 1, 1], 4, 1, 1),
        ([-1, 1, 1, 1], 2, 1, 2),
    ],
)
def test_leading_tokens_by_hand(margins, length, num_given, want):
    scored = scored_positions(jnp.int32(length), 4, num_given)
    assert int(exact_prefix(jnp.array(margins, jnp.float32), scored, 0.1)) == want


@pytest.mark.parametrize(
    "objective, prefix, want",
    [
        ("mean", 1, [0, 1, 1, 1, 0]),
        ("frontier", 1, [0, 1, 0, 0, 0]),
        ("frontier", 2, [0, 1, SURE_WEIGHT, 0, 0]),
        ("frontier", 4, [0, 1, SURE_WEIGHT, 1, 0]),
    ],
)
def test_weights_of_an_objective_by_hand(objective, prefix, want):
    scored = scored_positions(jnp.int32(4), 5, 1)
    margins = jnp.array([9, -1, SURE + 0.01, SURE - 0.01, 9], jnp.float32)
    got = OBJECTIVES[objective].weights(margins, scored, jnp.int32(prefix))
    np.testing.assert_array_equal(got, np.array(want, np.float32))


@pytest.mark.parametrize("objective, num_read", [("mean", 5), ("frontier", 3)])
def test_a_step_follows_the_loss_of_the_chosen_positions(
    tiny_lm_float64, objective, num_read
):
    """Two leading tokens have been right before, and are not any more."""
    lm = tiny_lm_float64
    recipe = Recipe(
        learning_rate=0.1, max_steps=9, patience=9, margin=0.0, objective=objective
    )
    cfg = CramConfig(recipe=recipe, vocab_chunk=7)
    states = init_states(np.zeros(1, np.int32), lm.params, module=lm.module, cfg=cfg)
    state = jax.tree.map(lambda leaf: leaf[0], states)
    state = state._replace(best_prefix=jnp.int32(2))
    tokens = jnp.array([9, 1, 4, 1, 5], jnp.int32)
    score = functools.partial(
        memory_scores, params=lm.params, module=lm.module, vocab_chunk=7
    )
    assert score(state.memory, tokens).margin[0] < 0

    def loss(memory):
        return score(memory, tokens).loss[:num_read].mean()

    sure = score(state.memory, tokens).margin[:num_read] > SURE
    assert not sure.any()  # so that all weights are alike

    grad = jax.grad(loss)(state.memory)
    updates, _ = optimizer(recipe).update(grad, state.opt_state, state.memory)
    want = optax.apply_updates(state.memory, updates)
    new, _ = cram_step(state, tokens, jnp.int32(5), lm.params, module=lm.module, cfg=cfg)
    # float64; measured 2e-16. The other objective's memory is 1e-2 away or more.
    np.testing.assert_allclose(new.memory, want, rtol=1e-12, atol=1e-12)
