"""What the gradient is of, and how leading tokens are counted."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from selection import first_here

from memcomp.cram.config import CramConfig
from memcomp.cram.decode import decode
from memcomp.cram.loop import cram_step
from memcomp.cram.objective import (
    FRESH,
    SURE,
    exact_prefix,
    hardness,
    scored_positions,
    token_weights,
)
from memcomp.cram.recipe import Recipe, optimizer
from memcomp.cram.state import init_states
from memcomp.cram.ways.table import memory_scores


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
    "grows, sure_weight, prefix, stale, want",
    [
        (False, 1.0, 1, 0, [0, 1, 1, 1, 0]),
        (False, 0.1, 1, 0, [0, 1, 0.1, 1, 0]),
        (True, 1.0, 1, FRESH, [0, 1, 0, 0, 0]),
        (True, 1.0, 2, FRESH, [0, 1, 1, 0, 0]),
        (True, 0.1, 2, FRESH, [0, 1, 0.1, 0, 0]),
        (True, 0.1, 4, FRESH, [0, 1, 0.1, 1, 0]),
        (True, 0.1, 0, FRESH - 1, [0, 1, 0.1, 0, 0]),  # 2 more, while it is new
        (True, 0.1, 1, FRESH - 1, [0, 1, 0.1, 1, 0]),
    ],
)
def test_weights_by_hand(grows, sure_weight, prefix, stale, want):
    scored = scored_positions(jnp.int32(4), 5, 1)
    asked = jnp.array([9, -1, SURE + 0.01, SURE - 0.01, 9], jnp.float32)
    got = token_weights(
        asked,
        scored,
        jnp.int32(prefix),
        jnp.int32(stale),
        grows=grows,
        ahead=2,
        sure_weight=sure_weight,
    )
    np.testing.assert_array_equal(got, np.array(want, np.float32))


@pytest.mark.parametrize(
    "easy, step, prefix, want",
    [
        (0.0, 0, -1, 1.0),  # no text is easy
        (4.0, 0, -1, 0.0),
        (4.0, 4, 0, 0.0),  # the first token takes no more than 4 steps
        (4.0, 8, 0, 1.0),
        (4.0, 40, 9, 0.0),
        (4.0, 55, 9, 0.375),
        (4.0, 80, 9, 1.0),
        (4.0, 900, 9, 1.0),
    ],
)
def test_hardness_by_hand(easy, step, prefix, want):
    assert float(hardness(easy, jnp.int32(step), jnp.int32(prefix))) == want


def two_have_been_right(lm, recipe, step):
    """The state of a text whose best prefix has two tokens, and the scores of a memory."""
    cfg = CramConfig(recipe=recipe, vocab_chunk=7)
    states = init_states(np.zeros(1, np.int32), lm.params, module=lm.module, cfg=cfg)
    state = jax.tree.map(lambda leaf: leaf[0], states)
    state = state._replace(
        step=jnp.int32(step), best_prefix=jnp.int32(2), stale=jnp.int32(FRESH)
    )
    return state, functools.partial(
        memory_scores, params=lm.params, module=lm.module, vocab_chunk=7
    )


def assert_step_follows(wanted, lm, recipe, state, tokens):
    """`wanted` is the loss of a memory whose gradient the step should take."""
    grad = jax.jit(jax.grad(wanted))(state.memory)
    updates, _ = optimizer(recipe).update(
        grad, state.opt_state, state.memory, learning_rate=0.1
    )
    want = optax.apply_updates(state.memory, updates)
    cfg = CramConfig(recipe=recipe, vocab_chunk=7)
    step = jax.jit(functools.partial(cram_step, module=lm.module, cfg=cfg))
    new, _ = step(state, tokens, jnp.int32(5), lm.params, cfg.numbers())
    # float64; measured 2e-16. Another loss is 8e-3 away or more.
    np.testing.assert_allclose(new.memory, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("step, hard", first_here([(15, 0.25), (12, 0), (24, 1)]))
def test_a_text_is_written_as_is_right_for_how_hard_it_is(tiny_lm_float64, step, hard):
    """Two tokens have been right, the first of them surely."""
    lm = tiny_lm_float64
    recipe = Recipe(
        learning_rate=0.1,
        max_steps=99,
        patience=99,
        margin=0.1,
        loss="margin",
        grows=True,
        sure_weight=0.01,
        easy=4.0,
        eps=1.0,  # so that a step depends on the size of the gradient
    )
    state, score = two_have_been_right(lm, recipe, step)
    (likeliest,) = decode(lm, np.asarray(state.memory), num_tokens=1)
    tokens = jnp.array([likeliest, 1, 4, 1, 5], jnp.int32)
    margin = jax.jit(score)(state.memory, tokens).margin
    small = jnp.float32(0.01) ** jnp.float32(hard)  # as hardness, of float32 in all LMs
    weight = jnp.where(margin[:3] > 0.1 + SURE, small, 1.0).astype(margin.dtype)
    assert margin[0] > 0.1 + SURE and (weight[1:] == 1).all()

    def wanted(memory):
        scores = score(memory, tokens)
        margins = jnp.log1p(jnp.exp(1.1 - scores.margin[:3]))
        losses = hard * margins + (1 - hard) * scores.loss[:3]
        return (weight * losses).sum() / weight.sum()

    assert_step_follows(wanted, lm, recipe, state, tokens)


@pytest.mark.parametrize(
    "loss, grows, num_read",
    [
        ("margin", True, 3),
        pytest.param("cross_entropy", False, 5, marks=pytest.mark.slow),
        pytest.param("cross_entropy", True, 3, marks=pytest.mark.slow),
    ],
)
def test_a_step_follows_the_loss_of_the_chosen_positions(
    tiny_lm_float64, loss, grows, num_read
):
    """Two leading tokens have been right before, and are not any more."""
    lm = tiny_lm_float64
    recipe = Recipe(
        learning_rate=0.1, max_steps=9, patience=99, margin=0.1, loss=loss, grows=grows
    )
    state, score = two_have_been_right(lm, recipe, step=0)
    tokens = jnp.array([9, 1, 4, 1, 5], jnp.int32)
    margin = jax.jit(score)(state.memory, tokens).margin
    assert margin[0] < 0 and not (margin[:num_read] > SURE).any()  # all weights are alike

    def wanted(memory):
        scores = score(memory, tokens)
        if loss == "margin":
            return jnp.log1p(jnp.exp(1.1 - scores.margin[:num_read])).mean()
        return scores.loss[:num_read].mean()

    assert_step_follows(wanted, lm, recipe, state, tokens)
