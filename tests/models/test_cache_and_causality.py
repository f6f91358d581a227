"""What every decoder must satisfy, whatever its weights: no other implementation needed."""

import dataclasses
import functools
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from selection import first_here

import memcomp.lm.load
from memcomp.errors import InputError
from memcomp.nn.remat import REMAT

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
FAST_COMPILE = {"xla_backend_optimization_level": 0}
CASES = ["llama_grouped_queries", "gpt_neox", "mamba_bias"]
BATCH, LENGTH = 2, 11


@functools.cache
def load(case, **options):
    return memcomp.load_lm(str(GOLDEN / case), **options)


def jit(function):
    return jax.jit(function, compiler_options=FAST_COMPILE)


def vectors(lm, length=LENGTH):
    return jax.random.normal(jax.random.key(1), (BATCH, length, lm.config.d_model))


@functools.cache
def forward(case):
    lm = load(case)
    return jit(lambda params, x: lm.module.apply({"params": params}, x)[0])


def with_cache(lm, x, pieces, room):
    """Hidden states of `x`, read in pieces of the given lengths."""
    step = jit(
        lambda params, piece, cache: lm.module.apply({"params": params}, piece, cache)
    )
    cache = lm.module.empty_cache(BATCH, room, x.dtype)
    hidden, start = [], 0
    for length in pieces:
        out, cache = step(lm.params, x[:, start : start + length], cache)
        hidden.append(out)
        start += length
    assert int(cache.length) == start == x.shape[1]
    return jnp.concatenate(hidden, axis=1)


@pytest.mark.parametrize("case", first_here([*CASES, "llama_llama3"]))
def test_prefill_and_steps_equal_the_full_forward_pass(case):
    lm = load(case)
    x = vectors(lm)
    got = with_cache(lm, x, [8, 1, 1, 1], room=LENGTH + 3)
    # Measured 2.9e-6, where hidden states reach 3.
    np.testing.assert_allclose(got, forward(case)(lm.params, x), atol=1.5e-5, rtol=0)


@pytest.mark.ci
def test_a_cache_as_long_as_the_text_serves_dynamic_scaling():
    # Dynamic scaling looks at the room of the cache: exactly the text's, it equals the
    # full pass, although the text is longer than the 16 positions of the model.
    lm = load("llama_dynamic")
    x = vectors(lm, length=20)
    got = with_cache(lm, x, [17, 3], room=20)
    want = forward("llama_dynamic")(lm.params, x)
    np.testing.assert_allclose(got, want, atol=1.5e-5, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_a_change_at_one_position_changes_nothing_before_it(case):
    lm = load(case)
    x = vectors(lm)
    before = forward(case)(lm.params, x)
    after = forward(case)(lm.params, x.at[0, 6].multiply(-1.0))
    np.testing.assert_array_equal(before[0, :6], after[0, :6])
    assert (jnp.abs(before - after)[0, 6:].max(axis=-1) > 1e-3).all()
    np.testing.assert_array_equal(before[1], after[1])


@pytest.mark.parametrize("case", CASES)
def test_padding_on_the_right_changes_nothing(case):
    lm = load(case)
    x = vectors(lm)
    short = forward(case)(lm.params, x[:, :7])
    # Measured 2.4e-6: other lengths, other order of sums.
    np.testing.assert_allclose(forward(case)(lm.params, x)[:, :7], short, atol=1.2e-5)


@functools.cache
def gradient(case, **options):
    lm = load(case, **options)

    def loss(x, params):
        return jnp.sum(jnp.sin(lm.module.apply({"params": params}, x)[0]))

    return jit(jax.grad(loss))(vectors(lm), lm.params)


@pytest.mark.parametrize("remat", [name for name in REMAT if name != "none"])
@pytest.mark.parametrize(
    "case", [CASES[0], *(pytest.param(case, marks=pytest.mark.slow) for case in CASES[1:])]
)
def test_remat_gives_the_same_gradient(case, remat):
    assert load(case, remat=remat).config.remat == remat
    got, want = gradient(case, remat=remat), gradient(case)
    scale = jnp.abs(want).max()
    # Measured 1.1e-6 relative to the largest.
    np.testing.assert_allclose(got / scale, want / scale, atol=5e-6)


@pytest.mark.ci
def test_what_is_kept_of_a_layer_is_what_remat_says():
    """Bytes of the gradient of a stack whose layers are most of the work."""
    config = dataclasses.replace(load("gpt_neox").config, num_layers=24)

    def temporaries(remat):
        module = type(load("gpt_neox").module)(dataclasses.replace(config, remat=remat))
        params = nn.unbox(memcomp.lm.load.abstract_params(module))
        x = jax.ShapeDtypeStruct((8, 64, config.d_model), jnp.float32)
        loss = lambda x, params: module.apply({"params": params}, x)[0].sum()  # noqa: E731
        program = jit(jax.grad(loss)).lower(x, params).compile()
        return program.memory_analysis().temp_size_in_bytes

    kept = {name: temporaries(name) for name in REMAT}
    # Measured 0.21 and 0.44.
    assert kept["dots"] < 0.5 * kept["none"] and kept["full"] < 0.7 * kept["dots"]


def test_a_remat_that_is_not_known_is_refused():
    with pytest.raises(InputError, match="^remat 'all' is not one of none, full, dots"):
        load("llama", remat="all")
    for case in "llama", "mamba":
        with pytest.raises(InputError, match="^remat 'all' is not one of none, full"):
            dataclasses.replace(load(case).config, remat="all")


@pytest.mark.parametrize("case", CASES)
def test_rows_of_a_batch_do_not_see_each_other(case):
    lm = load(case)
    x = vectors(lm)
    alone = forward(case)(lm.params, x[1:])
    np.testing.assert_allclose(forward(case)(lm.params, x)[1:], alone, atol=1.2e-5)


def test_the_families_are_causal_lms():
    for case in "llama", "gpt_neox", "mamba":
        assert isinstance(load(case).module, memcomp.lm.protocol.CausalLM)


def test_modules_of_equal_configs_are_one_static_argument():
    first = memcomp.load_lm(str(GOLDEN / "llama")).module
    second = memcomp.load_lm(str(GOLDEN / "llama")).module
    assert first == second and hash(first) == hash(second)
