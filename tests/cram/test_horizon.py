"""Horizons: the order of targets against an oracle, and growth on a tiny LM."""

import dataclasses
import math

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from selection import first_here

from memcomp.cram.config import CramConfig
from memcomp.cram.horizon import Growth, Trial, horizons, next_target
from memcomp.cram.recipe import Recipe
from memcomp.cram.result import CramResult
from memcomp.cram.ways.table import memory_scores
from memcomp.data.texts import Text
from memcomp.errors import InputError

RECIPE = Recipe(
    learning_rate=0.5,
    max_steps=80,
    patience=60,
    margin=0.05,
    b2=0.99,
    warmup_steps=5,
    schedule="cosine",
    final_learning_rate=0.01,
)
CFG = CramConfig(
    recipe=RECIPE, num_memory=6, steps_per_chunk=10, batch_size=3, vocab_chunk=7
)


def a_text(length, text_id=0, seed=0):
    tokens = np.random.default_rng([seed, text_id]).integers(0, 23, length)
    return Text(text_id, "test", tokens.astype(np.int32))


def targets(true_horizon, length, growth, num_given=0):
    """What is tried if exactness holds up to `true_horizon`, and the last trial."""
    trial, tried = Trial(a_text(length)), []
    cfg = dataclasses.replace(CFG, protocol=("strict", "reference")[num_given])
    assert cfg.num_given == num_given
    while (target := next_target(trial, growth, cfg)) is not None:
        assert target not in tried and num_given < target <= length
        tried.append(target)
        solved = target <= true_horizon
        change = {"exact": target} if solved else {"failed": target}
        trial = dataclasses.replace(trial, **change)
    return tried, trial


@pytest.mark.parametrize(
    "true_horizon, growth, want",
    [
        (3, Growth(1, 1.0), [1, 2, 3, 4]),
        (3, Growth(1, 2.0), [1, 2, 4, 3]),
        (9, Growth(2, 2.0), [2, 4, 8, 16, 12, 10, 9]),
        (0, Growth(4, 2.0), [4, 2, 1]),
        (50, Growth(3, 2.0), [3, 6, 12, 20]),
        (50, Growth(3, 2.0, most=7), [3, 6, 7]),
        (5, Growth(2, 1.5), [2, 3, 4, 6, 5]),
    ],
)
def test_targets_by_hand(true_horizon, growth, want):
    assert targets(true_horizon, 20, growth)[0] == want


@pytest.mark.parametrize(
    "exact, failed, most, want",
    [
        (0, None, None, 20),
        (7, None, None, 20),
        (0, None, 9, 9),
        (9, None, 9, None),
        (7, 8, None, None),
        (0, 1, None, None),
    ],
)
def test_the_target_of_a_recipe_that_grows_is_the_whole_text(exact, failed, most, want):
    trial = Trial(a_text(20), exact=exact, failed=failed)
    cfg = dataclasses.replace(CFG, recipe=dataclasses.replace(RECIPE, grows=True))
    assert next_target(trial, Growth(2, 2.0, most=most), cfg) == want


@given(
    true_horizon=st.integers(0, 300),
    length=st.integers(2, 300),
    first=st.integers(1, 40),
    factor=st.sampled_from([1.0, 1.3, 2.0, 4.0]),
    num_given=st.sampled_from([0, 1]),
)
def test_growth_ends_at_the_horizon(true_horizon, length, first, factor, num_given):
    growth = Growth(first, factor)
    tried, trial = targets(true_horizon, length, growth, num_given)
    if factor == 1:  # no way back: the first target may be too long already
        want = min(true_horizon, length)
        assert trial.exact == (
            want if want >= min(max(first, num_given + 1), length) else 0
        )
        return
    # A given token alone is no target.
    want = min(true_horizon, length)
    assert trial.exact == (want if want > num_given else 0)
    if factor == 2:
        assert len(tried) <= 2 * math.log2(length + first) + 3


@pytest.mark.parametrize("changes", [{"first": 0}, {"factor": 0.5}, {"most": 0}])
def test_a_growth_that_cannot_be_is_refused(changes):
    with pytest.raises(InputError, match="must be 1 or more"):
        Growth(**changes)


def a_result(num_tokens, prefix, exact, num_given=0):
    """Of a target; the rest is of no interest here."""
    return CramResult(
        text_id=0,
        restart=0,
        seed_id=0,
        source="test",
        tokens=a_text(num_tokens).tokens,
        memory=np.full((1, 2), prefix, np.float32),
        num_parameters=2,
        accuracy=1.0 if exact else 0.5,
        prefix=prefix,
        loss_nats=1.0,
        min_loss_nats=1.0,
        margin=0.0,
        steps=3,
        token_steps=3 * num_tokens,
        way="vectors",
        protocol="reference" if num_given else "strict",
        num_given=num_given,
        lm_name="test",
        lm_fingerprint="0",
        seconds=0.0,
        loss_curve=np.ones(3, np.float32),
        accuracy_curve=np.ones(3, np.float32),
        first_right_steps=np.zeros(num_tokens, np.int32),
        opt_state=prefix,
    )


@pytest.mark.parametrize(
    "result, grows, want",
    [
        (a_result(8, 8, True), False, (8, None, 8)),
        (a_result(8, 7, True), False, (8, None, 7)),  # one token is right by very little
        (a_result(8, 6, False), False, (6, 8, 6)),
        (a_result(8, 3, False), False, (4, 8, 4)),
        (a_result(8, 6, False), True, (6, 7, 6)),
        (a_result(8, 3, False), True, (4, 5, 4)),
    ],
)
def test_a_failed_target_leaves_its_exact_prefix(result, grows, want):
    trial = Trial(a_text(9), exact=4, memory=np.full((1, 2), 4, np.float32), opt_state=4)
    after = trial.after(result, grows)
    assert (after.exact, after.failed, after.memory[0, 0]) == want
    assert after.opt_state == want[2]
    assert (after.steps, after.token_steps, after.num_targets) == (3, 24, 1)


@pytest.mark.parametrize("grows, failed", [(False, 4), (True, 2)])
def test_what_is_given_is_no_exact_prefix(grows, failed):
    after = Trial(a_text(9)).after(a_result(4, 1, False, num_given=1), grows)
    assert (after.exact, after.failed, after.memory) == (0, failed, None)


def find(lm, texts, cfg=CFG, growth=Growth(2, 2.0), trials=None):  # noqa: B008
    found = dict(trials or {})
    for moved, _ in horizons(lm, texts, cfg, growth, trials):
        found |= {trial.text.text_id: trial for trial in moved}
    return found


def assert_same(got, want, tolerance=1e-8):
    assert got.keys() == want.keys()
    for i, trial in want.items():
        for name in ("exact", "failed", "steps", "token_steps", "num_targets"):
            assert getattr(got[i], name) == getattr(trial, name), name
        np.testing.assert_allclose(
            got[i].memory, trial.memory, rtol=tolerance, atol=tolerance
        )


def some_texts():
    # Longer than one padded length, so that trials move on to the next.
    return [a_text(length, i) for i, length in enumerate((14, 9, 14, 3, 12))]


@pytest.mark.parametrize(
    "protocol, factor, grows",
    [
        ("strict", 2.0, False),
        pytest.param("reference", 2.0, True, marks=pytest.mark.ci),
        pytest.param("strict", 2.0, True, marks=pytest.mark.slow),
        pytest.param("reference", 1.0, False, marks=pytest.mark.slow),
    ],
)
def test_a_horizon_is_exact_from_its_memory_and_the_next_target_failed(
    tiny_lm_float64, protocol, factor, grows
):
    lm = tiny_lm_float64
    # One growing target needs more steps than 80.
    recipe = dataclasses.replace(RECIPE, grows=grows, max_steps=200 if grows else 80)
    cfg = dataclasses.replace(CFG, protocol=protocol, recipe=recipe)
    texts = some_texts()
    found = find(lm, texts, cfg, Growth(2, factor))
    assert len({trial.exact for trial in found.values()}) > 2
    score = jax.jit(memory_scores, static_argnames=("module", "vocab_chunk"))
    for text in texts:
        trial = found[text.text_id]
        assert next_target(trial, Growth(2, factor), cfg) is None
        if trial.exact < len(text.tokens):
            assert trial.failed == max(trial.exact, cfg.num_given, 1) + 1
        # All texts at one length, one program: no score depends on later tokens.
        tokens = np.resize(text.tokens, 14)
        scores = score(trial.memory, tokens, lm.params, module=lm.module, vocab_chunk=7)
        assert (scores.margin[cfg.num_given : trial.exact] > 0).all()


@pytest.mark.parametrize("grows", [False, pytest.param(True, marks=pytest.mark.ci)])
def test_a_text_does_not_depend_on_its_batch(tiny_lm_float64, grows):
    cfg = dataclasses.replace(CFG, recipe=dataclasses.replace(RECIPE, grows=grows))
    texts = some_texts()
    together = find(tiny_lm_float64, texts, cfg)
    alone = {}
    for text in texts:
        alone |= find(tiny_lm_float64, [text], cfg)
    # Measured 1.7e-7: the last bit of a step, which hundreds of steps of AdamW amplify.
    assert_same(together, alone, 1e-6)
    assert grows == all(trial.num_targets == 1 for trial in together.values())


@pytest.mark.ci
def test_trials_that_are_given_are_gone_on_from(tiny_lm_float64):
    lm, texts = tiny_lm_float64, some_texts()
    want = find(lm, texts)
    chunks = horizons(lm, texts, CFG, Growth(2, 2.0))
    trials = {text.text_id: Trial(text) for text in texts}
    for _ in range(4):
        moved, _ = next(chunks)
        trials |= {trial.text.text_id: trial for trial in moved}
    assert any(trial.exact for trial in trials.values())
    assert_same(find(lm, texts, trials=trials), want)


@pytest.mark.parametrize("grows", first_here([False, True]))
def test_a_longer_target_starts_from_the_shorter_ones_memory_and_moments(
    tiny_lm_float64, grows
):
    from memcomp.cram.horizon import _start

    lm = tiny_lm_float64
    cfg = dataclasses.replace(CFG, recipe=dataclasses.replace(RECIPE, grows=grows))
    trial = find(lm, [a_text(9)], cfg, growth=Growth(2, 2.0, most=2))[0]
    assert trial.exact == 2
    state = _start(lm, cfg, trial)
    np.testing.assert_array_equal(state.memory, trial.memory)
    adam, *_ = state.opt_state
    assert int(adam.count) == trial.steps > 0
    assert np.abs(adam.mu).max() > 0 and not state.done
    assert int(state.step) == (trial.steps if grows else 0)
    assert int(state.best_prefix) == (trial.exact if grows else -1)


@pytest.mark.slow
def test_each_target_of_a_recipe_that_does_not_grow_has_all_its_steps(tiny_lm_float64):
    """Two exact targets of a text take more than `max_steps` of one together."""
    steps = {}
    for max_steps in (80, 50):
        recipe = dataclasses.replace(RECIPE, max_steps=max_steps, schedule="constant")
        cfg = dataclasses.replace(CFG, recipe=recipe)
        growth = Growth(2, 1.5, most=4)
        trial = find(tiny_lm_float64, [a_text(9)], cfg, growth)[0]
        assert trial.exact == 4
        steps[max_steps] = trial.steps
    assert steps[50] == steps[80] > 50
