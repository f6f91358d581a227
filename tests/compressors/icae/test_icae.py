"""ICAE against the LM with the adapters' products added to its weights, row by row."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from selection import first_here
from tiny_lm import LLAMA_2_7B, TINY, make_tiny_lm

from memcomp.compressors.icae import ICAE, ICAEConfig, followed_by
from memcomp.errors import InputError
from memcomp.lm.load import FAMILIES, load_lm
from memcomp.models.llama import Llama
from memcomp.models.mamba import Mamba

GOLDEN = pathlib.Path(__file__).parents[2] / "golden"
FAST_COMPILE = {"xla_backend_optimization_level": 0}
KEY = jax.random.key(0)
CONFIG = ICAEConfig(num_digests=3, rank=2, alpha=3.0)
LENGTHS = np.array([1, 6, 4], np.int32)
TOKENS = np.random.default_rng(1).integers(TINY.vocab_size, size=(3, 6), dtype=np.int32)
# Queries and values apart, with grouped heads; fused; fused, with learned positions.
CASES = ("llama_grouped_queries", "gpt_neox", "gpt2")
ONE_A_FAMILY = (*CASES, "gemma3", "gpt_neo", "mistral", "olmo", "olmo2")
ONE_A_FAMILY += ("opt", "qwen2", "qwen3", "smollm3")


def fast(function, **options):
    return jax.jit(function, compiler_options=FAST_COMPILE, **options)


@functools.cache
def setting(case):
    """The LM, the compressor, and large random weights in the shapes of `init`."""
    lm = make_tiny_lm("float32") if case == "tiny" else load_lm(str(GOLDEN / case))
    compressor = ICAE(lm.module, CONFIG)
    leaves, tree = jax.tree.flatten(nn.unbox(jax.eval_shape(compressor.init, KEY)))
    rng = np.random.default_rng(2)
    drawn = [jnp.asarray(0.5 * rng.standard_normal(x.shape), x.dtype) for x in leaves]
    return lm, compressor, jax.tree.unflatten(tree, drawn)


def merged(lm, adapters):
    """The LM's weights with the adapters' products added, in plain numpy."""
    params = jax.tree.map(np.array, lm.params)
    attention = params["layers"]["attn"]
    for name, part in ("q", 0), ("v", 2):
        down, up = np.array(adapters[name]["down"]), np.array(adapters[name]["up"])
        for layer in range(len(down)):
            added = np.tensordot(down[layer], up[layer], axes=1) * 3.0 / 2
            if "qkv" in attention:
                attention["qkv"]["kernel"][layer][:, part] += added
            else:
                attention[name]["kernel"][layer] += added
    return params


@pytest.mark.parametrize("case", first_here(CASES))
def test_slots_match_an_lm_whose_weights_the_adapters_were_added_to(case):
    lm, compressor, params = setting(case)
    got = fast(compressor.digest)(params, lm.params, TOKENS, LENGTHS)
    variables = {"params": merged(lm, params["adapters"])}
    for row, n in [(1, 6), (2, 4)]:
        words = lm.module.apply(
            variables, jnp.asarray(TOKENS[row : row + 1, :n]), method="embed"
        )
        x = jnp.concatenate([words, params["slots"][None]], axis=1)
        want, _ = fast(lm.module.apply)(variables, x)
        # Measured 2.3e-6, where hidden states reach 3.
        np.testing.assert_allclose(got[row], want[0, n:], atol=1e-5, rtol=0)


@pytest.mark.ci
@pytest.mark.parametrize("case", ["tiny", "gpt_neox", "gemma3"])
def test_bidirectional_contexts_match_a_mask_that_is_written_out(case, monkeypatch):
    lm, compressor, params = setting(case)
    lifted = dataclasses.replace(CONFIG, bidirectional=True)
    got = fast(ICAE(lm.module, lifted).digest)(params, lm.params, TOKENS, LENGTHS)
    causal = fast(compressor.digest)(params, lm.params, TOKENS, LENGTHS)
    for row, n in [(0, 1), (1, 6), (2, 4)]:

        def mask(positions, num_keys, window, n=n):
            size = n + 3
            rows = [
                [
                    (s <= t or (s < n and t < n)) and abs(t - s) < (window or size)
                    for s in range(size)
                ]
                for t in range(size)
            ]
            return jnp.asarray(rows)

        with monkeypatch.context() as patch:
            patch.setattr("memcomp.nn.decoder.causal_mask", mask)
            alone = TOKENS[row : row + 1, :n], LENGTHS[row : row + 1]
            want = jax.jit(compressor.digest)(params, lm.params, *alone)
        # Measured 3e-6, where hidden states reach 3.
        np.testing.assert_allclose(got[row], want[0], atol=1e-5, rtol=0)
        assert (np.abs(got[row] - causal[row]).max() > 1e-2) == (n > 1)


def test_padding_changes_nothing_and_no_row_another():
    lm, compressor, params = setting("tiny")
    digest = fast(compressor.digest)
    before = digest(params, lm.params, TOKENS, LENGTHS)
    other = TOKENS.copy()
    other[2, 4:] += 1
    other[0] += 1
    after = digest(params, lm.params, other, LENGTHS)
    np.testing.assert_array_equal(after[1:], before[1:])
    assert np.abs(after[0] - before[0]).max() > 1e-2


def test_fresh_adapters_leave_the_lm_as_it_is():
    lm, compressor, _ = setting("tiny")
    boxed = fast(compressor.init)(KEY)
    for box in jax.tree.leaves(boxed, is_leaf=lambda x: isinstance(x, nn.Partitioned)):
        assert len(box.names) == box.value.ndim and box.value.dtype == jnp.float32
    params = nn.unbox(boxed)
    got = fast(compressor.digest)(params, lm.params, TOKENS[1:2], LENGTHS[1:2])
    words = lm.params["embedding"][TOKENS[1:2]]
    want, _ = lm.module.apply(
        {"params": lm.params}, jnp.concatenate([words, params["slots"][None]], axis=1)
    )
    # Measured 0.
    np.testing.assert_allclose(got, want[:, 6:], atol=1e-5, rtol=0)
    down = params["adapters"]["q"]["down"]
    assert 0.9 * 16**-0.5 < np.abs(down).max() < 16**-0.5


def test_every_weight_gets_a_gradient_and_the_lm_none():
    lm, compressor, params = setting("gpt_neox")

    def loss(params, lm_params, tokens, lengths):
        return jnp.sum(compressor.digest(params, lm_params, tokens, lengths) ** 3)

    own, lms = fast(jax.grad(loss, argnums=(0, 1)))(params, lm.params, TOKENS, LENGTHS)
    for path, g in jax.tree_util.tree_leaves_with_path(own):
        assert np.isfinite(g).all() and np.abs(g).max() > 1e-4, path
    assert not any(np.abs(g).max() for g in jax.tree.leaves(lms))


def test_slots_follow_each_rows_own_words():
    words = jnp.arange(6.0).reshape(2, 3, 1)
    got = followed_by(words, jnp.asarray([[10.0], [11.0]]), jnp.asarray([1, 3]))
    np.testing.assert_array_equal(got[0, :3, 0], [0, 10, 11])
    np.testing.assert_array_equal(got[1, :, 0], [3, 4, 5, 10, 11])


@pytest.mark.parametrize("case", first_here(ONE_A_FAMILY))
def test_every_family_with_attention_has_adapters(case):
    lm, compressor, params = setting(case)
    shape = jax.eval_shape(compressor.digest, params, lm.params, TOKENS, LENGTHS).shape
    assert shape == (3, 3, lm.config.d_model)


@pytest.mark.ci
def test_the_families_above_are_all_but_mamba():
    modules = {type(setting(case)[0].module) for case in ONE_A_FAMILY}
    assert modules | {Mamba} == {family.model for family in FAMILIES.values()}
    with pytest.raises(InputError, match="Mamba has no queries and values"):
        ICAE(load_lm(str(GOLDEN / "mamba")).module, CONFIG)


@pytest.mark.ci
def test_at_the_published_size_there_are_67_million_weights_in_adapters():
    params = nn.unbox(jax.eval_shape(ICAE(Llama(LLAMA_2_7B), ICAEConfig()).init, KEY))
    sizes = {
        name: sum(np.prod(x.shape) for x in jax.tree.leaves(part))
        for name, part in params.items()
    }
    # 1 % of the LM; the authors' table of slots has three rows more, for AE, LM and FT.
    assert sizes == {"adapters": 67_108_864, "slots": 128 * 4096}


def test_chunks_without_room_for_slots_are_refused():
    lm, _, params = setting("tiny")
    compressor = ICAE(lm.module, dataclasses.replace(CONFIG, num_digests=59))
    with pytest.raises(InputError, match="chunks of 6 tokens and 59 slots .* of 5 or less"):
        compressor.digest(params, lm.params, jnp.asarray(TOKENS), jnp.asarray(LENGTHS))
    compressor = ICAE(lm.module, dataclasses.replace(CONFIG, num_digests=58))  # 58 + 6
    params = nn.unbox(jax.eval_shape(compressor.init, KEY))
    made = jax.eval_shape(compressor.digest, params, lm.params, TOKENS, LENGTHS)
    assert made.shape == (3, 58, lm.config.d_model)


@pytest.mark.parametrize(
    "change", [{"num_digests": 0}, {"rank": 0}, {"alpha": 0.0}, {"slot_init": "ones"}]
)
def test_a_value_out_of_its_range_is_refused(change):
    with pytest.raises(InputError, match=f"^{next(iter(change))} "):
        ICAEConfig(**change)
