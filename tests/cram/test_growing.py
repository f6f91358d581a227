"""A recipe that grows computes the beginnings of texts, and its results do not show it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memcomp.cram import program_size
from memcomp.cram.config import CramConfig
from memcomp.cram.loop import cram_step
from memcomp.cram.objective import SHORT, looked_at
from memcomp.cram.pool import Pool
from memcomp.cram.program_size import padded_length
from memcomp.cram.recipe import Recipe
from memcomp.cram.schedule import advance_all
from memcomp.cram.state import init_states
from memcomp.cram.ways.table import memory_scores
from memcomp.data.texts import Text

RECIPE = Recipe(
    learning_rate=0.5, max_steps=150, patience=60, margin=0.05, grows=True, ahead=1
)
CFG = CramConfig(recipe=RECIPE, num_memory=8, steps_per_chunk=10, batch_size=3)
LENGTHS = (23, 17, 19)


@pytest.fixture
def texts():
    rng = np.random.default_rng(3)
    return [
        Text(i, "test", rng.integers(0, 23, length).astype(np.int32))
        for i, length in enumerate(LENGTHS)
    ]


def all_results(lm, texts):
    return {r.text_id: r for found, _ in advance_all(lm, texts, CFG) for r in found}


def assert_same(got, want, tolerance):
    assert got.keys() == want.keys()
    for i, result in got.items():
        other = want[i]
        assert result.steps == other.steps and result.token_steps == other.token_steps
        for name in ("memory", "loss_nats", "loss_curve", "accuracy_curve"):
            a, b = getattr(result, name), getattr(other, name)
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
        np.testing.assert_array_equal(result.first_right_steps, other.first_right_steps)


def with_programs(monkeypatch, flops):
    """What a compilation costs, from now on; the lengths of the programs that are run."""
    monkeypatch.setitem(program_size.COMPILATION, "cpu", flops)
    lengths, real = [], Pool._batch

    def batch(pool):
        tokens, whole = real(pool)
        lengths.append(tokens.shape[1])
        return tokens, whole

    monkeypatch.setattr(Pool, "_batch", batch)
    return lengths


@pytest.mark.parametrize(
    "stale, want",
    [(0, [SHORT, 12, 24, 40, 5]), (19, [SHORT, 12, 24, 40, 5]), (20, [8, 8, 19, 40, 5])],
)
def test_what_is_looked_at_goes_by_the_prefix_and_how_new_it_is(stale, want):
    lengths, prefixes = np.array([40, 40, 40, 40, 5]), np.array([-1, 5, 17, 39, 3])
    np.testing.assert_array_equal(looked_at(lengths, prefixes, stale, 2), want)
    since = jnp.full(5, stale, jnp.int32)
    on_device = looked_at(jnp.array(lengths), jnp.array(prefixes), since, 2)
    np.testing.assert_array_equal(on_device, want)


def test_padded_lengths_cover_what_is_needed_and_pay(monkeypatch):
    monkeypatch.setitem(program_size.COMPILATION, "cpu", 0)
    free = [padded_length(needed, 100, 8, 1000) for needed in range(1, 101)]
    assert sorted(set(free)) == [9, 12, 17, 23, 31, 42, 56, 75, 100]
    assert all(length >= needed for needed, length in enumerate(free, start=1))
    monkeypatch.setitem(program_size.COMPILATION, "cpu", 4.0 * 1000 * 8 * 40 * 30)
    dear = {padded_length(needed, 100, 8, 1000) for needed in range(1, 101)}
    assert dear == {100, 56, 23}  # each saves 30 tokens or more
    assert padded_length(1, 100, 1, 1) == 100


@pytest.mark.ci
def test_padding_changes_no_result(tiny_lm_float64, texts, monkeypatch):
    lengths = with_programs(monkeypatch, 0)
    got = all_results(tiny_lm_float64, texts)
    assert min(lengths) < 12 and len(set(lengths)) > 2
    with monkeypatch.context() as patch:
        whole = with_programs(patch, np.inf)
        want = all_results(tiny_lm_float64, texts)
    assert set(whole) == {19, 23}  # buckets
    # Measured 2e-12, in float64 after up to 150 steps.
    assert_same(got, want, 1e-10)
    for i, result in got.items():
        assert result.token_steps < result.steps * LENGTHS[i]


@pytest.mark.ci
def test_a_result_is_of_the_whole_text(tiny_lm_float64, texts, monkeypatch):
    """Also where the search has looked at a part of it and was given up."""
    lm = tiny_lm_float64
    with_programs(monkeypatch, 0)
    score = jax.jit(memory_scores, static_argnames=("module", "vocab_chunk"))
    some_fail = set()
    for i, result in all_results(lm, texts).items():
        tokens = texts[i].tokens
        padded = np.pad(tokens, (0, max(LENGTHS) - len(tokens)))  # one program for all
        scores = score(result.memory, padded, lm.params, module=lm.module, vocab_chunk=7)
        loss, margin = (np.asarray(x)[: len(tokens)] for x in scores)
        right = margin > 0
        assert result.accuracy == right.mean() and result.exact == right.all()
        np.testing.assert_allclose(result.loss_nats, np.mean(loss), rtol=1e-9)
        np.testing.assert_allclose(result.margin, np.min(margin), rtol=1e-6)
        assert (margin[: result.prefix] > RECIPE.margin).all()
        assert len(result.first_right_steps) == len(tokens)
        some_fail.add(result.exact)
    assert False in some_fail


def test_a_step_is_the_same_on_any_array_that_has_what_it_looks_at(tiny_lm_float64, texts):
    lm, text, length = tiny_lm_float64, texts[0], np.int32(LENGTHS[0])
    static = {"module": lm.module, "cfg": CFG}
    states = init_states(np.array([0], np.int32), lm.params, **static)
    state = jax.tree.map(lambda leaf: leaf[0], states)._replace(best_prefix=np.int32(7))
    step = jax.jit(functools.partial(cram_step, **static))
    looked = int(looked_at(np.array(LENGTHS[0]), np.array(7), 0, RECIPE.ahead))
    tail = length, lm.params, CFG.numbers()
    want, seen = step(state, text.tokens, *tail)
    assert int(seen["looked_at"]) == looked == 13
    right = float(np.sum(seen["right"][:looked]))
    assert float(seen["accuracy"]) == pytest.approx(right / LENGTHS[0], rel=1e-6)
    got, _ = step(state, text.tokens[:looked], *tail)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)
    # With one token less it waits, and nothing of it changes.
    waits, _ = step(state, text.tokens[: looked - 1], *tail)
    for a, b in zip(jax.tree.leaves(waits), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.ci
def test_a_run_resumes_at_any_padded_length(tiny_lm, texts, monkeypatch):
    with_programs(monkeypatch, 0)
    want, snapshots, done = {}, [], []
    for found, pool in advance_all(tiny_lm, texts, CFG):
        want |= {r.text_id: r for r in found}
        done += [r.text_id for r in found]
        snapshots.append((set(done), pool.snapshot()))
    for before, snapshot in snapshots[::4]:
        chunks = advance_all(tiny_lm, texts, CFG, done=before, snapshot=snapshot)
        got = {r.text_id: r for found, _ in chunks for r in found}
        missing = want.keys() - before
        assert missing == got.keys() - before
        assert_same({i: got[i] for i in missing}, {i: want[i] for i in missing}, 0)


def stepped(lm, cfg, **changes):
    """A text's first state with `changes`, and its step as a function of state and text."""
    static = {"module": lm.module, "cfg": cfg}
    states = init_states(np.array([0], np.int32), lm.params, **static)
    state = jax.tree.map(lambda leaf: leaf[0], states)._replace(**changes)
    step = jax.jit(functools.partial(cram_step, **static))

    def run(state, tokens):
        return step(state, tokens, np.int32(len(tokens)), lm.params, cfg.numbers())[0]

    return state, run


def test_a_text_is_not_solved_by_the_beginning_that_was_looked_at(tiny_lm_float64, texts):
    lm = tiny_lm_float64
    shorts = [Text(t.text_id, "test", t.tokens[:SHORT]) for t in texts]
    results = all_results(lm, shorts).values()
    result = next(r for r in results if r.margin > RECIPE.margin)
    tokens = texts[result.text_id].tokens
    state, step = stepped(lm, CFG, memory=result.memory)
    assert step(state, tokens[:SHORT]).done
    found = step(state, tokens)
    assert not found.done and found.best_prefix == SHORT and found.stale == 0
    assert found.best_margin == -np.inf


def test_memories_with_one_prefix_are_compared_by_it_and_the_next_token(
    tiny_lm_float64, texts
):
    lm, tokens = tiny_lm_float64, texts[0].tokens
    score = jax.jit(memory_scores, static_argnames=("module", "vocab_chunk"))
    state, step = stepped(lm, CFG)
    memories = [state.memory * scale for scale in np.linspace(-2, 2, 41)]
    static = {"module": lm.module, "vocab_chunk": 7}
    scores = [score(m, tokens[:SHORT], lm.params, **static) for m in memories]
    found = [
        (float(s.loss[0]), float(s.loss.mean()), memory)
        for s, memory in zip(scores, memories, strict=True)
        if s.margin[0] <= RECIPE.margin  # the prefix is empty
    ]
    first, second = next(
        (a, b) for a in found for b in found if b[0] < a[0] - 0.1 and b[1] > a[1] + 0.1
    )
    kept = step(state._replace(memory=first[2]), tokens)
    np.testing.assert_array_equal(kept.best_memory, first[2])
    kept = step(kept._replace(memory=second[2]), tokens)
    np.testing.assert_array_equal(kept.best_memory, second[2])
    kept = step(kept._replace(memory=first[2]), tokens)
    np.testing.assert_array_equal(kept.best_memory, second[2])
