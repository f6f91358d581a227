"""Cramming on eight fake devices: what a mesh must not change, and where arrays lie."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from tiny_lm import EIGHT_HEADS, make_tiny_lm, on_devices

from memcomp.cram.config import CramConfig
from memcomp.cram.decode import decode
from memcomp.cram.horizon import Growth, horizons
from memcomp.cram.pool import EMPTY, Pool
from memcomp.cram.recipe import Recipe
from memcomp.cram.schedule import advance_all
from memcomp.data.texts import Text
from memcomp.sharding import BATCH

RECIPE = Recipe(learning_rate=0.5, max_steps=40, patience=40, margin=0.05, b2=0.99)
CFG = CramConfig(recipe=RECIPE, num_memory=2, steps_per_chunk=10, batch_size=5)
MESHES = [(8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2)]
SLOW_MESHES = [pytest.param(m, marks=pytest.mark.slow) for m in MESHES[:3]]


def some_texts(num=12, lengths=(2, 5, 3)):
    rng = np.random.default_rng(4)
    return [
        Text(i, "test", rng.integers(0, 23, lengths[i % len(lengths)]).astype(np.int32))
        for i in range(num)
    ]


def all_results(lm, texts, cfg=CFG, **from_snapshot):
    chunks = advance_all(lm, texts, cfg, **from_snapshot)
    return {r.text_id: r for found, _ in chunks for r in found}


@pytest.fixture(scope="module")
def lm64():
    with jax.enable_x64(True):
        yield make_tiny_lm("float64", EIGHT_HEADS)


@pytest.fixture(scope="module")
def alone(lm64):
    """Results of one device; places become free at different times."""
    with jax.enable_x64(True):
        results = all_results(lm64, some_texts())
    assert len({r.steps for r in results.values()}) > 3
    return results


def assert_same(got, want, tolerance):
    assert got.keys() == want.keys()
    for text_id, result in got.items():
        other = want[text_id]
        assert (result.steps, result.prefix) == (other.steps, other.prefix)
        assert (result.accuracy, result.exact) == (other.accuracy, other.exact)
        near = {"rtol": tolerance, "atol": tolerance}
        np.testing.assert_allclose(result.memory, other.memory, **near)
        np.testing.assert_allclose(result.loss_curve, other.loss_curve, **near)
        np.testing.assert_allclose(result.margin, other.margin, **near)
        np.testing.assert_array_equal(result.first_right_steps, other.first_right_steps)
        states = result.opt_state, other.opt_state
        for a, b in zip(*map(jax.tree.leaves, states), strict=True):
            np.testing.assert_allclose(a, b, **near)


@pytest.mark.ci
def test_a_mesh_changes_no_result_of_ggt(lm64):
    """Its eigenvectors are one text's, and lie where the text does."""
    recipe = dataclasses.replace(RECIPE, optimizer="ggt", b1=0.7, b2=0.9, eps=0.01)
    cfg = dataclasses.replace(CFG, recipe=recipe)
    with jax.enable_x64(True):
        want = all_results(lm64, some_texts(6), cfg)
        got = all_results(on_devices(lm64, *MESHES[3]), some_texts(6), cfg)
    # Measured 3e-10 of entries near 0; directions that hardly were in the gradients count
    # up to eps^-1.5 = 1,000 times as much as the first one, and so does their rounding.
    assert_same(got, want, 1e-8)


ONE_MESH = pytest.param(MESHES[3], marks=pytest.mark.ci)


@pytest.mark.parametrize("sizes", [*SLOW_MESHES, ONE_MESH])
def test_a_mesh_changes_no_result(lm64, alone, sizes):
    with jax.enable_x64(True):
        got = all_results(on_devices(lm64, *sizes), some_texts())
    # Measured 7e-14 where memory reaches 5; (8, 1, 1) has the same bits.
    assert_same(got, alone, 1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", MESHES)
def test_a_mesh_changes_float32_by_rounding_only(sizes):
    lm = make_tiny_lm("float32", EIGHT_HEADS)
    want = all_results(lm, some_texts())
    # Measured 7e-5 after 40 steps, where memory reaches 5.
    assert_same(all_results(on_devices(lm, *sizes), some_texts()), want, 1e-3)


@pytest.mark.parametrize(
    "there, here",
    [
        pytest.param((2, 2, 2), (1, 1, 1), marks=pytest.mark.ci),
        pytest.param((1, 1, 1), (8, 1, 1), marks=pytest.mark.slow),
    ],
)
def test_a_snapshot_goes_on_on_another_mesh(lm64, alone, there, here):
    done, texts = {}, some_texts()
    with jax.enable_x64(True):
        chunks = advance_all(on_devices(lm64, *there), texts, CFG)
        for found, pool in itertools.islice(chunks, 3):
            done |= {r.text_id: r for r in found}
            snapshot = pool.snapshot()
        assert 0 < len(done) < len(texts)
        assert (snapshot["ids"] == EMPTY).any() == (len(snapshot["ids"]) != 5)
        lm = on_devices(lm64, *here)
        rest = all_results(lm, texts, done=set(done), snapshot=snapshot)
    assert_same(done | rest, alone, 1e-11)


def test_states_lie_with_their_texts_and_weights_in_parts(lm64):
    with jax.enable_x64(True):
        lm = on_devices(lm64, 2, 2, 2)
        pool = Pool(lm, some_texts(5), CFG)
        for _ in range(2):
            leaves = jax.tree.leaves(pool._states)
            assert {x.sharding.spec[0] for x in leaves} == {BATCH}
            assert {x.addressable_shards[0].data.shape[0] for x in leaves} == {8 / 4}
            pool.advance()
    whole = sum(x.size for x in jax.tree.leaves(lm.params))
    parts = sum(x.addressable_shards[0].data.size for x in jax.tree.leaves(lm.params))
    # All but the norms is cut in two, what has heads or the MLP in four.
    assert parts < 0.4 * whole


@pytest.mark.slow
def test_horizons_and_decoding_on_a_mesh(lm64):
    texts = some_texts(3, lengths=(4, 6))
    cfg = CramConfig(recipe=RECIPE, steps_per_chunk=20, batch_size=2)
    found = []
    with jax.enable_x64(True):
        for lm in (lm64, on_devices(lm64, 2, 2, 2)):
            trials = {}
            for moved, _ in horizons(lm, texts, cfg, Growth(first=2)):
                trials |= {t.text.text_id: t for t in moved}
            found.append(
                {
                    i: (t.exact, t.failed, t.steps, *decode(lm, t.memory, t.exact + 1))
                    for i, t in trials.items()
                }
            )
    assert found[0] == found[1]
