"""IC-Former against its equations, row by row, and what its options change."""

import dataclasses
import functools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from tiny_lm import LLAMA_2_7B, TINY, make_tiny_lm

from memcomp.compressors.icformer.checkpoint_file import params_from_published
from memcomp.compressors.icformer.config import ICFormerConfig
from memcomp.compressors.icformer.model import ICFormer, digest_positions, view_of
from memcomp.errors import InputError
from memcomp.models.llama import Llama
from memcomp.models.mamba import Mamba, MambaConfig

GOLDEN = pathlib.Path(__file__).parents[2] / "golden"
FAST_COMPILE = {"xla_backend_optimization_level": 0}
LM = Llama(TINY)
KEY = jax.random.key(0)
SMALL = ICFormerConfig(num_digests=4, num_layers=2, digest_init="normal")
SPREAD = dataclasses.replace(SMALL, spread_positions=True)
LENGTHS = np.array([1, 9, 6], np.int32)
TOKENS = np.random.default_rng(1).integers(TINY.vocab_size, size=(3, 9), dtype=np.int32)


def fast(function, **options):
    return jax.jit(function, compiler_options=FAST_COMPILE, **options)


@dataclasses.dataclass(frozen=True)
class Arrays:
    """Tensors of the conversion engine, in memory."""

    arrays: dict

    def shapes(self):
        return {name: array.shape for name, array in self.arrays.items()}

    def read(self, name):
        return self.arrays[name]


@functools.cache
def golden(name):
    """The compressor and weights of a golden, and its arrays."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        arrays = dict(file)
    weights = {n[8:]: a for n, a in arrays.items() if n.startswith("weights/")}
    _, M, D = weights["digest_embeddings"].shape
    H = TINY.head_dim
    config = ICFormerConfig(
        num_digests=M,
        num_layers=sum(n.endswith("q_proj.weight") for n in weights),
        num_kv_heads=len(weights["encoder.layers.0.cross_attn.k_proj.weight"]) // H,
    )
    compressor = ICFormer(LM, config)
    params = params_from_published(Arrays(weights), compressor)
    return compressor, params["compressor"], arrays


@functools.partial(fast, static_argnames="compressor")
def encode(compressor, params, words, lengths):
    return compressor.module.apply({"params": params}, words, lengths)


@functools.cache
def lm_params():
    return make_tiny_lm("float32").params


@functools.cache
def fresh(config):
    """Large random weights, in the shapes of `init`."""
    compressor = ICFormer(LM, config)
    leaves, tree = jax.tree.flatten(nn.unbox(jax.eval_shape(compressor.init, KEY)))
    rng = np.random.default_rng(2)
    drawn = [jnp.asarray(0.3 * rng.standard_normal(x.shape), x.dtype) for x in leaves]
    return compressor, jax.tree.unflatten(tree, drawn)


@functools.partial(fast, static_argnames="compressor")
def digest(compressor, params, lm_params, tokens, lengths):
    return compressor.digest(params, lm_params, tokens, lengths)


def digests_of(config, tokens=TOKENS, lengths=LENGTHS):
    compressor, params = fresh(config)
    return np.asarray(digest(compressor, params, lm_params(), tokens, lengths))


@pytest.mark.parametrize("name", ["icformer", "icformer_grouped"])
def test_padded_batches_match_the_equations_of_single_rows(name):
    compressor, params, want = golden(name)
    got = encode(compressor, params, want["words"], want["lengths"])
    # Measured 4.2e-6, where soft prompts reach 4.6.
    np.testing.assert_allclose(got, want["soft_prompts"], atol=2e-5, rtol=0)


def test_a_single_row_matches_the_equations():
    compressor, params, want = golden("icformer")
    n = want["lengths"][-1]
    got = encode(compressor, params, want["words"][-1:, :n], jnp.asarray([n]))
    # Measured 5.8e-6, as above.
    np.testing.assert_allclose(got[0], want["soft_prompts"][-1], atol=2e-5, rtol=0)


@pytest.mark.parametrize("config", [SMALL, SPREAD], ids=["published", "spread"])
def test_padding_and_neighbours_change_nothing(config):
    batch, n = digests_of(config), LENGTHS[2]
    other = TOKENS.copy()
    other[2, n:] += 1
    np.testing.assert_array_equal(digests_of(config, other), batch)
    alone = digests_of(config, TOKENS[2:, :n], LENGTHS[2:])
    # Measured 2.4e-7, where soft prompts reach 1.
    np.testing.assert_allclose(alone[0], batch[2], atol=2e-6, rtol=0)


@pytest.mark.parametrize("config", [SMALL, SPREAD], ids=["published", "spread"])
def test_a_digest_changes_itself_and_those_after_it_alone(config):
    compressor, params = fresh(config)
    before = np.asarray(digest(compressor, params, lm_params(), TOKENS, LENGTHS))
    params = {**params, "digests": params["digests"].at[2].add(0.5)}
    after = np.asarray(digest(compressor, params, lm_params(), TOKENS, LENGTHS))
    np.testing.assert_array_equal(after[:, :2], before[:, :2])
    assert (np.abs(after - before)[:, 2:].max(axis=-1) > 1e-3).all()


def test_spread_positions_change_every_row():
    change = np.abs(digests_of(SPREAD) - digests_of(SMALL))
    assert (change.max(axis=(1, 2)) > 1e-2).all()


def test_digests_follow_the_words_or_are_spread_over_them():
    lengths = jnp.asarray([1, 8, 10])
    after = [[1, 2, 3, 4], [8, 9, 10, 11], [10, 11, 12, 13]]
    np.testing.assert_array_equal(digest_positions(lengths, 4, spread=False), after)
    middle = [[0, 0, 0, 0], [1, 3, 5, 7], [1, 3, 6, 8]]
    np.testing.assert_array_equal(digest_positions(lengths, 4, spread=True), middle)


def test_a_digest_sees_its_rows_words_and_the_digests_up_to_itself():
    mask = view_of(SMALL, 4, jnp.asarray([1, 3]), 3).mask
    np.testing.assert_array_equal(mask[0, :, :3], [[1, 0, 0]] * 4)
    np.testing.assert_array_equal(mask[1, :, :3], [[1, 1, 1]] * 4)
    np.testing.assert_array_equal(mask[1, :, 3:], np.tri(4))


def test_attention_sums_to_one_over_what_is_seen():
    compressor, params = fresh(SPREAD)
    weights = fast(compressor.attention)(params, lm_params(), TOKENS, LENGTHS)
    L, M, C = SPREAD.num_layers, SPREAD.num_digests, TOKENS.shape[1]
    assert weights.shape == (L, 3, TINY.num_heads, M, C + M)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-5)  # measured 2.4e-7
    mask = np.asarray(view_of(SPREAD, 4, jnp.asarray(LENGTHS), C).mask)[None, :, None]
    np.testing.assert_array_equal(weights > 0, np.broadcast_to(mask, weights.shape))


def test_every_weight_gets_a_gradient_and_the_lm_none():
    compressor, params = fresh(SPREAD)

    def loss(params, lm, tokens, lengths):
        return jnp.sum(compressor.digest(params, lm, tokens, lengths) ** 3)

    grad = fast(jax.grad(loss, argnums=(0, 1)))
    own, lms = grad(params, lm_params(), TOKENS, LENGTHS)
    for path, g in jax.tree_util.tree_leaves_with_path(own):
        assert np.isfinite(g).all() and np.abs(g).max() > 1e-4, path
    assert not any(np.abs(g).max() for g in jax.tree.leaves(lms))


@pytest.mark.ci
def test_fresh_weights_are_drawn_as_published():
    config = ICFormerConfig(num_layers=1, d_mlp=500)
    boxed = fast(ICFormer(LM, config).init)(KEY)
    for box in jax.tree.leaves(boxed, is_leaf=lambda x: isinstance(x, nn.Partitioned)):
        assert len(box.names) == box.value.ndim
    params = nn.unbox(boxed)
    assert not params["digests"].any() and params["digests"].dtype == jnp.float32
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if path[-1].key == "scale":
            assert (leaf == 1).all()
    kernel = params["layers_0"]["mlp"]["gate"][
        "kernel"
    ]  # 8,000 numbers: 0.8 % is one sigma
    np.testing.assert_allclose(kernel.std(), 0.02, rtol=0.03)
    normal = ICFormer(LM, dataclasses.replace(config, digest_init="normal"))
    digests = nn.unbox(fast(normal.init)(KEY))["digests"]  # 2,048 numbers: 1.6 %
    np.testing.assert_allclose(digests.std(), 0.02, rtol=0.05)


def test_at_the_published_size_there_are_607_million_weights():
    lm = Llama(LLAMA_2_7B)
    shapes = nn.unbox(jax.eval_shape(ICFormer(lm, ICFormerConfig()).init, KEY))
    # Appendix C of the paper: "approximately 607M including the digest embeddings".
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(shapes)) == 607_690_752


def test_an_lm_without_heads_is_refused_unless_they_are_given():
    lm = Mamba(
        MambaConfig(
            vocab_size=7,
            num_layers=1,
            d_model=8,
            d_inner=16,
            d_state=2,
            d_conv=2,
            dt_rank=1,
        )
    )
    with pytest.raises(InputError, match="no d_mlp, num_heads, num_kv_heads, head_dim"):
        ICFormer(lm, ICFormerConfig())
    given = ICFormerConfig(num_heads=2, head_dim=4, d_mlp=8)
    assert ICFormer(lm, given).module.sizes == (8, 8, 2, 2, 4)
    # An LM's own heads go together with its own number of kv heads.
    assert ICFormer(LM, SMALL).module.sizes == (16, 24, 4, 2, 4)
    with pytest.raises(InputError, match="3 heads of keys and values"):
        ICFormer(LM, dataclasses.replace(SMALL, num_kv_heads=3))


@pytest.mark.parametrize(
    "change",
    [{"num_digests": 0}, {"num_layers": -1}, {"norm_eps": 0.0}, {"digest_init": "x"}],
)
def test_a_value_out_of_its_range_is_refused(change):
    with pytest.raises(InputError, match=f"^{next(iter(change))} "):
        ICFormerConfig(**change)
