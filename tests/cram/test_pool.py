"""The loop on the host: buckets, places, refilling, snapshots."""

import dataclasses
import functools
import re

import jax
import numpy as np
import pytest
from selection import first_here

from memcomp.cram import program_size
from memcomp.cram.api import cram
from memcomp.cram.config import CramConfig
from memcomp.cram.loop import cram_step
from memcomp.cram.pool import Pool
from memcomp.cram.recipe import Recipe
from memcomp.cram.schedule import advance_all, buckets
from memcomp.cram.slot import NEVER
from memcomp.cram.state import init_states
from memcomp.data.texts import Text
from memcomp.errors import InputError

RECIPE = Recipe(learning_rate=0.5, max_steps=40, patience=40, margin=0.05, b2=0.99)


def config(**changes):
    fields = {"recipe": RECIPE, "num_memory": 2, "steps_per_chunk": 10, "batch_size": 3}
    return CramConfig(**{**fields, **changes})


def some_texts(num=8, lengths=(2, 5, 3)):
    rng = np.random.default_rng(4)
    return [
        Text(i, "test", rng.integers(0, 23, lengths[i % len(lengths)]).astype(np.int32))
        for i in range(num)
    ]


def all_results(lm, texts, cfg):
    return {r.text_id: r for found, _ in advance_all(lm, texts, cfg) for r in found}


def assert_same(got, want, **tolerance):
    assert got.keys() == want.keys()
    for text_id, result in got.items():
        other = want[text_id]
        assert result.steps == other.steps
        np.testing.assert_allclose(result.memory, other.memory, **tolerance)
        np.testing.assert_allclose(result.loss_nats, other.loss_nats, **tolerance)
        np.testing.assert_allclose(result.loss_curve, other.loss_curve, **tolerance)
        np.testing.assert_array_equal(result.tokens, other.tokens)
        np.testing.assert_array_equal(result.first_right_steps, other.first_right_steps)


def test_refilling_equals_one_fixed_batch(tiny_lm_float64):
    texts = some_texts()
    refilled = all_results(tiny_lm_float64, texts, config(batch_size=3))
    fixed = all_results(tiny_lm_float64, texts, config(batch_size=8))
    assert (
        len({r.steps for r in fixed.values()}) > 2
    )  # places become free at different times
    # float64, up to 40 steps: measured 1e-13.
    assert_same(refilled, fixed, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "protocol", ["reference", pytest.param("strict", marks=pytest.mark.slow)]
)
def test_first_right_steps_are_those_of_single_steps(tiny_lm_float64, protocol):
    lm, cfg = tiny_lm_float64, config(protocol=protocol)
    text = some_texts(lengths=(5,))[0]
    result = all_results(lm, [text], cfg)[0]
    ids, static = np.array([0], np.int32), {"module": lm.module, "cfg": cfg}
    state = jax.tree.map(lambda leaf: leaf[0], init_states(ids, lm.params, **static))
    step = jax.jit(functools.partial(cram_step, **static))
    want = np.full(5, NEVER)
    for i in range(result.steps):
        state, seen = step(state, text.tokens, np.int32(5), lm.params, cfg.numbers())
        want = np.where((want == NEVER) & np.asarray(seen["right"]), i, want)
    want[: cfg.num_given] = NEVER
    assert len(set(want)) > 2
    np.testing.assert_array_equal(result.first_right_steps, want)


def test_order_of_the_texts_does_not_matter(tiny_lm_float64):
    texts = some_texts()
    cfg = config()
    forwards = all_results(tiny_lm_float64, texts, cfg)
    backwards = all_results(tiny_lm_float64, texts[::-1], cfg)
    assert_same(backwards, forwards, rtol=1e-10, atol=1e-10)


def test_a_snapshot_after_any_chunk_goes_on_to_the_same_results(tiny_lm):
    texts, cfg = some_texts(), config()
    want, done, snapshots = {}, [], []
    for found, pool in advance_all(tiny_lm, texts, cfg):
        snapshots.append(
            (set(done), pool.snapshot())
        )  # killed before the lines are written
        want |= {r.text_id: r for r in found}
        done += [r.text_id for r in found]
        snapshots.append((set(done), pool.snapshot()))
    for before, snapshot in snapshots[1::3]:
        chunks = advance_all(tiny_lm, texts, cfg, done=before, snapshot=snapshot)
        got = {r.text_id: r for found, _ in chunks for r in found}
        missing = want.keys() - before
        assert missing <= got.keys() | before
        rest = {i: got[i] for i in missing if i in got}
        assert_same(rest, {i: want[i] for i in rest}, rtol=0, atol=0)


def test_a_snapshot_does_not_change_when_the_pool_goes_on(tiny_lm):
    """On a CPU the host's view of an array is the buffer that is donated next."""
    pool = Pool(tiny_lm, some_texts(3), config())
    pool.advance()
    snapshot = pool.snapshot()
    kept = {name: array.copy() for name, array in snapshot.items()}
    pool.advance()
    for name, array in kept.items():
        np.testing.assert_array_equal(snapshot[name], array)


@pytest.mark.parametrize(
    "name, left",
    [
        ("state.scale", None),  # as versions before this field have left it
        ("state.opt_state", None),
        ("state.opt_state", np.zeros((3, 4, 6))),
    ],
)
def test_a_snapshot_of_another_version_is_refused(tiny_lm, name, left):
    """One without an array of the states, and one whose array has another shape."""
    texts, cfg = some_texts(3), config()
    snapshot = Pool(tiny_lm, texts, cfg).snapshot()
    name = next(key for key in snapshot if key.startswith(name))
    changed = {key: array for key, array in snapshot.items() if key != name}
    changed |= {} if left is None else {name: left}
    want = re.escape(f"the {name} of the texts in flight is not as") + ".*begin anew"
    with pytest.raises(InputError, match=want):
        next(advance_all(tiny_lm, texts, cfg, snapshot=changed))


@pytest.mark.slow
def test_a_pool_shrinks_once_empty_places_have_cost_a_compilation(
    tiny_lm_float64, monkeypatch
):
    params = sum(leaf.size for leaf in jax.tree.leaves(tiny_lm_float64.params))
    # What three chunks of a pool of 8 with one text in flight cost for nothing.
    compilation = 3 * 7 * 4.0 * params * 8 * config().steps_per_chunk
    monkeypatch.setitem(program_size.COMPILATION, "cpu", compilation)
    texts = some_texts(8, lengths=(2, 2, 2, 2, 2, 2, 2, 8))
    cfg = config(batch_size=8, margin=0.0, max_steps=200, patience=200)
    sizes, results = [], {}
    for found, pool in advance_all(tiny_lm_float64, texts, cfg):
        sizes.append(len(pool.snapshot()["ids"]))
        results |= {r.text_id: r for r in found}
    alone = next(i for i, size in enumerate(sizes) if size < 8)
    assert sizes == [8] * alone + [1] * (len(sizes) - alone) and alone < len(sizes) - 1
    whole = all_results(tiny_lm_float64, texts[-1:], cfg)  # a program that is there
    assert_same({7: results[7]}, whole, rtol=1e-10, atol=1e-10)
    # Never, where a compilation costs more than all that is wasted.
    monkeypatch.setitem(program_size.COMPILATION, "cpu", 1e30)
    chunks = advance_all(tiny_lm_float64, texts, cfg)
    assert {len(pool.snapshot()["ids"]) for _, pool in chunks} == {8}


def test_buckets_hold_every_text_once_and_pad_little():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 500, 300)
    texts = [Text(i, "", np.zeros(n, np.int32)) for i, n in enumerate(lengths)]
    groups = buckets(texts)
    assert sorted(t.text_id for g in groups for t in g) == list(range(300))
    for group in groups:
        sizes = [len(t.tokens) for t in group]
        assert max(sizes) <= max(8, min(sizes) * 4 / 3)


def test_results_come_in_the_order_of_the_texts(tiny_lm):
    arrays = [text.tokens for text in some_texts()]
    cfg, chunks = config(num_tokens=None), []
    results = cram(tiny_lm, arrays, cfg, lambda: chunks.append(1))
    assert len(chunks) * cfg.steps_per_chunk >= max(r.steps for r in results)
    assert [r.text_id for r in results] == list(range(8))
    for result, tokens in zip(results, arrays, strict=True):
        np.testing.assert_array_equal(result.tokens, tokens)
        assert result.token_steps == result.steps * len(tokens)
        assert result.exact == (result.accuracy == 1.0)
        assert len(result.loss_curve) == result.steps


@pytest.mark.parametrize(
    "length, changes, words",
    [
        (64, {}, "64 tokens, which with their memory need 65"),
        (1, {"protocol": "reference"}, "gives 1"),
    ],
)
def test_a_text_that_cannot_be_crammed_is_refused(tiny_lm, length, changes, words):
    texts = [Text(0, "a.txt", np.zeros(length, np.int32))]
    with pytest.raises(InputError, match=words):
        next(advance_all(tiny_lm, texts, config(**changes)))


def test_no_texts_are_refused(tiny_lm):
    with pytest.raises(InputError, match="no texts"):
        next(advance_all(tiny_lm, [], config()))


def test_a_text_that_diverges_keeps_what_it_had(tiny_lm):
    wild = Recipe(learning_rate=1e30, max_steps=40, patience=40, margin=1e9)
    for result in all_results(tiny_lm, some_texts(2), config(recipe=wild)).values():
        assert result.diverged_at == result.steps == len(result.loss_curve) > 0
        assert np.isfinite(result.loss_curve).all() and np.isfinite(result.memory).all()
        assert np.isfinite([result.loss_nats, result.margin]).all()


@pytest.mark.parametrize("stuck_after, more", first_here([(3, 60), (0, 0), (4, 0)]))
def test_steps_left_are_those_until_a_text_is_given_up(tiny_lm, stuck_after, more):
    # No token is ever right, and 3 steps for each of 10 tokens are fewer than the patience.
    changes = dict(margin=1e3, grows=True, stuck_after=stuck_after, max_steps=1000)
    cfg = config(recipe=dataclasses.replace(RECIPE, **changes), steps_per_chunk=11)
    pool = Pool(tiny_lm, some_texts(1), cfg)
    pool.advance()
    assert [one.steps_left for one in pool.flying()] == [30 + more]
    (result,) = [r for _ in range(10) if pool.num_flying for r in pool.advance()]
    assert result.steps == 11 + 30 + more


def test_a_text_that_diverges_stops_no_other(tiny_lm_float64):
    lm, cfg, texts = tiny_lm_float64, config(), some_texts()
    states = init_states(np.array([1]), lm.params, module=lm.module, cfg=cfg)
    start = jax.tree.map(lambda leaf: np.array(leaf[0]), states)
    lost = start._replace(memory=np.full_like(start.memory, np.inf))
    pool, got = Pool(lm, texts, cfg, num_tokens=5, starts={1: lost}), {}
    while pool.num_flying:
        got |= {r.text_id: r for r in pool.advance()}
    one = got.pop(1)
    assert (one.diverged_at, one.steps, one.accuracy, one.prefix) == (0, 0, 0.0, 0)
    assert not one.exact and np.all(one.first_right_steps == NEVER)
    assert all(result.diverged_at is None for result in got.values())
    others = Pool(lm, texts, cfg, done={1}, num_tokens=5)
    want = {}
    while others.num_flying:
        want |= {r.text_id: r for r in others.advance()}
    assert_same(got, want, rtol=1e-9)
