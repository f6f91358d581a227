"""The ways of writing: what the LM reads for a memory, and the whole loop in each way."""

import dataclasses
import functools
import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from selection import first_here

import memcomp
from memcomp.cram.config import CramConfig
from memcomp.cram.horizon import Growth, horizons
from memcomp.cram.recipe import RECIPES, Recipe
from memcomp.cram.schedule import advance_all
from memcomp.cram.ways.table import WAYS, memory_scores, scores_given_memory
from memcomp.data.texts import Text
from memcomp.lm.cache import as_numbers, from_numbers, has_positions, num_numbers
from memcomp.lm.load import load_lm
from memcomp.lm.protocol import embed, hidden_states
from memcomp.nn.cross_entropy import token_scores

GOLDEN = pathlib.Path(__file__).parents[2] / "golden"
# Windows and two kinds of rotary layers; a state in place of keys and values.
CASES = ("gemma3", "mamba")
OTHERS = (
    "llama_grouped_queries",
    "gpt2",
    "gpt_neox",
    "gpt_neo",
    "mistral",
    "olmo",
    "olmo2",
    "opt",
)
OTHERS += ("qwen2", "qwen3", "smollm3")
FAST_COMPILE = {"xla_backend_optimization_level": 0}
START, M, T = 3, 4, 9
RECIPE = Recipe(learning_rate=0.3, max_steps=300, patience=300, margin=0.05)


def fast(function, **options):
    return jax.jit(function, compiler_options=FAST_COMPILE, **options)


@functools.cache
def golden_lm(case):
    return load_lm(str(GOLDEN / case))


def some_tokens(seed, *shape):
    return np.random.default_rng(seed).integers(23, size=shape).astype(np.int32)


# One program for each shape, and not for each call.
fast_scores = fast(memory_scores, static_argnames=("module", "vocab_chunk", "way", "start"))
fast_embed = fast(embed, static_argnames="module")
fast_cache = fast(WAYS["cache"].of_tokens, static_argnames="module")


def scores(lm, way, memory, tokens):
    options = {"module": lm.module, "vocab_chunk": 7, "way": way, "start": START}
    return fast_scores(memory, tokens, lm.params, **options)


@functools.partial(fast, static_argnames="module")
def scores_at(params, vectors, first, tokens, *, module):
    """Of tokens that the vectors from `first` on predict, by one pass without a cache."""
    hidden = hidden_states(params, vectors[None], module=module)[0]
    hidden = jax.lax.dynamic_slice_in_dim(hidden, first, len(tokens))
    rows = module.apply({"params": params}, method="unembedding")
    return token_scores(hidden, rows, tokens, softcap=module.softcap)


def scores_of_vectors(lm, vectors, tokens):
    """Of the tokens that the last of the vectors predict."""
    # Later vectors change nothing before them: zeros make one program of all lengths.
    padded = np.zeros((M + 1 + T, vectors.shape[1]), np.float32)
    padded[: len(vectors)] = vectors
    first = len(vectors) - len(tokens)
    return scores_at(lm.params, padded, first, jnp.asarray(tokens), module=lm.module)


def vectors_of(lm, tokens):
    return fast_embed(lm.params, tokens[None], module=lm.module)[0]


def cache_of(lm, tokens):
    return fast_cache(lm.params, tokens, module=lm.module)


@pytest.mark.parametrize(
    "case", [*CASES, *(pytest.param(case, marks=pytest.mark.ci) for case in OTHERS)]
)
def test_a_cache_of_real_tokens_is_worth_the_tokens(case):
    lm = golden_lm(case)
    before, text = some_tokens(0, M), some_tokens(1, T)
    read = np.concatenate([before, [START], text[:-1]]).astype(np.int32)
    want = scores_of_vectors(lm, vectors_of(lm, read), text)
    memory = cache_of(lm, before)
    assert memory.shape == (M if has_positions(lm.module) else 1, num_numbers(lm.module))
    got = scores(lm, "cache", memory, text)
    # Measured 1.2e-5, where losses reach 40.
    np.testing.assert_allclose(got.loss, want.loss, atol=5e-5, rtol=0)
    np.testing.assert_allclose(got.margin, want.margin, atol=5e-5, rtol=0)
    assert np.abs(scores(lm, "cache", memory + 0.1, text).loss - want.loss).max() > 1e-2


@pytest.mark.parametrize("case", first_here(["mamba", "llama_grouped_queries", "gemma3"]))
def test_decoding_goes_on_after_a_cache_as_after_its_tokens(case):
    lm = golden_lm(case)
    before = some_tokens(0, 2, M)
    memory = np.stack([cache_of(lm, row) for row in before])
    start = np.zeros((2, 1), np.int32)  # a golden LM has no tokenizer
    read = np.concatenate([before, start], axis=1)
    want = memcomp.decode(lm, np.stack([vectors_of(lm, row) for row in read]), 7)
    np.testing.assert_array_equal(memcomp.decode(lm, memory, 7, way="cache"), want)
    given = some_tokens(5, 2, 2)
    read = np.concatenate([read, given], axis=1)
    want = memcomp.decode(lm, np.stack([vectors_of(lm, row) for row in read]), 5)
    got = memcomp.decode(lm, memory, 7, given, way="cache")
    np.testing.assert_array_equal(got, np.concatenate([given, want], axis=1))


@pytest.mark.parametrize("case", ["gemma3", "mamba"])
def test_a_cache_is_its_numbers_and_back(case):
    lm = golden_lm(case)
    numbers = np.random.default_rng(0).normal(size=(3, M, num_numbers(lm.module)))
    numbers = jnp.asarray(numbers[:, : M if has_positions(lm.module) else 1], jnp.float32)
    cache = from_numbers(numbers, M + 5, jnp.float32, module=lm.module)
    assert cache.length == numbers.shape[1]
    got = as_numbers(cache, numbers.shape[1], module=lm.module)
    np.testing.assert_array_equal(got, numbers)


@pytest.mark.parametrize("way", ["one_step", "one_step_after"])
@pytest.mark.parametrize("num_e", [1, pytest.param(3, marks=pytest.mark.ci)])
def test_one_step_predicts_token_i_from_the_vectors_up_to_i(tiny_lm, way, num_e):
    memory = np.random.default_rng(0).normal(size=(num_e + 1, 16)).astype(np.float32)
    text = some_tokens(1, T)
    got = scores(tiny_lm, way, memory, text)
    rows = [*memory[:-1], *[memory[-1]] * T]
    for i in range(T):
        seen = rows[: i + 1 + (num_e if way == "one_step_after" else 0)]
        want = scores_of_vectors(tiny_lm, np.stack(seen), text[i : i + 1])
        np.testing.assert_allclose(got.loss[i], want.loss[0], atol=2e-5)
    decoded = memcomp.decode(tiny_lm, memory, T, way=way)
    assert (scores(tiny_lm, way, memory, decoded).margin > 0).all()
    # Tokens after the end of a text change nothing before it.
    longer = scores(tiny_lm, way, memory, np.concatenate([text, text]))
    np.testing.assert_allclose(longer.loss[:T], got.loss, atol=2e-5)


@pytest.mark.parametrize("way", ["one_step", "one_step_after", "one_step_shared"])
def test_one_step_counts_the_positions_that_it_reads(tiny_lm, way):
    num_texts = WAYS[way].num_texts(3)
    rows = jnp.zeros((WAYS[way].rows(3), 16))
    group = jnp.zeros(num_texts * T, jnp.int32)
    x, _ = WAYS[way].inputs(tiny_lm.params, rows, group, START, module=tiny_lm.module)
    assert x.shape[:2] == (num_texts, WAYS[way].num_positions(3, T))


def texts_of(*lengths):
    return [Text(i, "test", some_tokens(10 + i, n)) for i, n in enumerate(lengths)]


def config(way, **changes):
    recipe = changes.pop("recipe", RECIPE)
    options = {"batch_size": 2, "steps_per_chunk": 25, "num_tokens": None} | changes
    return CramConfig(memory=way, recipe=recipe, **options)


@pytest.fixture()
def starting_lm(tiny_lm):
    """An LM whose texts begin with a token that is not 0."""
    tokenizer = types.SimpleNamespace(bos_token_id=START, eos_token_id=None)
    return dataclasses.replace(tiny_lm, tokenizer=tokenizer)


@pytest.mark.parametrize("way", first_here(WAYS))
def test_what_is_exact_comes_back_from_the_file(starting_lm, way, tmp_path):
    lm = starting_lm
    texts = [text.tokens for text in texts_of(3, 2, 3, 2)]
    results = memcomp.cram(lm, texts, config(way, num_memory=2))
    assert sum(r.exact for r in results) >= 2
    num_memory = 2 // WAYS[way].num_texts(2)
    memcomp.save_memory(tmp_path / "m.safetensors", results)
    stored = memcomp.load_memory(tmp_path / "m.safetensors", lm)
    for result in results:
        memory = stored[str(result.seed_id)]
        assert memory.way == way
        assert memory.memory.shape == (
            WAYS[way].rows(num_memory),
            WAYS[way].width(lm.module),
        )
        got = memcomp.decode(lm, memory.memory, len(result.tokens), way=memory.way)
        assert np.array_equal(got, result.tokens) == result.exact
        found = scores_given_memory(lm, result.memory[None], result.tokens[None], way)
        assert found.loss.mean() == pytest.approx(result.loss_nats, abs=1e-4)
        assert found.margin.min() == pytest.approx(result.margin, abs=1e-4)


def test_a_group_is_read_as_its_texts_are(tiny_lm):
    """Token i of each of three texts, and of the first two only where the text ends.

    Each text is read as the start token, its own vector, and the shared vector.
    """
    vectors = np.random.default_rng(0).normal(size=(4, 16)).astype(np.float32)
    start = vectors_of(tiny_lm, np.array([START]))
    group = some_tokens(1, 3, T)
    together = scores(tiny_lm, "one_step_shared", vectors, group.T.reshape(-1)[:-1])
    for i, text in enumerate(group):
        rows = np.concatenate([start, vectors[i][None], [vectors[3]] * (T - 1)])
        alone = scores_of_vectors(tiny_lm, rows, text)
        num = T if i < 2 else T - 1
        for got, want in zip(together, alone, strict=True):
            np.testing.assert_allclose(got[i::3], want[:num], atol=2e-5)
    decoded = memcomp.decode(tiny_lm, vectors, 3 * T, way="one_step_shared")
    for i, row in enumerate(vectors[:3]):
        own = np.stack([row, vectors[3]])
        alone = memcomp.decode(tiny_lm, own, T, way="one_step_shared")
        np.testing.assert_array_equal(decoded[i::3], alone)


@pytest.mark.ci
def test_texts_of_a_group_share_their_last_row_and_its_cost(tiny_lm):
    texts = [text.tokens for text in texts_of(3, 4, 3, 4, 4, 3, 4, 4, 4)]
    results = memcomp.cram(tiny_lm, texts, config("one_step_shared", num_memory=3))
    assert [r.text_id for r in results] == list(range(9))
    for group in (0, 2, 5), (1, 3, 4), (6, 7, 8):
        first, *others = (results[i] for i in group)
        assert first.num_parameters == 21  # 16, and a third of 16
        for other in others:
            np.testing.assert_array_equal(other.memory[1], first.memory[1])
            assert (other.memory[0] != first.memory[0]).any()
            assert other.steps == first.steps
        assert first.token_steps == first.steps * len(first.tokens)
    assert (results[0].memory[1] != results[1].memory[1]).any()
    for result in results:
        in_time = result.first_right_steps[result.first_right_steps >= 0]
        assert (in_time < result.steps).all()
        assert not result.exact or len(in_time) == len(result.tokens)


def test_a_group_is_crammed_again_until_all_its_texts_have_results(tiny_lm):
    texts = texts_of(3, 4, 3, 4)
    cfg = config("one_step_shared", num_memory=2, max_steps=25)
    for done, wanted in (set(), {0, 1, 2, 3}), ({0, 1, 3}, {0, 2}), ({0, 1, 2, 3}, set()):
        chunks = advance_all(tiny_lm, texts, cfg, done=done)
        assert {r.text_id for found, _ in chunks for r in found} == wanted


@pytest.mark.parametrize(
    "way",
    [
        "cache",
        *(pytest.param(n, marks=pytest.mark.ci) for n in ("one_step", "one_step_shared")),
    ],
)
def test_a_run_that_was_stopped_ends_with_the_same_results(tiny_lm, way):
    texts, cfg = texts_of(5, 6, 4), config(way, max_steps=100)
    if way == "one_step_shared":
        texts, cfg = texts_of(5, 6, 4, 4, 6, 5), dataclasses.replace(cfg, num_memory=2)
    want, snapshots = {}, []
    for found, pool in advance_all(tiny_lm, texts, cfg):
        want |= {r.text_id: r for r in found}
        snapshots.append((set(want), pool.snapshot()))
    before, snapshot = snapshots[1]
    chunks = advance_all(tiny_lm, texts, cfg, done=before, snapshot=snapshot)
    got = {r.text_id: r for found, _ in chunks for r in found}
    assert got and got.keys() == want.keys() - before
    for i, result in got.items():
        np.testing.assert_array_equal(result.memory, want[i].memory)
        assert result.steps == want[i].steps


@pytest.mark.parametrize("way", ["cache", pytest.param("one_step", marks=pytest.mark.ci)])
def test_horizons_grow_in_every_way(tiny_lm, way):
    growing = Recipe(learning_rate=0.3, max_steps=200, patience=60, margin=0.05, grows=True)
    texts, cfg = texts_of(10, 12), config(way, recipe=growing)
    trials = {}
    for moved, _ in horizons(tiny_lm, texts, cfg, Growth(first=2, factor=1.5)):
        trials |= {trial.text.seed_id: trial for trial in moved}
    assert min(trial.exact for trial in trials.values()) > 0
    for trial in trials.values():
        got = memcomp.decode(tiny_lm, trial.memory, trial.exact, way=way)
        np.testing.assert_array_equal(got, trial.text.tokens[: trial.exact])


@pytest.mark.ci
def test_the_init_of_tokens_is_the_cache_of_the_first_ones(tiny_lm):
    recipe = Recipe(learning_rate=1e-9, max_steps=1, patience=1, margin=0.0, init="tokens")
    for way in "cache", "vectors":
        (text,) = texts_of(6)
        [result] = memcomp.cram(
            tiny_lm, [text.tokens], config(way, recipe=recipe, num_memory=3)
        )
        first = text.tokens[:3]
        want = cache_of(tiny_lm, first) if way == "cache" else vectors_of(tiny_lm, first)
        np.testing.assert_allclose(result.memory, want, atol=1e-6)


@pytest.mark.ci
def test_the_normal_init_has_the_scale_of_a_real_cache(tiny_lm):
    way, lm = WAYS["cache"], tiny_lm
    unit = way.unit(lm.params, START, module=lm.module)
    row = way.of_tokens(lm.params, jnp.array([START]), module=lm.module)[0]
    assert unit.shape == row.shape
    by_array = row.reshape(2, 2, -1), unit.reshape(2, 2, -1)  # keys and values, layers
    np.testing.assert_allclose(
        np.sqrt(np.mean(by_array[0] ** 2, -1)), by_array[1][..., 0], rtol=1e-5
    )


def test_the_default_of_a_group_brings_its_texts_back(tiny_lm):
    cfg = config("one_step_shared", recipe="default", num_memory=2)
    results = memcomp.cram(tiny_lm, [text.tokens for text in texts_of(3, 3)], cfg)
    assert all(result.exact for result in results)


def test_published_recipes_of_a_way():
    assert config("cache", recipe="reference").resolved_recipe().max_steps == 10_000
    assert config("one_step", recipe="reference").resolved_recipe().init_scale == 1.0
    assert config("vectors", recipe="reference").resolved_recipe() == RECIPES["reference"]
    changed = config("cache", recipe="reference", max_steps=7).resolved_recipe()
    assert changed.max_steps == 7


def test_what_a_way_cannot_do_is_said(tiny_lm):
    with pytest.raises(memcomp.InputError, match="memory 'cash' is not one of vectors"):
        CramConfig(memory="cash")
    with pytest.raises(memcomp.InputError, match="set protocol to strict"):
        CramConfig(memory="one_step", protocol="reference")
    with pytest.raises(memcomp.InputError, match="set num_memory to 1"):
        memcomp.cram(golden_lm("mamba"), [some_tokens(0, 4)], config("cache", num_memory=2))
    with pytest.raises(memcomp.InputError, match="need 65 positions.*num_tokens to 63"):
        memcomp.cram(tiny_lm, [some_tokens(0, 64)], config("cache"))
    with pytest.raises(memcomp.InputError, match=r"give \[M, 32\].*memory of cache"):
        memcomp.decode(tiny_lm, np.zeros((1, 16)), 4, way="cache")
    with pytest.raises(memcomp.InputError, match="takes none"):
        memcomp.decode(tiny_lm, np.zeros((2, 16)), 4, [1], way="one_step")
    texts, shared = texts_of(4, 4, 5), config("one_step_shared", num_memory=2)
    with pytest.raises(memcomp.InputError, match="of 5 tokens is 1; give a multiple of 2"):
        memcomp.cram(tiny_lm, [text.tokens for text in texts], shared)
    with pytest.raises(memcomp.InputError, match="a start is of one text"):
        starts = [np.zeros((3, 16))] * 2
        memcomp.cram(tiny_lm, [t.tokens for t in texts[:2]], shared, starts=starts)
    with pytest.raises(memcomp.InputError, match="a horizon is of one text"):
        next(horizons(tiny_lm, texts[:2], shared, Growth()))
    with pytest.raises(memcomp.InputError, match="cannot start from tokens"):
        recipe = Recipe(
            learning_rate=1.0, max_steps=1, patience=1, margin=0.0, init="tokens"
        )
        memcomp.cram(tiny_lm, [some_tokens(0, 4)], config("one_step", recipe=recipe))
