import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from pooling import Pooling

from memcomp.compressors import layout
from memcomp.compressors.chunks import split, stack_chunks
from memcomp.compressors.objectives import Batch, Task, batch_scores, token_weights
from memcomp.compressors.training import init_params
from memcomp.errors import InputError

EOS, M = 1, 2


def examples():
    """Rows of all kinds, of contexts of one chunk and of several."""
    rng = np.random.default_rng(0)
    draw = lambda n: rng.integers(2, 23, n)  # noqa: E731
    contexts = [draw(1), draw(10), draw(6)]
    counts = [M * len(split(context, 4)) for context in contexts]
    question = layout.Question(draw(2), draw(3), draw(4))
    rows = [
        layout.autoencoding_row(contexts[0], counts[0], EOS),
        layout.continuation_row(draw(7), counts[1], 2),
        layout.answer_row(question, counts[2], EOS),
    ]
    return contexts, rows


def batch_of(contexts, rows):
    batch = Batch(stack_chunks(contexts, 4, 3), layout.stack_rows(rows, 20, 8))
    return jax.tree.map(jnp.asarray, batch)


@pytest.fixture(scope="module")
def task(tiny_lm):
    return Task(tiny_lm.module, Pooling(tiny_lm.module, M), vocab_chunk=10)


@pytest.fixture(scope="module")
def params(task):
    params = nn.unbox(init_params(jax.random.key(0), task))
    rng = np.random.default_rng(1)  # vectors of 0 would hide where they stand
    vectors = {n: jnp.asarray(rng.standard_normal(16), jnp.float32) for n in ("ae", "ft")}
    return params | vectors


def plain_log_probs(lm, task, params, context, row):
    """log p of every token after each position of one row, without any padding."""
    prompts = [
        task.compressor.digest(
            params["compressor"],
            lm.params,
            jnp.asarray(chunk)[None],
            jnp.array([len(chunk)]),
        )[0]
        for chunk in split(context, 4)
    ]
    vectors = jnp.concatenate([params["ae"][None], params["ft"][None], *prompts])
    embedded = lm.params["embedding"][row.tokens]
    x = jnp.stack(
        [e if s < 0 else vectors[s] for e, s in zip(embedded, row.slots, strict=True)]
    )
    hidden, _ = lm.module.apply({"params": lm.params}, x[None])
    rows = lm.module.apply({"params": lm.params}, method="unembedding")
    return jax.nn.log_softmax(hidden[0] @ rows.T)


def plain_scores(lm, task, params, context, row):
    """Of the scored tokens of one row: cross-entropy, and whether they are right."""
    (where,) = np.nonzero(row.scored)
    found = plain_log_probs(lm, task, params, context, row)[where - 1]
    nats = -jnp.stack([p[t] for p, t in zip(found, row.tokens[where], strict=True)])
    return nats, found.argmax(axis=-1) == row.tokens[where]


@pytest.mark.slow
def test_a_padded_batch_has_the_losses_of_single_rows(tiny_lm, task, params):
    contexts, rows = examples()

    @jax.jit
    def ours(params, batch):
        return batch_scores(params, tiny_lm.params, batch, task)

    @jax.jit
    def plain(params):
        return [
            plain_scores(tiny_lm, task, params, *example)
            for example in zip(contexts, rows, strict=True)
        ]

    got = ours(params, batch_of(contexts, rows))
    for i, (nats, right) in enumerate(plain(params)):
        n = len(nats)
        # Measured 9.5e-7 where they reach 6.
        np.testing.assert_allclose(got.nats[i, :n], nats, atol=5e-6)
        np.testing.assert_array_equal(got.right[i, :n], right)


def test_gradients_are_those_of_the_plain_loss(tiny_lm, task, params):
    contexts, rows = examples()
    batch = batch_of(contexts, rows)
    lengths = [int(row.scored.sum()) for row in rows]
    # Of each scored token, row after row.
    averages = {
        "token": np.full(sum(lengths), 1 / sum(lengths)),
        "sequence": np.concatenate([np.full(n, 1 / (3 * n)) for n in lengths]),
    }

    @jax.jit
    @jax.value_and_grad
    def ours(params, weights):
        found = batch_scores(params, tiny_lm.params, batch, task)
        return jnp.sum(weights * found.nats)

    @jax.jit
    @jax.value_and_grad
    def plain(params, weights):
        each = [
            plain_scores(tiny_lm, task, params, *example)[0]
            for example in zip(contexts, rows, strict=True)
        ]
        return jnp.concatenate(each) @ weights

    for average, weights in averages.items():
        got, got_grad = ours(params, token_weights(batch.rows.scored, average))
        want, want_grad = plain(params, jnp.asarray(weights, jnp.float32))
        assert got == pytest.approx(float(want), rel=1e-5)
        for a, b in zip(jax.tree.leaves(got_grad), jax.tree.leaves(want_grad), strict=True):
            assert np.abs(b).max() > 1e-3
            # Measured 2.2e-7 where they reach 0.4.
            np.testing.assert_allclose(a, b, atol=1e-6)


def test_weights_are_those_of_the_global_batch():
    scored = np.zeros((2, 3, 5), bool)  # two micro-batches
    lengths = [[5, 1, 0], [2, 4, 0]]
    for n, row in np.ndindex(2, 3):
        scored[n, row, : lengths[n][row]] = True
    token = token_weights(jnp.asarray(scored), "token")
    np.testing.assert_allclose(token, scored / 12, rtol=1e-6)
    sequence = token_weights(jnp.asarray(scored), "sequence")
    # Four rows have tokens; each counts the same.
    np.testing.assert_allclose(
        sequence.sum(axis=-1), np.asarray(lengths, bool) / 4, rtol=1e-6
    )
    assert sequence[0, 0, 0] == pytest.approx(1 / 20) and not sequence[~scored].any()
    nothing = token_weights(jnp.zeros((1, 2, 3), bool), "sequence")
    np.testing.assert_array_equal(nothing, np.zeros((1, 2, 3)))


def test_a_task_without_sense_is_refused(task):
    with pytest.raises(InputError, match="average 'word' is not one of token, sequence"):
        dataclasses.replace(task, average="word")
