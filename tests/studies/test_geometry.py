"""Geometry of memories: hand-counted cases, and curves on a tiny LM."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memcomp.cram.config import CramConfig
from memcomp.cram.ways.table import memory_scores
from memcomp.errors import InputError
from memcomp.studies import geometry
from memcomp.studies.geometry import (
    CurveConfig,
    Solutions,
    along_curves,
    bezier,
    cosines,
    find_controls,
    length_ratios,
    nearest,
    pairs,
    score,
    vocabulary,
)

CFG = CramConfig(num_tokens=None, num_memory=2)
CURVE = CurveConfig(steps=20, points=2, learning_rate=0.05)
TEXTS = np.array([0, 0, 1, 0, 1])
THETAS = np.linspace(0, 1, 5).tolist()


@pytest.fixture(scope="module")
def solutions(tiny_lm):
    """Of random memories, five that give one text of a token and five that give another."""
    memory = np.random.default_rng(3).standard_normal((100, 2, 16)).astype(np.float32)
    variables = {"params": tiny_lm.params}
    hidden, _ = jax.jit(tiny_lm.module.apply)(variables, memory)
    rows = tiny_lm.module.apply(variables, method="unembedding")
    said = np.asarray(jnp.argmax(hidden[:, -1] @ rows.T, axis=-1))
    words = np.argsort(np.bincount(said))[-2:]
    chosen = np.concatenate([np.flatnonzero(said == word)[:5] for word in words])
    tokens = np.stack([said[chosen], np.zeros(10, int)], 1).astype(np.int32)
    return Solutions(memory[chosen], tokens, np.ones(10, np.int32))


def test_pairs_are_counted_by_hand():
    same = pairs(TEXTS, same=True)
    assert same.tolist() == [[0, 1], [0, 3], [1, 3], [2, 4]]
    assert len(pairs(TEXTS, same=False)) == 10 - 4
    assert len(pairs(TEXTS, same=False, most=4)) == 4
    some = pairs(TEXTS, same=True, most=2, seed=1).tolist()
    assert len(some) == 3 and [2, 4] in some
    assert all(row in same.tolist() for row in some)
    assert some == pairs(TEXTS, same=True, most=2, seed=1).tolist()
    assert len(pairs(np.arange(3), same=True, most=2)) == 0


def test_cosines_are_those_of_the_whole_memory():
    memory = np.array([[[3, 4], [0, 0]], [[4, -3], [0, 2]], [[3, 4], [5, 0]]], np.float32)
    got = cosines(memory, np.array([[0, 1], [0, 2], [2, 2]]))
    assert got == pytest.approx([0, math.sqrt(0.5), 1], abs=1e-12)


def test_a_curve_with_its_control_point_half_way_is_the_straight_line():
    rng = np.random.default_rng(0)
    start, end = rng.standard_normal((2, 2, 3))
    theta = np.linspace(0, 1, 7)[:, None, None]
    got = bezier(start[None], (start + end)[None] / 2, end[None], theta)
    np.testing.assert_allclose(got, (1 - theta) * start + theta * end, atol=1e-15)
    ratio = length_ratios(start[None], (start + end)[None] / 2, end[None])
    assert ratio == pytest.approx([1], abs=1e-12)


def test_a_parabola_by_hand():
    start, control, end = np.array([[[-1.0, 0]], [[0, 2]], [[1, 0]]])[:, None]
    half_way = bezier(start, control, end, np.array(0.5))
    assert half_way.tolist() == [[[0, 1]]]  # y = 1 - x^2
    length = math.sqrt(5) + math.asinh(2) / 2
    assert length_ratios(start, control, end) == pytest.approx([length / 2], rel=1e-12)


@pytest.mark.ci
def test_scores_are_those_of_each_memory_by_itself(tiny_lm, solutions, monkeypatch):
    monkeypatch.setattr(geometry, "GROUP", 4)  # of ten: the last group is filled up
    noise = np.random.default_rng(0).standard_normal(solutions.memory.shape)
    tokens = np.repeat([[3, 7], [1, 4]], 5, axis=0).astype(np.int32)
    noisy = solutions.at(slice(None), solutions.memory + np.float32(noise))
    noisy = noisy._replace(tokens=tokens, lengths=np.arange(10, dtype=np.int32) % 2 + 1)
    got = score(tiny_lm, noisy, CFG)
    assert got.accuracy.shape == (10,)
    one = functools.partial(memory_scores, module=tiny_lm.module, vocab_chunk=23)
    every = jax.vmap(one, (0, 0, None))
    want = jax.jit(every)(noisy.memory, noisy.tokens, tiny_lm.params)
    for i, length in enumerate(noisy.lengths):
        assert got.accuracy[i] == np.mean(want.margin[i, :length] > 0)
        loss = float(np.mean(want.loss[i, :length]))
        assert got.loss_nats[i] == pytest.approx(loss, rel=2e-6)  # measured: 3e-7
    assert score(tiny_lm, solutions, CFG).accuracy.tolist() == [1] * 10


@pytest.mark.slow
def test_curves_are_better_than_straight_lines_and_exact_at_their_ends(tiny_lm, solutions):
    found, rows = solutions, pairs(solutions.tokens[:, 0], same=True, most=5)
    done = []
    bent = find_controls(tiny_lm, found, rows, CFG, CURVE, done.append)
    assert done == [8, 10] and bent.shape == (10, 2, 16)
    start, end = found.memory[rows[:, 0]], found.memory[rows[:, 1]]
    line = along_curves(tiny_lm, found, rows, (start + end) / 2, THETAS, CFG)
    curve = along_curves(tiny_lm, found, rows, bent, THETAS, CFG)
    for scores in (line, curve):
        assert scores.accuracy.shape == (10, 5)
        assert np.all(scores.accuracy[:, [0, -1]] == 1)
    np.testing.assert_allclose(line.loss_nats[:, 0], curve.loss_nats[:, 0], rtol=1e-6)
    assert np.all(curve.loss_nats.mean(1) < line.loss_nats.mean(1))
    # A point in between, by itself.
    middle = found.at(rows[:, 0], (start + 2 * bent + end) / 4)
    want = score(tiny_lm, middle, CFG).loss_nats
    np.testing.assert_allclose(curve.loss_nats[:, 2], want, rtol=2e-6)
    assert np.all(length_ratios(start, bent, end) > 1)

    # A curve does not depend on the others; measured: equal.
    alone = find_controls(tiny_lm, found, rows[7:8], CFG, CURVE)
    np.testing.assert_allclose(alone, bent[7:8], rtol=1e-5)


def test_the_nearest_row_by_direction_and_by_distance():
    table = np.array([[1, 0], [0, 4], [0, 0]], np.float32)
    vectors = np.array([[0, 1], [3, 0.5]], np.float32)
    first, second = nearest(vectors, table)
    assert first == (1.0, 1.0, 1, 1.0, 2)  # a row of zeros is near, and has no direction
    norm = math.hypot(3, 0.5)
    assert second == pytest.approx((norm, 3 / norm, 0, math.hypot(2, 0.5), 0))
    (other,) = nearest(table[1:2], table, np.array([1]))
    assert other == (4.0, 0.0, 0, 4.0, 2)


def test_the_vocabulary_is_what_the_lm_reads(tiny_lm):
    table = vocabulary(tiny_lm)
    tokens = jnp.array([[5, 22]])
    read = tiny_lm.module.apply({"params": tiny_lm.params}, tokens, method="embed")
    assert table.shape == (23, 16) and np.array_equal(read[0], table[[5, 22]])


@pytest.mark.parametrize("changes", [{"steps": 0}, {"points": 0}, {"learning_rate": 0.0}])
def test_bad_curves_are_refused(changes):
    with pytest.raises(InputError, match=f"{next(iter(changes))} is 0"):
        CurveConfig(**changes)
