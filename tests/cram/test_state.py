"""Cramming from given vectors."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_lm import make_tiny_lm

from memcomp.cram.api import cram
from memcomp.cram.config import CramConfig
from memcomp.cram.loop import cram_step
from memcomp.cram.recipe import RECIPES
from memcomp.cram.state import init_states, states_from
from memcomp.errors import InputError

TEXTS = [np.arange(2, 2 + n, dtype=np.int32) for n in (2, 4)]
CFG = CramConfig(num_tokens=None, num_memory=2, max_steps=300, steps_per_chunk=20)


@pytest.fixture(scope="module")
def lm():
    return make_tiny_lm("float32")


@pytest.mark.ci
def test_the_recipes_own_start_changes_nothing_and_a_result_is_exact_at_once(lm):
    found = init_states(np.arange(2), lm.params, module=lm.module, cfg=CFG)
    want = cram(lm, TEXTS, CFG)
    assert all(result.exact and result.steps > 1 for result in want)
    got = cram(lm, TEXTS, CFG, starts=list(np.asarray(found.memory)))
    for one, other in zip(got, want, strict=True):
        np.testing.assert_array_equal(one.memory, other.memory)
        assert one.steps == other.steps
    again = cram(lm, TEXTS, CFG, starts=[result.memory for result in want])
    assert [result.steps for result in again] == [1, 1]


def test_coordinates_of_a_low_dimensional_recipe_begin_at_the_start(lm):
    """A step that is nearly nothing leaves memory where it was given."""
    recipe = dataclasses.replace(
        RECIPES["low_dim"], learning_rate=1e-9, warmup_steps=0, weight_decay=0.0, rank=4
    )
    cfg = dataclasses.replace(CFG, recipe=recipe)
    start = np.full((2, 16), 0.5, np.float32)
    (state,) = states_from(lm, [start], cfg)
    state = jax.tree.map(jnp.asarray, state)
    step = jax.jit(functools.partial(cram_step, module=lm.module, cfg=cfg))
    new, _ = step(state, jnp.asarray(TEXTS[1]), jnp.int32(4), lm.params, cfg.numbers())
    np.testing.assert_allclose(new.memory, start, atol=1e-5)


@pytest.mark.parametrize(
    "starts, message",
    [
        ([np.zeros((2, 16))], "there are 1 starts for 2 texts"),
        ([np.zeros((2, 16)), np.zeros((1, 16))], r"start of text 1 is \(1, 16\)"),
        ([np.full((2, 16), np.nan)] * 2, "start of text 0 is .* not finite"),
    ],
)
def test_starts_that_do_not_fit_are_refused(lm, starts, message):
    with pytest.raises(InputError, match=message):
        cram(lm, TEXTS, CFG, starts=starts)
