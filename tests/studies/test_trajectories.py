"""Trajectories and their principal components."""

import dataclasses

import jax
import numpy as np
import pytest
from cramming_run import RECIPE
from tiny_lm import EIGHT_HEADS, make_tiny_lm, on_devices

from memcomp.cram.config import CramConfig
from memcomp.cram.recipe import Recipe
from memcomp.cram.schedule import advance_all
from memcomp.data.texts import Text
from memcomp.studies.trajectories import initial_memories, pca, trajectories


def test_components_are_the_eigenvectors_of_the_covariance():
    rng = np.random.default_rng(0)
    points = rng.standard_normal((40, 6)) @ rng.standard_normal((6, 6)) + 3
    found = pca(points, 3)
    values, vectors = np.linalg.eigh(np.cov(points.T))
    share = values[::-1] / values.sum()
    np.testing.assert_allclose(found.explained, share, rtol=1e-12)
    overlap = np.abs(found.components @ vectors[:, ::-1][:, :3])
    np.testing.assert_allclose(overlap, np.eye(3), atol=1e-12)
    spread = np.var(found.project(points), axis=0, ddof=1)
    np.testing.assert_allclose(spread, values[::-1][:3], rtol=1e-12)


def test_points_on_a_line_by_hand():
    found = pca(np.array([[0.0, 0], [-3, -4], [-6, -8]]), 1)
    np.testing.assert_allclose(found.components, [[0.6, 0.8]], atol=1e-12)
    np.testing.assert_allclose(found.explained, [1, 0], atol=1e-12)
    np.testing.assert_allclose(
        found.project(np.array([[3.0, 4]])), [[np.hypot(6, 8)]], rtol=1e-12
    )


def test_points_that_are_all_the_same_have_no_variance():
    assert pca(np.ones((2, 3)), 1).explained.tolist() == [0, 0]


def test_a_trajectory_goes_from_the_start_to_what_cramming_keeps(tiny_lm):
    rng = np.random.default_rng(5)
    texts = [
        Text(i, "test", rng.integers(0, 23, n).astype(np.int32))
        for i, n in ((100_000, 1), (3, 2), (4, 8))
    ]
    recipe = Recipe(**{**RECIPE, "max_steps": 43})
    cfg = CramConfig(num_tokens=None, num_memory=2, recipe=recipe, steps_per_chunk=4)
    crammed, on_the_way = {}, []
    for done, pool in advance_all(tiny_lm, texts, cfg):  # the same program: equal
        crammed |= {result.text_id: result for result in done}
        on_the_way.append(pool.snapshot()["state.memory"])
    found = trajectories(tiny_lm, texts, dataclasses.replace(cfg, steps_per_chunk=9), 4)
    starts = initial_memories(tiny_lm, [t.text_id for t in texts], cfg)
    assert {t.exact for t in found} == {True, False}
    for i, (text, trajectory) in enumerate(zip(texts, found, strict=True)):
        result = crammed[text.text_id]
        assert trajectory.exact == result.exact
        last = result.steps
        assert trajectory.steps.tolist() == [*range(0, last, 4), last]
        np.testing.assert_array_equal(trajectory.memory[0], starts[i])
        np.testing.assert_array_equal(trajectory.memory[-1], result.memory)
        assert len(trajectory.memory) == len(trajectory.steps)
    for k in range(1, len(found[2].steps) - 1):
        np.testing.assert_array_equal(found[2].memory[k], on_the_way[k - 1][2])
    assert not np.allclose(starts[0], starts[1])


@pytest.mark.ci
def test_a_mesh_of_more_devices_than_texts_changes_no_trajectory():
    """With GGT, whose decomposition each device does for its own texts."""
    texts = [Text(0, "test", np.array([3, 1, 4], np.int32))]
    recipe = Recipe(**RECIPE | {"optimizer": "ggt", "max_steps": 12})
    cfg = CramConfig(recipe=recipe, num_memory=2)
    with jax.enable_x64(True):
        alone = make_tiny_lm("float64", EIGHT_HEADS)
        (want,) = trajectories(alone, texts, cfg, every=4)
        (got,) = trajectories(on_devices(alone, 2, 2, 2), texts, cfg, every=4)
    np.testing.assert_array_equal(got.steps, want.steps)
    # Measured 7e-14.
    np.testing.assert_allclose(got.memory, want.memory, rtol=0, atol=1e-11)
