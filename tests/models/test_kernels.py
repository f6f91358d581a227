"""Every family gives with the kernels of attention what it gives with its weights."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import memcomp.lm.load
from memcomp.errors import InputError
from memcomp.nn import flash
from memcomp.nn.blockwise import blockwise_attend
from memcomp.nn.flash import Attention
from memcomp.studies.attention import all_weights, knockout_mask

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
FAST_COMPILE = {"xla_backend_optimization_level": 0}
# Layers with and without windows or rotary positions, soft caps, scales that are traced,
# no scale.
CASES = [
    "gemma3_softcap",
    "gpt2_divided_by_layer",
    "gpt_neo",
    "gpt_neox",
    "qwen3_window",
    "smollm3_window",
]
LENGTH, BLOCK = 11, 4


@functools.cache
def load(case, attention="plain"):
    return memcomp.load_lm(str(GOLDEN / case), attention=attention)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Texts of a few tokens have several blocks."""
    monkeypatch.setitem(flash.ATTENTION, "blockwise", Attention())
    small = functools.partial(blockwise_attend, block=BLOCK)
    monkeypatch.setattr(flash, "blockwise_attend", small)


def vectors(lm):
    return jax.random.normal(jax.random.key(1), (2, LENGTH, lm.config.d_model))


def gradient(lm, x):
    """Hidden states, and the gradient of a function of them to the input vectors."""

    def loss(x, params):
        hidden = lm.module.apply({"params": params}, x)[0]
        return jnp.sum(jnp.sin(hidden)), hidden

    run = jax.jit(jax.grad(loss, has_aux=True), compiler_options=FAST_COMPILE)
    pushed, hidden = run(x, lm.params)
    return hidden, pushed / jnp.abs(pushed).max()


@functools.cache
def by_the_weights(case):
    return gradient(load(case), vectors(load(case)))


# The first has windows, grouped heads and a soft cap.
LATER = [pytest.param(case, marks=pytest.mark.slow) for case in CASES[1:]]


@pytest.mark.parametrize("case", [CASES[0], *LATER])
def test_blocks_give_what_the_weights_give(case):
    got = gradient(load(case, "blockwise"), vectors(load(case)))
    for a, b in zip(got, by_the_weights(case), strict=True):
        # Measured 1.5e-6 at the most, where hidden states reach 3.
        np.testing.assert_allclose(a, b, atol=7e-6, rtol=0)


def test_splash_attention_chooses_the_window_of_each_layer(monkeypatch):
    case = "gemma3_softcap"
    kernel = functools.partial(flash.splash_attend, interpret=True)
    monkeypatch.setitem(flash.ATTENTION, "splash", Attention(kernel))
    config = dataclasses.replace(load(case).config, attention="splash")
    assert len({kind.window for kind in load(case).module.layer_kinds()}) == 2
    lm = dataclasses.replace(
        load(case), module=type(load(case).module)(config), config=config
    )
    x = vectors(lm)
    got = jax.jit(lm.module.apply, compiler_options=FAST_COMPILE)({"params": lm.params}, x)
    np.testing.assert_allclose(got[0], by_the_weights(case)[0], atol=7e-6, rtol=0)


def test_weights_are_there_for_those_who_ask():
    case = "llama_grouped_queries"
    x, tokens = vectors(load(case))[:, :2], jnp.arange(10).reshape(2, 5)
    found = [
        all_weights(lm.params, x, tokens, module=lm.module)
        for lm in (load(case), load(case, "blockwise"))
    ]
    np.testing.assert_allclose(*found, atol=1e-6)


def test_keys_are_hidden_whatever_the_kernel():
    case = "llama_grouped_queries"
    outs = []
    for attention in "plain", "blockwise":
        lm = load(case, attention)
        apply = jax.jit(lm.module.apply, compiler_options=FAST_COMPILE)
        mask = knockout_mask(lm, 1, 2, 5, LENGTH)
        outs.append(apply({"params": lm.params}, vectors(lm), mask=mask)[0])
    np.testing.assert_allclose(*outs, atol=7e-6, rtol=0)
    assert jnp.abs(outs[0] - by_the_weights(case)[0]).max() > 1e-3


def test_an_lm_without_attention_does_not_look_at_it():
    assert not hasattr(load("mamba", "blockwise").config, "attention")


def test_an_attention_that_is_not_known_is_refused():
    with pytest.raises(InputError, match="^attention 'fast' is not one of plain, block"):
        load("llama", "fast")
    with pytest.raises(InputError, match="^attention 'fast' is not one of plain, block"):
        dataclasses.replace(load("llama").config, attention="fast")
