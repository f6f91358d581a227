"""What sets Mamba apart: a state of constant size, its files, its float32 residual."""

import dataclasses
import functools
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import memcomp.lm.load
from memcomp.cram.decode import decode
from memcomp.errors import InputError

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"


@functools.partial(jax.jit, static_argnums=0)
def read(module, params, *inputs):
    return module.apply({"params": params}, *inputs)


@pytest.fixture(scope="module")
def lm():
    return memcomp.load_lm(str(GOLDEN / "mamba"))


def test_the_state_has_one_size_however_long_the_text(lm):
    short, long = (
        jax.tree.map(jnp.shape, lm.module.empty_cache(2, length, jnp.float32))
        for length in (1, 100_000)
    )
    cfg = lm.config
    assert short == long
    assert short.conv == (cfg.num_layers, 2, cfg.d_conv - 1, cfg.d_inner)
    assert short.ssm == (cfg.num_layers, 2, cfg.d_state, cfg.d_inner)


def test_the_state_stays_in_float32_in_runs_of_low_precision():
    low = memcomp.load_lm(str(GOLDEN / "mamba"), dtype="bfloat16")
    cache = low.module.empty_cache(1, 1, jnp.bfloat16)
    x = jnp.ones((1, 3, low.config.d_model), jnp.bfloat16)
    hidden, after = read(low.module, low.params, x, cache)
    assert hidden.dtype == after.conv.dtype == jnp.bfloat16
    assert after.ssm.dtype == jnp.float32
    # Decoding carries it through a scan, which wants the same types before and after.
    assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, cache)


def test_greedy_decoding_equals_that_without_a_state(lm):
    memory = np.random.default_rng(0).standard_normal((1, 3, lm.config.d_model))
    tokens = decode(lm, memory.astype(np.float32), 12)
    embedded = lm.module.apply({"params": lm.params}, jnp.asarray(tokens), method="embed")
    x = jnp.concatenate([jnp.asarray(memory, jnp.float32), embedded], axis=1)
    hidden, _ = read(lm.module, lm.params, x)
    rows = lm.module.apply({"params": lm.params}, method="unembedding")
    greedy = jnp.einsum("btd,vd->btv", hidden, rows).argmax(axis=-1)
    np.testing.assert_array_equal(greedy[:, 2:-1], tokens)


def test_files_of_the_older_name_load_alike(lm, tmp_path):
    shutil.copy(GOLDEN / "mamba" / "config.json", tmp_path)
    tensors = load_file(GOLDEN / "mamba" / "model.safetensors")
    tensors["backbone.embedding.weight"] = tensors.pop("backbone.embeddings.weight")
    save_file(tensors, tmp_path / "model.safetensors")
    old = memcomp.load_lm(str(tmp_path))
    jax.tree.map(np.testing.assert_array_equal, old.params, lm.params)


def test_sums_over_layers_are_in_float32_where_the_config_says_so(lm):
    """In bfloat16, a stream of float32 keeps the small updates that another rounds away."""
    x = 64 * jax.random.normal(jax.random.key(0), (1, 5, lm.config.d_model), jnp.bfloat16)
    exact, _ = read(lm.module, lm.params, x.astype(jnp.float32))
    low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), lm.params)
    errors = []
    for wide in (True, False):
        config = dataclasses.replace(lm.config, residual_in_fp32=wide)
        hidden, _ = read(type(lm.module)(config), low, x)
        assert hidden.dtype == jnp.bfloat16
        errors.append(float(jnp.sqrt(jnp.mean((hidden.astype(jnp.float32) - exact) ** 2))))
    assert errors[0] < 0.9 * errors[1], errors


def test_an_activation_that_is_not_known_is_refused(tmp_path):
    entries = json.loads((GOLDEN / "mamba" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**entries, "hidden_act": "mish"}))
    shutil.copy(GOLDEN / "mamba" / "model.safetensors", tmp_path)
    with pytest.raises(InputError, match="'mish' is not known"):
        memcomp.load_lm(str(tmp_path))
