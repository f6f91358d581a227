"""Mean pooling against means that are taken group by group."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from memcomp.compressors.pooling import Pooling, PoolingConfig, groups
from memcomp.errors import InputError

KEY = jax.random.key(0)
M = 3
LENGTHS = np.array([7, 1, 3, 2, 5], np.int32)
TOKENS = np.random.default_rng(0).integers(23, size=(5, 7), dtype=np.int32)


def slow_groups(n):
    """The words of each group, as lists."""
    begins = [m * n // M for m in range(M + 1)]
    return [
        list(range(begin, end)) or [begin]
        for begin, end in zip(begins[:-1], begins[1:], strict=True)
    ]


def slow_digest(embedding, kernel, tokens, n):
    words = embedding[tokens]
    return np.stack([words[own].mean(axis=0) for own in slow_groups(n)]) @ kernel


def test_each_vector_is_the_mapped_mean_of_its_group(tiny_lm):
    compressor = Pooling(tiny_lm.module, PoolingConfig(num_digests=M))
    kernel = np.random.default_rng(1).standard_normal((16, 16)).astype(np.float32)
    digest = jax.jit(compressor.digest)
    got = digest({"kernel": kernel}, tiny_lm.params, TOKENS, LENGTHS)
    embedding = np.asarray(tiny_lm.params["embedding"])
    for row, tokens, n in zip(got, TOKENS, LENGTHS.tolist(), strict=True):
        want = slow_digest(embedding, kernel, tokens, n)
        # Measured 1e-6, where vectors reach 6.
        np.testing.assert_allclose(row, want, atol=1e-5, rtol=0)


def test_the_map_starts_as_the_identity(tiny_lm):
    compressor = Pooling(tiny_lm.module, PoolingConfig(num_digests=7))
    params = nn.unbox(compressor.init(KEY))
    got = jax.jit(compressor.digest)(params, tiny_lm.params, TOKENS[:1], LENGTHS[:1])
    # Seven groups of seven words: the words themselves.
    want = np.asarray(tiny_lm.params["embedding"])[TOKENS[0]]
    np.testing.assert_array_equal(got[0], want)


def test_groups_part_the_words_and_none_is_empty():
    lengths = np.arange(1, 30)
    members = np.asarray(groups(jnp.asarray(lengths), 6, 29))
    sizes = members.sum(axis=-1)
    for n, mask, size in zip(lengths, members, sizes, strict=True):
        assert not mask[:, n:].any() and (mask[:, :n].sum(axis=0) >= (n >= 6)).all()
        assert size.min() >= 1 and size.max() - size.min() <= 1
        assert n < 6 or size.sum() == n


def test_the_map_gets_a_gradient_and_the_lm_none(tiny_lm):
    compressor = Pooling(tiny_lm.module, PoolingConfig(num_digests=M))

    def loss(params, lm_params):
        tokens, lengths = jnp.asarray(TOKENS), jnp.asarray(LENGTHS)
        return jnp.sum(compressor.digest(params, lm_params, tokens, lengths) ** 3)

    params = nn.unbox(compressor.init(KEY))
    own, lms = jax.grad(loss, argnums=(0, 1))(params, tiny_lm.params)
    assert np.abs(own["kernel"]).max() > 1e-4
    assert not any(np.abs(g).max() for g in jax.tree.leaves(lms))


@pytest.mark.parametrize("number", [0, -1])
def test_a_number_of_groups_without_sense_is_refused(number):
    with pytest.raises(InputError, match="^num_digests is "):
        PoolingConfig(num_digests=number)
