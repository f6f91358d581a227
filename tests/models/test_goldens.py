"""Tiny checkpoints of transformers, and the numbers that it computed with them.

`tests/golden/make_goldens.py` made them; no torch is needed here.
"""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from golden_cases import CASES, GOLDEN, one_a_family

import memcomp.lm.load
from memcomp.convert.families import FAMILIES
from memcomp.nn.cross_entropy import soft_capped
from memcomp.nn.rotary import SCALINGS

FAST_COMPILE = {"xla_backend_optimization_level": 0}


@functools.cache
def load(case):
    with np.load(GOLDEN / case / "expected.npz") as arrays:
        return memcomp.load_lm(str(GOLDEN / case)), dict(arrays)


@functools.cache
def family_and_config(case):
    """What `load` would build the LM of, without its weights."""
    hf = transformers.AutoConfig.from_pretrained(GOLDEN / case)
    family = FAMILIES[hf.model_type]
    return family, family.config_from_hf(hf)


def loss_of_text(x, params, tokens, module):
    """Mean cross-entropy of the text after left context, and all logits."""
    hidden, _ = module.apply({"params": params}, x)
    rows = module.apply({"params": params}, method="unembedding")
    logits = soft_capped(jnp.einsum("btd,vd->btv", hidden, rows), module.softcap)
    T = tokens.shape[1]
    log_probs = jax.nn.log_softmax(logits[:, -T - 1 : -1])
    return -jnp.take_along_axis(log_probs, tokens[..., None], axis=-1).mean(), logits


@pytest.mark.parametrize("case", one_a_family())
def test_logits_and_gradient_after_a_soft_prompt_match_transformers(case):
    lm, want = load(case)
    tokens = jnp.asarray(want["tokens"])
    embedded = lm.module.apply({"params": lm.params}, tokens, method="embed")
    x = jnp.concatenate([want["vectors"], embedded], axis=1)
    score = jax.value_and_grad(loss_of_text, has_aux=True)
    score = jax.jit(score, static_argnums=3, compiler_options=FAST_COMPILE)
    (loss, logits), gradient = score(x, lm.params, tokens, lm.module)
    # Measured 2.9e-5 at the most for the four layers of smollm3, 1.7e-5 for the two of the
    # others; logits reach 7.
    np.testing.assert_allclose(logits, want["logits"], atol=7e-5, rtol=0)
    # Measured 9.5e-7.
    np.testing.assert_allclose(loss, want["loss"], atol=5e-6, rtol=0)
    error = np.abs(gradient - want["gradient"]).max() / np.abs(want["gradient"]).max()
    # Measured 2.4e-5 for llama3 scaling, 1.2e-5 for smollm3, 6e-6 for the others.
    assert error < 1e-4


@pytest.mark.parametrize("case", ["llama_tied", "gpt_neox"])
def test_logits_of_tokens_alone_match_transformers(case):
    lm, want = load(case)
    # Measured 1.0e-5; float32 whatever the tokens' type.
    got = lm.logits(want["tokens"])
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want["token_logits"], atol=5e-5, rtol=0)


def test_goldens_turn_every_switch_both_ways():
    families, configs = zip(*map(family_and_config, CASES), strict=True)
    modules = {family.model for family in families}
    assert modules == {family.model for family in FAMILIES.values()}
    for kind in {type(config) for config in configs}:
        of_family = [config for config in configs if type(config) is kind]
        for field in dataclasses.fields(kind):
            values = {getattr(config, field.name) for config in of_family}
            if field.type is bool:
                assert values == {False, True}, (kind, field.name)
            elif "None" in str(field.type) and field.name != "windows":
                assert len({value is None for value in values}) == 2, (kind, field.name)
    rotaries = [c.rotary for c in configs if hasattr(c, "rotary")]
    assert {rotary.scaling for rotary in rotaries} == set(SCALINGS)
    with_heads = [c for c in configs if hasattr(c, "num_kv_heads")]
    assert {c.num_kv_heads < c.num_heads for c in with_heads} == {False, True}
    assert {c.num_heads * c.head_dim == c.d_model for c in with_heads} == {False, True}


def test_goldens_of_families_with_windows_have_layers_of_both_kinds():
    windows = {}
    for case in CASES:
        family, config = family_and_config(case)
        found = windows.setdefault(family.model.__name__, set())
        found.update(getattr(config, "windows", ()))
    for name in "Qwen2", "Qwen3", "SmolLM3", "Gemma3":
        assert None in windows[name] and len(windows[name]) == 2, name
    assert windows["Mistral"] - {None}


def test_goldens_hold_every_file_dtype_in_one_file_and_in_shards():
    dtypes = {json.loads((GOLDEN / c / "config.json").read_text())["dtype"] for c in CASES}
    assert dtypes == set(memcomp.lm.load.DTYPES)
    shards = [len(list((GOLDEN / c).glob("*.safetensors"))) for c in CASES]
    assert min(shards) == 1 and max(shards) > 2


@pytest.mark.parametrize("case", CASES)
def test_goldens_name_the_versions_that_made_them(case):
    with np.load(GOLDEN / case / "expected.npz") as want:
        assert str(want["transformers"]).startswith("5.") and str(want["torch"])
