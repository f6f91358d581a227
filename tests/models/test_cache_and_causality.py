"""What every decoder must satisfy, whatever its weights: no other implementation needed."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import memcomp.lm

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
FAST_COMPILE = {"xla_backend_optimization_level": 0}
CASES = ["llama_grouped_queries", "gpt_neox", "mamba_bias"]
BATCH, LENGTH = 2, 11


@functools.cache
def load(case, **options):
    return memcomp.lm.load_lm(str(GOLDEN / case), **options)


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


@pytest.mark.parametrize("case", [*CASES, "llama_llama3"])
def test_prefill_and_steps_equal_the_full_forward_pass(case):
    lm = load(case)
    x = vectors(lm)
    got = with_cache(lm, x, [8, 1, 1, 1], room=LENGTH + 3)
    # Measured 2.9e-6, where hidden states reach 3.
    np.testing.assert_allclose(got, forward(case)(lm.params, x), atol=1.5e-5, rtol=0)


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


@pytest.mark.parametrize("case", CASES)
def test_remat_gives_the_same_gradient(case):
    x = vectors(load(case))
    gradients = []
    for lm in load(case), load(case, remat=True):
        assert lm.config.remat == (lm is not load(case))

        def loss(x, params, lm=lm):
            return jnp.sum(jnp.sin(lm.module.apply({"params": params}, x)[0]))

        gradients.append(jit(jax.grad(loss))(x, lm.params))
    scale = jnp.abs(gradients[0]).max()
    # Measured 1.1e-6 relative to the largest.
    np.testing.assert_allclose(gradients[0] / scale, gradients[1] / scale, atol=5e-6)


@pytest.mark.parametrize("case", CASES)
def test_rows_of_a_batch_do_not_see_each_other(case):
    lm = load(case)
    x = vectors(lm)
    alone = forward(case)(lm.params, x[1:])
    np.testing.assert_allclose(forward(case)(lm.params, x)[1:], alone, atol=1.2e-5)


def test_the_families_are_causal_lms():
    for case in "llama", "gpt_neox", "mamba":
        assert isinstance(load(case).module, memcomp.lm.CausalLM)


def test_modules_of_equal_configs_are_one_static_argument():
    first = memcomp.lm.load_lm(str(GOLDEN / "llama")).module
    second = memcomp.lm.load_lm(str(GOLDEN / "llama")).module
    assert first == second and hash(first) == hash(second)
