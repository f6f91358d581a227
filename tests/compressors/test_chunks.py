import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from pooling import Pooling

from memcomp.compressors.chunks import soft_prompts, split, stack_chunks
from memcomp.errors import InputError


@pytest.mark.parametrize("most", [1, 3, 7, 128, 512])
def test_a_context_is_cut_by_the_published_rule(most):
    for n in [*range(1, 60), 511, 512, 513, 1025, 4999]:
        context = np.arange(n)
        chunks = split(context, most)
        # modules.py:363-379 of the authors' code.
        count = int(np.ceil(n / most))
        assert len(chunks) == count
        lengths = [len(chunk) for chunk in chunks]
        assert set(lengths[:-1]) <= {int(np.ceil(n / count))}
        assert 1 <= lengths[-1] <= max(lengths) <= most
        np.testing.assert_array_equal(np.concatenate(chunks), context)


def test_without_chunks_a_context_stays_whole():
    assert [len(chunk) for chunk in split(np.arange(5000), None)] == [5000]


def test_contexts_are_padded_to_the_chunks_of_the_longest():
    chunks = stack_chunks([np.array([7]), np.arange(1, 8)], 3)
    assert chunks.tokens.tolist() == [
        [[7, 0, 0], [0, 0, 0], [0, 0, 0]],
        [[1, 2, 3], [4, 5, 6], [7, 0, 0]],
    ]
    assert chunks.lengths.tolist() == [[1, 0, 0], [3, 3, 1]]
    assert stack_chunks([np.array([7])], 3, num_chunks=2).tokens.shape == (1, 2, 3)


@pytest.mark.parametrize(
    ("contexts", "most", "message"),
    [
        ([np.zeros(0, int)], 4, "context is empty"),
        ([np.arange(3)], 0, "max_chunk is 0"),
        ([np.arange(3), np.arange(13)], 4, "13 tokens has 4 chunks; wanted at most 3 of 4"),
    ],
)
def test_contexts_that_cannot_be_cut_are_refused(contexts, most, message):
    with pytest.raises(InputError, match=message):
        stack_chunks(contexts, most, num_chunks=3)


def test_a_batch_of_chunks_gives_what_each_chunk_gives_alone(tiny_lm):
    compressor = Pooling(tiny_lm.module, 3)
    params = nn.unbox(compressor.init(jax.random.key(0)))
    rng = np.random.default_rng(0)
    contexts = [rng.integers(0, 23, n) for n in (1, 5, 9, 10)]
    chunks = stack_chunks(contexts, 4)
    # What pads is no token that does nothing.
    noise = rng.integers(0, 23, chunks.tokens.shape)
    width = np.arange(4)[None, None]
    tokens = np.where(width < chunks.lengths[..., None], chunks.tokens, noise)
    got = soft_prompts(
        compressor, params, tiny_lm.params, jnp.asarray(tokens), jnp.asarray(chunks.lengths)
    )
    assert got.shape == (4, 9, 16)
    for row, context in enumerate(contexts):
        want = [
            compressor.digest(
                params, tiny_lm.params, jnp.asarray(chunk)[None], jnp.array([len(chunk)])
            )[0]
            for chunk in split(context, 4)
        ]
        want = np.concatenate(want)
        # Measured 1.2e-7 where they reach 2.7.
        np.testing.assert_allclose(got[row, : len(want)], want, atol=1e-6)
    assert np.isfinite(got).all()
