"""`token_scores` against softmax over all logits at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from selection import first_here

from memcomp.nn.cross_entropy import token_scores

T, D, V = 7, 5, 23
# Divides V, does not, one row at a time, all at once, more than there is.
CHUNKS = [1, 5, 8, 23, 100]
FAST_COMPILE = {"xla_backend_optimization_level": 0}


def problem(seed=0, scale=2.0):
    rng = np.random.default_rng(seed)
    hidden = scale * rng.standard_normal((T, D))
    unembedding = rng.standard_normal((V, D))
    targets = np.concatenate([[0, V - 1], rng.integers(V, size=T - 2)])
    return hidden, unembedding, targets.astype(np.int32)


def oracle(hidden, unembedding, targets, softcap=None):
    """Loss, margin and both gradients of the summed, weighted loss, in numpy float64."""
    hidden, unembedding = hidden.astype(np.float64), unembedding.astype(np.float64)
    logits = hidden @ unembedding.T
    slopes = np.ones_like(logits)
    if softcap is not None:
        logits = softcap * np.tanh(logits / softcap)
        slopes = 1 - (logits / softcap) ** 2
    rows = np.arange(len(targets))
    peak = logits.max(axis=1, keepdims=True)
    log_probs = logits - peak - np.log(np.exp(logits - peak).sum(axis=1, keepdims=True))
    others = logits.copy()
    others[rows, targets] = -np.inf
    margin = logits[rows, targets] - others.max(axis=1)
    pull = np.exp(log_probs)
    # -p(wrong) as a sum of small numbers: 1 - p(target) would lose its digits.
    wrong = pull.copy()
    wrong[rows, targets] = 0
    pull[rows, targets] = -wrong.sum(axis=1)
    pull *= weights(len(targets))[:, None] * slopes
    return -log_probs[rows, targets], margin, pull @ unembedding, pull.T @ hidden


def weights(length):
    return np.linspace(0.5, 1.5, length)


@functools.partial(jax.jit, static_argnums=(3, 4, 5), compiler_options=FAST_COMPILE)
def chunked(hidden, unembedding, targets, chunk, softcap=None, token_chunk=None):
    """The same four from `token_scores`."""

    def loss(hidden, unembedding):
        options = (chunk, softcap, token_chunk)
        scores = token_scores(hidden, unembedding, targets, *options)
        return jnp.sum(scores.loss * weights(len(targets)).astype(hidden.dtype)), scores

    grad = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    (_, scores), gradients = grad(hidden, unembedding)
    return scores.loss, scores.margin, *gradients


def arrays(dtype, **kwargs):
    hidden, unembedding, targets = problem(**kwargs)
    cast = jnp.asarray(hidden, dtype), jnp.asarray(unembedding, dtype)
    return *cast, jnp.asarray(targets)


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("token_chunk", first_here([3, 1, T]))
def test_tokens_in_chunks_are_the_tokens_at_once(token_chunk, softcap):
    with jax.enable_x64(True):
        want = chunked(*arrays(jnp.float64), 5, softcap)
        got = chunked(*arrays(jnp.float64), 5, softcap, token_chunk)
        for g, w in zip(got, want, strict=True):
            # Measured 1.8e-15.
            np.testing.assert_allclose(g, w, atol=1e-14, rtol=0)


def test_logits_are_there_for_a_chunk_of_tokens_alone():
    def temporaries(token_chunk):
        shapes = [(2048, 16), (512, 16)]
        inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        targets = jax.ShapeDtypeStruct((2048,), jnp.int32)

        def loss(hidden, rows, targets):
            options = (256, None, token_chunk)
            return token_scores(hidden, rows, targets, *options).loss.sum()

        program = jax.jit(jax.grad(loss), compiler_options=FAST_COMPILE)
        memory = program.lower(*inputs, targets).compile().memory_analysis()
        return memory.temp_size_in_bytes

    # Measured 0.04.
    assert temporaries(64) < 0.2 * temporaries(None)


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("chunk", CHUNKS)
def test_scores_and_gradients_in_float64_match_the_full_softmax(chunk, softcap):
    want = oracle(*problem(), softcap)
    with jax.enable_x64(True):
        got = chunked(*arrays(jnp.float64), chunk, softcap)
        for g, w in zip(got, want, strict=True):
            assert g.dtype == jnp.float64
            # Measured 1.8e-15.
            np.testing.assert_allclose(g, w, rtol=0, atol=1e-14)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_scores_and_gradients_in_float32_match_the_full_softmax(chunk):
    inputs = arrays(jnp.float32)
    want = oracle(*map(np.asarray, inputs))
    for g, w in zip(chunked(*inputs, chunk), want, strict=True):
        # Measured 1.1e-6, where losses reach 18.
        np.testing.assert_allclose(g, w, rtol=0, atol=5e-6)


def test_a_chunk_that_holds_only_the_target_adds_nothing():
    hidden, unembedding, _ = arrays(jnp.float32)
    for target in 0, 11, V - 1:  # the first chunk, one in the middle, the last
        targets = jnp.full((T,), target)
        want = oracle(np.asarray(hidden), np.asarray(unembedding), np.asarray(targets))
        for g, w in zip(chunked(hidden, unembedding, targets, 1), want, strict=True):
            assert np.isfinite(g).all()
            np.testing.assert_allclose(g, w, rtol=0, atol=2e-5)


def test_vmapped_over_texts_equals_one_by_one():
    texts = [arrays(jnp.float32, seed=seed) for seed in range(3)]
    hidden = jnp.stack([text[0] for text in texts])
    targets = jnp.stack([text[2] for text in texts])
    unembedding = texts[0][1]
    many = jax.vmap(lambda h, t: chunked(h, unembedding, t, 8))(hidden, targets)
    for i in range(3):
        alone = chunked(hidden[i], unembedding, targets[i], 8)
        for g, w in zip(many, alone, strict=True):
            np.testing.assert_allclose(g[i], w, rtol=0, atol=8e-6)


def nearly_certain():
    """Hidden states along their targets' rows, as long as makes p(wrong) 1e-6."""
    rng = np.random.default_rng(0)
    unembedding = rng.standard_normal((V, 4 * D))
    unembedding /= np.linalg.norm(unembedding, axis=1, keepdims=True)
    targets = rng.integers(V, size=T).astype(np.int32)
    low, high = np.zeros((T, 1)), np.full((T, 1), 100.0)
    for _ in range(60):
        middle = (low + high) / 2
        loss = oracle(middle * unembedding[targets], unembedding, targets)[0][:, None]
        low, high = np.where(loss > 1e-6, middle, low), np.where(loss > 1e-6, high, middle)
    hidden = low * unembedding[targets]
    return hidden.astype(np.float32), unembedding.astype(np.float32), targets


def test_gradient_keeps_its_digits_where_the_model_is_nearly_certain():
    hidden, unembedding, targets = map(jnp.asarray, nearly_certain())
    loss, _, want, _ = oracle(*map(np.asarray, (hidden, unembedding, targets)))
    np.testing.assert_allclose(loss, 1e-6, rtol=0.1)

    def plain(hidden):
        log_probs = jax.nn.log_softmax(jnp.einsum("td,vd->tv", hidden, unembedding))
        losses = -jnp.take_along_axis(log_probs, targets[:, None], axis=1)[:, 0]
        return jnp.sum(losses * weights(T).astype(np.float32))

    def error(got):
        return (np.abs(np.asarray(got) - want).max(axis=1) / np.abs(want).max(axis=1)).max()

    ours = error(chunked(hidden, unembedding, targets, 8)[2])
    theirs = error(jax.jit(jax.grad(plain))(hidden))
    # Measured 8.2e-6 against 0.26 of softmax - onehot.
    assert ours < 4e-5 and theirs > 1000 * ours


def test_a_tie_has_no_margin():
    hidden, unembedding, targets = arrays(jnp.float32)
    tied = unembedding.at[targets[0] + 1].set(unembedding[targets[0]])
    strong = hidden.at[0].set(50 * unembedding[targets[0]])
    assert chunked(strong, tied, targets, 8)[1][0] == 0


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("chunk", [8, 100])
def test_the_gradient_of_the_margin_is_that_of_all_logits(chunk, softcap):
    hidden, unembedding, targets = arrays(jnp.float32)

    def plain(hidden, unembedding):
        logits = hidden @ unembedding.T
        logits = logits if softcap is None else softcap * jnp.tanh(logits / softcap)
        is_target = jax.nn.one_hot(targets, V, dtype=bool)
        other = jnp.where(is_target, -jnp.inf, logits).max(axis=1)
        return jnp.sum(weights(T) * (logits[jnp.arange(T), targets] - other))

    def ours(hidden, unembedding):
        margin = token_scores(hidden, unembedding, targets, chunk, softcap).margin
        return jnp.sum(weights(T) * margin)

    want = fast_grad(plain)(hidden, unembedding)
    got = fast_grad(ours)(hidden, unembedding)
    for g, w in zip(got, want, strict=True):
        # Measured 2.4e-7, of gradients up to 4.6.
        np.testing.assert_allclose(g, w, rtol=0, atol=3e-6)


def test_without_the_gradient_of_the_loss_the_margin_has_the_same_one():
    hidden, unembedding, targets = arrays(jnp.float32)

    def gradient(of, **options):
        def total(hidden):
            scores = token_scores(hidden, unembedding, targets, 8, **options)
            return jnp.sum(weights(T) * getattr(scores, of))

        return jax.jit(jax.value_and_grad(total))(hidden)

    for of in "margin", "loss":
        (value, _), (want, _) = gradient(of, loss_gradient=False), gradient(of)
        np.testing.assert_allclose(value, want, rtol=1e-6)
    got, want = gradient("margin", loss_gradient=False)[1], gradient("margin")[1]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)  # measured 0
    assert not gradient("loss", loss_gradient=False)[1].any()


def test_without_the_gradient_of_the_loss_the_work_is_half():
    shapes = [(64, 32), (512, 32)]
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    targets = jax.ShapeDtypeStruct((64,), jnp.int32)

    def flops(**options):
        def total(hidden, rows, targets):
            return token_scores(hidden, rows, targets, 512, **options).margin.sum()

        program = jax.jit(jax.grad(total), compiler_options=FAST_COMPILE)
        return program.lower(*inputs, targets).compile().cost_analysis()["flops"]

    # Measured 0.58.
    assert flops(loss_gradient=False) < 0.7 * flops()


@pytest.mark.parametrize("chunk", CHUNKS)
def test_of_equal_logits_the_first_gives_the_gradient_of_the_margin(chunk):
    hidden, unembedding, _ = arrays(jnp.float32)
    best = int(jnp.argmax(unembedding @ hidden[0]))

    def margin(rows, target):
        return token_scores(hidden[:1], rows, target, chunk).margin[0]

    gradient_of = jax.jit(jax.grad(margin), compiler_options=FAST_COMPILE)
    for copy in {0, 9, V - 1} - {best}:
        # Two tokens with one vector, far apart from the target's.
        rows = unembedding.at[copy].set(unembedding[best])
        target = jnp.array([next(i for i in range(V) if i not in (copy, best))])
        gradient = np.asarray(gradient_of(rows, target))
        first, second = sorted((copy, best))
        assert gradient[first].any() and not gradient[second].any()


def test_positive_margin_means_that_the_target_is_the_argmax():
    for seed in range(5):
        hidden, unembedding, targets = arrays(jnp.float32, seed=seed)
        best = jnp.einsum("td,vd->tv", hidden, unembedding).argmax(axis=1)
        margin = chunked(hidden, unembedding, targets, 8)[1]
        np.testing.assert_array_equal(margin > 0, best == targets)


def test_bfloat16_scores_are_in_float32_and_gradients_in_bfloat16():
    inputs = arrays(jnp.bfloat16)
    want = oracle(*(np.asarray(x.astype(jnp.float32)) for x in inputs[:2]), inputs[2])
    got = chunked(*inputs, 8)
    assert [g.dtype for g in got] == 2 * [jnp.float32] + 2 * [jnp.bfloat16]
    for g, w, atol in zip(got, want, (3e-6, 3e-6, 0.06, 0.06), strict=True):
        # Measured 5e-7 for the scores and 0.012 for the gradients, which reach 4.
        np.testing.assert_allclose(g.astype(jnp.float32), w, rtol=0, atol=atol)


@pytest.mark.parametrize("batch", [None, 2])
def test_no_array_of_all_logits_is_compiled(batch):
    T, D, V, chunk = 64, 16, 128_256, 8_192
    lead = () if batch is None else (batch,)
    hidden = jax.ShapeDtypeStruct((*lead, T, D), jnp.float32)
    unembedding = jax.ShapeDtypeStruct((V, D), jnp.float32)
    targets = jax.ShapeDtypeStruct((*lead, T), jnp.int32)

    def loss(hidden, unembedding, targets):
        score = token_scores
        if batch is not None:
            score = jax.vmap(token_scores, (0, None, 0, None))
        return score(hidden, unembedding, targets, chunk).loss.sum()

    jitted = jax.jit(jax.grad(loss), compiler_options=FAST_COMPILE)
    compiled = jitted.lower(hidden, unembedding, targets).compile()
    one_chunk = 4 * T * chunk * (batch or 1)
    # Measured 2.1 chunks of logits, and 2.9 under vmap; [T V] would be 15.7 chunks.
    temp = compiled.memory_analysis().temp_size_in_bytes
    assert temp < 4 * one_chunk


def squared_gradients(loss, directions):
    """Sum of squares of a loss's derivatives along directions of both its arguments."""

    def squares(*inputs):
        gradients = jax.grad(loss, argnums=(0, 1))(*inputs)
        parts = zip(gradients, directions, strict=True)
        return sum(jnp.sum(g * along) ** 2 for g, along in parts)

    return squares


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize(
    "chunk, token_chunk", first_here([(8, 3), (1, None), (8, None), (100, None)])
)
def test_second_derivatives_are_those_of_the_full_softmax(chunk, token_chunk, softcap):
    with jax.enable_x64(True):
        hidden, unembedding, targets = arrays(jnp.float64)
        rng = np.random.default_rng(1)
        directions = [rng.standard_normal(x.shape) for x in (hidden, unembedding)]

        def plain(hidden, unembedding):
            logits = hidden @ unembedding.T
            logits = logits if softcap is None else softcap * jnp.tanh(logits / softcap)
            log_probs = jax.nn.log_softmax(logits)
            return -jnp.sum(weights(T) * log_probs[jnp.arange(T), targets])

        def ours(hidden, unembedding):
            options = (chunk, softcap, token_chunk)
            loss = token_scores(hidden, unembedding, targets, *options).loss
            return jnp.sum(weights(T) * loss)

        want, got = (
            fast_grad(squared_gradients(loss, directions))(hidden, unembedding)
            for loss in (plain, ours)
        )
        for g, w in zip(got, want, strict=True):
            # Measured 1.3e-15 of the largest entry.
            np.testing.assert_allclose(g, w, rtol=0, atol=1e-14 * np.abs(w).max())


def fast_grad(function):
    grad = jax.grad(function, argnums=(0, 1))
    return jax.jit(grad, compiler_options=FAST_COMPILE)


def test_second_derivatives_keep_no_array_of_all_logits():
    T, D, V, chunk = 64, 16, 8_192, 512
    hidden = jax.ShapeDtypeStruct((T, D), jnp.float32)
    unembedding = jax.ShapeDtypeStruct((V, D), jnp.float32)
    targets = jax.ShapeDtypeStruct((T,), jnp.int32)

    def loss(hidden, unembedding, targets):
        return token_scores(hidden, unembedding, targets, chunk).loss.sum()

    def after_a_step(hidden, *others):
        return loss(hidden - jax.grad(loss)(hidden, *others), *others)

    jitted = jax.jit(jax.grad(after_a_step), compiler_options=FAST_COMPILE)
    compiled = jitted.lower(hidden, unembedding, targets).compile()
    # Measured 4 chunks of logits; all logits are 16 chunks.
    assert compiled.memory_analysis().temp_size_in_bytes < 6 * (4 * T * chunk)
