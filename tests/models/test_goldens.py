"""Tiny checkpoints of transformers, and the numbers that it computed with them.

`tests/golden/make_goldens.py` made them; no torch is needed here.
"""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import memcomp.lm
from memcomp.nn.rotary import SCALINGS

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
FAST_COMPILE = {"xla_backend_optimization_level": 0}
CASES = sorted(folder.parent.name for folder in GOLDEN.glob("*/expected.npz"))


@functools.cache
def load(case):
    with np.load(GOLDEN / case / "expected.npz") as arrays:
        return memcomp.lm.load_lm(str(GOLDEN / case)), dict(arrays)


def loss_of_text(x, params, rows, tokens, module):
    """Mean cross-entropy of the text after left context, and all logits."""
    hidden, _ = module.apply({"params": params}, x)
    logits = jnp.einsum("btd,vd->btv", hidden, rows)
    T = tokens.shape[1]
    log_probs = jax.nn.log_softmax(logits[:, -T - 1 : -1])
    return -jnp.take_along_axis(log_probs, tokens[..., None], axis=-1).mean(), logits


def after_vectors(function, case):
    """`function` of a case's vectors, followed by its tokens, and what is wanted."""
    lm, want = load(case)
    variables, tokens = {"params": lm.params}, jnp.asarray(want["tokens"])
    embedded = lm.module.apply(variables, tokens, method="embed")
    rows = lm.module.apply(variables, method="unembedding")
    x = jnp.concatenate([want["vectors"], embedded], axis=1)
    jitted = jax.jit(function, static_argnums=4, compiler_options=FAST_COMPILE)
    return jitted(x, lm.params, rows, tokens, lm.module), want


@pytest.mark.parametrize("case", CASES)
def test_logits_after_a_soft_prompt_match_transformers(case):
    (loss, logits), want = after_vectors(loss_of_text, case)
    # Measured 1.5e-5 at the most, over all cases; logits reach 7.
    np.testing.assert_allclose(logits, want["logits"], atol=7e-5, rtol=0)
    # Measured 9.5e-7.
    np.testing.assert_allclose(loss, want["loss"], atol=5e-6, rtol=0)


@pytest.mark.parametrize(
    "case", ["llama_grouped_queries", "llama_llama3", "gpt_neox", "gpt_neox_sequential"]
)
def test_gradient_to_the_vectors_matches_torch(case):
    score = jax.value_and_grad(loss_of_text, has_aux=True)
    (_, gradient), want = after_vectors(score, case)
    error = np.abs(gradient - want["gradient"]).max() / np.abs(want["gradient"]).max()
    # Measured 2.4e-5 for llama3 scaling, 4e-6 for the others.
    assert error < 1e-4


@pytest.mark.parametrize("case", ["llama_tied", "gpt_neox"])
def test_logits_of_tokens_alone_match_transformers(case):
    lm, want = load(case)
    # Measured 1.0e-5; float32 whatever the tokens' type.
    got = lm.logits(want["tokens"])
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want["token_logits"], atol=5e-5, rtol=0)


def test_goldens_turn_every_switch_both_ways():
    configs = [load(case)[0].config for case in CASES]
    families = {type(config).__name__ for config in configs}
    assert len(families) == len(memcomp.lm.FAMILIES)
    for family in families:
        of_family = [c for c in configs if type(c).__name__ == family]
        switches = [f for f, value in vars(of_family[0]).items() if isinstance(value, bool)]
        for switch in set(switches) - {"remat"}:
            assert {getattr(c, switch) for c in of_family} == {False, True}, switch
    assert {c.rotary.scaling for c in configs} == set(SCALINGS)
    assert {c.rotary.dim < c.head_dim for c in configs} == {False, True}
    assert {c.num_kv_heads < c.num_heads for c in configs} == {False, True}
    assert {c.num_heads * c.head_dim == c.d_model for c in configs} == {False, True}


def test_goldens_hold_every_file_dtype_in_one_file_and_in_shards():
    dtypes = {json.loads((GOLDEN / c / "config.json").read_text())["dtype"] for c in CASES}
    assert dtypes == set(memcomp.lm.DTYPES)
    shards = [len(list((GOLDEN / c).glob("*.safetensors"))) for c in CASES]
    assert min(shards) == 1 and max(shards) > 2


@pytest.mark.parametrize("case", CASES)
def test_goldens_name_the_versions_that_made_them(case):
    want = load(case)[1]
    assert str(want["transformers"]).startswith("5.") and str(want["torch"])
