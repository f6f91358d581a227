"""The loop on the device: oracles in float64, and what must not happen."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from selection import first_here

from memcomp.cram import loop, state
from memcomp.cram.config import CramConfig
from memcomp.cram.loop import cram_chunk, cram_step
from memcomp.cram.rates import stuck_at
from memcomp.cram.recipe import Recipe
from memcomp.cram.state import init_states
from memcomp.cram.ways.table import memory_scores

RECIPE = Recipe(learning_rate=0.1, max_steps=40, patience=25, margin=0.05, b2=0.99)
CFG = CramConfig(recipe=RECIPE, num_memory=2, steps_per_chunk=10, vocab_chunk=7)
LENGTHS = (3, 5, 3)
PROGRAMS = loop._cram_chunk, state._init_states
SCORE = jax.jit(memory_scores, static_argnames=("module", "vocab_chunk"))


def some_texts(rows=3, length=5):
    tokens = np.random.default_rng(1).integers(0, 23, (rows, length)).astype(np.int32)
    return tokens, np.array(LENGTHS[:rows], np.int32)


def start(lm, cfg, rows=3):
    ids = np.arange(rows, dtype=np.int32)
    return init_states(ids, lm.params, module=lm.module, cfg=cfg)


def run_chunks(lm, cfg, tokens, lengths, num_chunks):
    states = start(lm, cfg, len(tokens))
    for _ in range(num_chunks):
        states, _ = cram_chunk(
            states, tokens, lengths, lm.params, module=lm.module, cfg=cfg
        )
    return states


def assert_equal(got, want, **tolerance):
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True
    ):
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(a, b, err_msg=name, **tolerance)


def one_by_one(lm, cfg, tokens, lengths):
    """Each text alone, unpadded, step by step until it is done: the slow obvious loop."""
    step = jax.jit(functools.partial(cram_step, module=lm.module, cfg=cfg))
    states = []
    first = start(lm, cfg, len(lengths))
    for i, length in enumerate(lengths):
        state = jax.tree.map(lambda leaf, i=i: leaf[i], first)
        while not state.done:
            text, tail = tokens[i, :length], (lm.params, cfg.numbers())
            state, _ = step(state, text, jnp.int32(length), *tail)
        states.append(state)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


@pytest.mark.parametrize(
    "protocol", ["strict", pytest.param("reference", marks=pytest.mark.slow)]
)
def test_batch_equals_texts_one_by_one(tiny_lm_float64, protocol):
    lm = tiny_lm_float64
    cfg = CramConfig(
        recipe=RECIPE, num_memory=2, steps_per_chunk=10, vocab_chunk=7, protocol=protocol
    )
    tokens, lengths = some_texts()
    got = run_chunks(lm, cfg, tokens, lengths, num_chunks=4)
    want = one_by_one(lm, cfg, tokens, lengths)
    assert np.all(got.done)
    # float64, up to 40 steps: measured 2e-12 where memory reaches 3.
    assert_equal(got, want, rtol=1e-10, atol=1e-10)


@pytest.mark.ci
def test_chunks_equal_a_while_loop(tiny_lm_float64):
    lm = tiny_lm_float64
    tokens, lengths = some_texts()
    step = functools.partial(cram_step, module=lm.module, cfg=CFG)

    def to_end(state, text, length):
        return jax.lax.while_loop(
            lambda s: ~s.done,
            lambda s: step(s, text, length, lm.params, CFG.numbers())[0],
            state,
        )

    want = jax.jit(jax.vmap(to_end))(start(lm, CFG), tokens, lengths)
    got = run_chunks(lm, CFG, tokens, lengths, num_chunks=4)
    assert_equal(got, want, rtol=1e-10, atol=1e-10)


def test_a_finished_text_is_frozen(tiny_lm):
    tokens, lengths = some_texts()
    ended = run_chunks(tiny_lm, CFG, tokens, lengths, num_chunks=4)
    assert np.all(ended.done)
    kept = jax.tree.map(lambda leaf: np.array(leaf, copy=True), ended)
    later, _ = cram_chunk(
        ended, tokens, lengths, tiny_lm.params, module=tiny_lm.module, cfg=CFG
    )
    assert_equal(later, kept, rtol=0, atol=0)


def test_right_padding_changes_nothing(tiny_lm_float64):
    lm = tiny_lm_float64
    tokens, lengths = some_texts()
    noise = np.random.default_rng(2).integers(0, 23, tokens.shape).astype(np.int32)
    padding = np.arange(tokens.shape[1]) >= lengths[:, None]
    other = np.where(padding, noise, tokens)
    longer = np.concatenate([other, noise[:, :3]], axis=1)
    got = run_chunks(lm, CFG, longer, lengths, num_chunks=2)
    want = run_chunks(lm, CFG, tokens, lengths, num_chunks=2)
    assert_equal(got, want, rtol=1e-10, atol=1e-10)


def test_one_text_never_sees_another(tiny_lm):
    tokens, lengths = some_texts()
    changed = tokens.copy()
    changed[1:] = (changed[1:] + 1) % 23
    got = run_chunks(tiny_lm, CFG, changed, lengths, num_chunks=1)
    want = run_chunks(tiny_lm, CFG, tokens, lengths, num_chunks=1)
    np.testing.assert_array_equal(got.memory[0], want.memory[0])
    assert not np.array_equal(got.memory[1], want.memory[1])


def test_gradient_reaches_memory_and_is_that_of_the_plain_loss(tiny_lm_float64):
    """And no weight: the weights are arguments that nothing differentiates."""
    lm = tiny_lm_float64
    tokens = jnp.asarray(some_texts()[0][1])
    memory = 0.3 * jax.random.normal(jax.random.key(3), (2, 16))

    def plain(memory):
        x = jnp.concatenate([memory, lm.params["embedding"][tokens[:-1]]])
        hidden, _ = lm.module.apply({"params": lm.params}, x[None])
        log_probs = jax.nn.log_softmax(hidden[0, 1:] @ lm.params["head"].T)
        return -jnp.take_along_axis(log_probs, tokens[:, None], axis=1).mean()

    def ours(memory):
        scores = SCORE(memory, tokens, lm.params, module=lm.module, vocab_chunk=7)
        return scores.loss.mean()

    loss, grad = jax.jit(jax.value_and_grad(ours))(memory)
    want_loss, want_grad = jax.jit(jax.value_and_grad(plain))(memory)
    np.testing.assert_allclose(loss, want_loss, rtol=1e-12)
    np.testing.assert_allclose(grad, want_grad, rtol=1e-9, atol=1e-12)
    assert np.all(np.any(np.asarray(grad) != 0, axis=1))


def test_a_chunk_leaves_the_weights_alone(tiny_lm):
    before = jax.tree.map(lambda leaf: np.array(leaf, copy=True), tiny_lm.params)
    tokens, lengths = some_texts()
    run_chunks(tiny_lm, CFG, tokens, lengths, num_chunks=1)
    assert_equal(tiny_lm.params, before, rtol=0, atol=0)


def test_the_kept_memory_is_the_one_that_scored(tiny_lm_float64):
    lm = tiny_lm_float64
    tokens, lengths = some_texts()
    states = run_chunks(lm, CFG, tokens, lengths, num_chunks=4)
    for i, length in enumerate(lengths):
        scores = SCORE(
            states.best_memory[i],
            jnp.asarray(tokens[i, :length]),
            lm.params,
            module=lm.module,
            vocab_chunk=7,
        )
        np.testing.assert_allclose(states.best_loss[i], scores.loss.mean(), rtol=1e-9)
        np.testing.assert_allclose(states.best_margin[i], scores.margin.min(), rtol=1e-8)
        assert np.isclose(states.best_accuracy[i], np.mean(scores.margin > 0))


def test_a_text_stops_at_the_margin_the_patience_or_the_budget(tiny_lm):
    tokens, lengths = some_texts()
    states = run_chunks(tiny_lm, CFG, tokens, lengths, num_chunks=4)
    solved = np.asarray(states.best_margin > RECIPE.margin)
    stale = np.asarray(states.stale >= RECIPE.patience)
    spent = np.asarray(states.step == RECIPE.max_steps)
    assert np.all(solved | stale | spent)
    impatient = CramConfig(recipe=RECIPE, num_memory=2, patience=2, margin=1e6)
    states = run_chunks(tiny_lm, impatient, tokens, lengths, num_chunks=1)
    assert np.all(states.done) and np.all(states.stale == 2)


def test_an_exact_memory_is_kept_although_a_longer_prefix_was_surer(tiny_lm_float64):
    """Exact, but with no prefix that is right by the margin, of which there was one."""
    lm = tiny_lm_float64
    grows = Recipe(learning_rate=0.5, max_steps=200, patience=200, margin=0.05, grows=True)
    tokens = jnp.asarray(some_texts()[0][0, :3])
    one, length = start(lm, CramConfig(recipe=grows, num_memory=2), rows=1), jnp.int32(3)
    states, _ = cram_chunk(
        one,
        tokens[None],
        length[None],
        lm.params,
        module=lm.module,
        cfg=CramConfig(recipe=grows, num_memory=2, steps_per_chunk=200),
    )
    exact = jax.tree.map(lambda leaf: leaf[0], states)
    assert exact.best_margin > 0.05
    cfg = CramConfig(recipe=dataclasses.replace(grows, margin=1e3), num_memory=2)
    begun = jax.tree.map(lambda leaf: leaf[0], start(lm, cfg, rows=1))
    step = jax.jit(functools.partial(cram_step, module=lm.module, cfg=cfg))
    before = begun._replace(memory=exact.best_memory, best_prefix=jnp.int32(2))
    found, _ = step(before, tokens, length, lm.params, cfg.numbers())
    np.testing.assert_array_equal(found.best_memory, exact.best_memory)
    assert found.best_accuracy == 1 and found.best_prefix == 2
    # What is surer of a prefix and not exact does not take its place, and is progress.
    worse = found._replace(memory=begun.memory, best_prefix=jnp.int32(-1))
    after, _ = step(worse, tokens, length, lm.params, cfg.numbers())
    np.testing.assert_array_equal(after.best_memory, exact.best_memory)
    assert after.best_accuracy == 1 and after.best_prefix >= 0 and after.stale == 0


@pytest.mark.parametrize("unit_rate", first_here([True, False]))
def test_a_rate_in_units_is_of_the_size_of_input_vectors(tiny_lm, unit_rate):
    # GGT's first step has a root mean square of 1 before it is multiplied by the rate.
    changes = dict(optimizer="ggt", b1=0.7, b2=0.9, weight_decay=0.0, unit_rate=unit_rate)
    cfg = CramConfig(recipe=dataclasses.replace(RECIPE, **changes), num_memory=2)
    tokens, lengths = some_texts(1)
    begun = jax.tree.map(lambda leaf: leaf[0], start(tiny_lm, cfg, rows=1))
    length, tail = jnp.int32(lengths[0]), (tiny_lm.params, cfg.numbers())
    step = jax.jit(functools.partial(cram_step, module=tiny_lm.module, cfg=cfg))
    new, _ = step(begun, jnp.asarray(tokens[0]), length, *tail)
    unit = np.std(np.asarray(tiny_lm.params["embedding"])) if unit_rate else 1.0
    moved = np.sqrt(np.mean(np.square(new.memory - begun.memory)))
    assert moved == pytest.approx(0.1 * unit, rel=1e-4)
    assert unit_rate == (abs(unit - 1) > 0.1)  # the two cases differ


@pytest.mark.parametrize("unit_rate", [False, True])
def test_a_start_in_steps_is_so_many_times_as_large_as_the_first_step(tiny_lm, unit_rate):
    changes = dict(optimizer="ggt", b1=0.7, b2=0.9, weight_decay=0.0, unit_rate=unit_rate)
    changes |= dict(init="steps", init_scale=8.0)
    cfg = CramConfig(recipe=dataclasses.replace(RECIPE, **changes), num_memory=500)
    unit = np.std(np.asarray(tiny_lm.params["embedding"])) if unit_rate else 1.0
    memory = start(tiny_lm, cfg, rows=1).memory
    np.testing.assert_allclose(np.std(memory), 8 * RECIPE.learning_rate * unit, rtol=0.02)


def test_a_stuck_text_begins_again_twice_and_is_then_given_up(tiny_lm):
    recipe = Recipe(
        learning_rate=5.0,
        unit_rate=True,
        max_steps=1000,
        patience=50,
        margin=1e3,  # no token is ever right
        schedule="restarts",
        optimizer="ggt",
        b1=0.7,
        weight_decay=0.0,
        init="steps",
        init_scale=3.0,
        grows=True,
        stuck_after=4,
    )
    cfg = CramConfig(recipe=recipe, num_memory=2)
    tokens, lengths = some_texts(1)
    state = jax.tree.map(lambda leaf: leaf[0], start(tiny_lm, cfg, rows=1))
    step = jax.jit(functools.partial(cram_step, module=tiny_lm.module, cfg=cfg))
    tail = jnp.asarray(tokens[0]), jnp.int32(lengths[0]), tiny_lm.params, cfg.numbers()
    sizes, moves, memories, best = [], [], [], []
    while not state.done:
        new, _ = step(state, *tail)
        sizes.append(_size(new.memory) / state.unit)
        moves.append(_size(new.memory - state.memory) / state.unit)
        memories.append(new.memory)
        best.append(new.best_memory)
        state = new
    # The first step is progress, from no prefix to one of 0 tokens. Then the text begins
    # twice, after 4 steps for each of 10 tokens; the second time, its steps are smaller.
    assert len(sizes) == 1 + 40 + 40 + 50
    assert sizes[40] == pytest.approx(3 * 5, rel=1e-4)
    assert sizes[80] == pytest.approx(3 * 0.2, rel=1e-4)
    assert moves[39] < 1 and moves[41] > 4.9
    assert moves[79] < 1 and 0.19 < moves[81] < 0.21
    assert state.scale == np.float32(0.04)  # also after progress, see below
    # It points elsewhere at first: each row's numbers are one place further, but for the
    # step before that, whose rate is that of a beginning.
    before, after = memories[39:41]
    turned = 5 / sizes[39]  # sine of the angle by which such a step turns it at the most
    assert turned < 0.15 and _cosine(before, after) < 0.6
    assert _cosine(jnp.roll(before, 1, 1), after) > np.sqrt(1 - turned**2)
    # Then to where its best memory points.
    assert _cosine(memories[79], memories[80]) < 0.6
    assert _cosine(best[79], memories[80]) == pytest.approx(1, abs=1e-5)


def test_a_text_that_begins_again_with_small_steps_keeps_them(tiny_lm):
    state = jax.tree.map(lambda leaf: leaf[0], start(tiny_lm, CFG, rows=1))
    tokens, lengths = some_texts(1)
    tail = jnp.asarray(tokens[0]), jnp.int32(lengths[0]), tiny_lm.params, CFG.numbers()
    moves = []
    for scale in 1.0, 0.04:
        small = state._replace(scale=jnp.float32(scale))
        new, _ = cram_step(small, *tail, module=tiny_lm.module, cfg=CFG)
        assert new.stale == 0 and new.scale == jnp.float32(scale)
        moves.append(_size(new.memory - state.memory))
    assert moves[1] == pytest.approx(0.04 * moves[0], rel=1e-3)


def test_a_stuck_text_whose_best_memory_is_zeros_stays_finite(tiny_lm):
    """A given start may be zeros, which cannot be scaled to any size."""
    changes = dict(grows=True, stuck_after=4, margin=1e3, patience=100)
    cfg = CramConfig(recipe=dataclasses.replace(RECIPE, **changes), num_memory=2)
    state = jax.tree.map(lambda leaf: leaf[0], start(tiny_lm, cfg, rows=1))
    stuck = dict(best_prefix=jnp.int32(0), best_loss=-jnp.inf, stale=jnp.int32(79))
    zeros = state._replace(best_memory=jnp.zeros_like(state.memory), **stuck)
    tokens, lengths = some_texts(1)
    tail = jnp.asarray(tokens[0]), jnp.int32(lengths[0]), tiny_lm.params, cfg.numbers()
    new, _ = cram_step(zeros, *tail, module=tiny_lm.module, cfg=cfg)
    np.testing.assert_array_equal(new.memory, 0)
    assert new.stale == 80 and new.scale == np.float32(0.04)


def _cosine(x, y):
    return float(jnp.vdot(x, y) / jnp.linalg.norm(x) / jnp.linalg.norm(y))


def _size(x):
    return float(jnp.sqrt(jnp.mean(x**2)))


@pytest.mark.parametrize(
    "stuck_after, prefix, want",
    [(4, -1, 40), (4, 9, 40), (4, 10, 44), (4, 48, 196), (4, 49, 0), (0, 9, 0)],
)
def test_a_text_is_stuck_where_its_prefix_took_fewer_steps(stuck_after, prefix, want):
    assert stuck_at(stuck_after, 200, jnp.int32(prefix)) == want
    on_host = stuck_at(stuck_after, 200, np.array([prefix], np.int32))
    assert isinstance(on_host, np.ndarray) and on_host.tolist() == [want]


def test_memory_starts_from_seed_and_text_alone(tiny_lm):
    all_three = start(tiny_lm, CFG).memory
    last = init_states(
        np.array([2], np.int32), tiny_lm.params, module=tiny_lm.module, cfg=CFG
    )
    np.testing.assert_array_equal(all_three[2], last.memory[0])
    other_seed = CramConfig(recipe=RECIPE, num_memory=2, seed=1)
    assert not np.array_equal(all_three, start(tiny_lm, other_seed).memory)


def test_reference_init_has_the_std_of_the_embeddings(tiny_lm):
    cfg = CramConfig(recipe="reference", num_memory=500)
    memory = start(tiny_lm, cfg, rows=1).memory
    std = np.asarray(tiny_lm.params["embedding"]).std()
    np.testing.assert_allclose(np.std(memory), std, rtol=0.02)


def test_seeds_rates_and_budgets_share_one_program(tiny_lm):
    """4 seeds x 2 learning rates, and every other number that no shape depends on."""
    tokens, lengths = some_texts()
    memories = []
    before = [program._cache_size() for program in PROGRAMS]
    for seed in range(4):
        for rate in (0.1, 0.2):
            recipe = dataclasses.replace(
                RECIPE, learning_rate=rate, max_steps=40 + seed, margin=0.1 * seed
            )
            cfg = dataclasses.replace(CFG, recipe=recipe, seed=seed, patience=9 + seed)
            states = run_chunks(tiny_lm, cfg, tokens, lengths, num_chunks=1)
            memories.append(np.asarray(states.memory))
    grown = [p._cache_size() - b for p, b in zip(PROGRAMS, before, strict=True)]
    assert max(grown) <= 1  # 0 where another test has compiled it
    assert len({memory.tobytes() for memory in memories}) == 8
