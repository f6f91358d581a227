"""Cross-entropy over a large vocabulary without the [T V] array of logits.

Letters: T tokens, D d_model, V vocabulary, C a chunk of the vocabulary.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

MASKED = -1e30  # finite, because the first chunk may contain nothing but the target


class TokenScores(NamedTuple):
    """Scores of each token's prediction.

    Attributes:
      loss: -log p(target), in nats.
      margin: logit of the target minus the best other logit; the token is right where
        it is positive (a tie is wrong).
    """

    loss: Float[Array, "T"]
    margin: Float[Array, "T"]


class _Others(NamedTuple):
    """Running sums over all tokens except the target, an attention over the vocabulary.

    Attributes:
      peak: largest logit so far.
      runner_up: token with the largest logit.
      total: sum of exp(logit - peak).
      vector: sum of exp(logit - peak) times the unembedding vector; [T 0] if not wanted.
    """

    peak: Float[Array, "T"]
    runner_up: Int[Array, "T"]
    total: Float[Array, "T"]
    vector: Float[Array, "T _"]


def soft_capped(logits: Float[Array, "..."], cap: float | None) -> Float[Array, "..."]:
    """Returns c tanh(z / c) of logits z with the cap c; z itself if `cap` is None."""
    return logits if cap is None else cap * jnp.tanh(logits / cap)


def token_scores(
    hidden: Float[Array, "T D"],
    unembedding: Float[Array, "V D"],
    targets: Int[Array, "T"],
    chunk: int = 8192,
    softcap: float | None = None,
    token_chunk: int | None = None,
    *,
    loss_gradient: bool = True,
) -> TokenScores:
    """Loss and margin of every target under `softmax(hidden @ unembedding.T)`.

    With `softcap` c, the logits z become c tanh(z / c).

    The vocabulary is read in chunks of `chunk` unembedding vectors, for all tokens at once
    or for `token_chunk` of them, so that memory is O(token_chunk chunk) plus arrays of the
    size of `hidden`. The gradient with respect to `unembedding` reads all tokens at once.

    The gradient of the loss with respect to `hidden` is the expected unembedding vector
    minus the target's. The same pass computes it, as an online softmax whose values are the
    unembedding vectors w_v, so that nothing is computed twice. With q the softmax over the
    wrong tokens alone, it is

        p(wrong) * (sum_v q_v w_v - w_target),

    a form that keeps its relative precision when p(wrong) is tiny, where
    `softmax - onehot` has lost all digits. A soft cap scales each vector by its slope. The
    gradient of the margin is the target's vector minus that of the best other token.

    With `loss_gradient` False the loss is a constant for differentiation. Where only the
    margin is differentiated, this saves the sum of unembedding vectors, which is half of
    the work.

    Both gradients can be differentiated again, in reverse mode and in the same memory, plus
    an array of the size of `hidden` for each chunk of the vocabulary.

    Source: online softmax: Milakov and Gimelshein 2018, arXiv:1805.02867; cross-entropy
      of a memory: Kuratov et al. 2025, arXiv:2502.13063, section 3.
    """
    options = (chunk, softcap, token_chunk)
    inputs = hidden, unembedding
    if not loss_gradient:
        inputs = jax.lax.stop_gradient(inputs)
    scores: Any = _cross_entropy(*inputs, targets, *options)
    loss, margin, runner_up = scores
    # The value comes from the pass over the vocabulary, so that its sign agrees with the
    # logits of which the largest was chosen; only the derivative comes from these two.
    rows = _logit_of(hidden, unembedding, targets, softcap)
    rows = rows - _logit_of(hidden, unembedding, runner_up, softcap)
    return TokenScores(loss, _with_derivative(margin, rows))


@jax.custom_vjp
def _with_derivative(value, source):
    """Returns `value` with the derivative of `source`, whose own value is not used."""
    return value


_with_derivative.defvjp(
    lambda value, source: (value, None), lambda _, push: (jnp.zeros_like(push), push)
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _cross_entropy(hidden, unembedding, targets, chunk, softcap, token_chunk):
    """Loss, margin and runner-up of every target; only the loss has a derivative."""

    def score(hidden, targets):
        return _score(hidden, unembedding, targets, chunk, softcap, False)[0]

    return _over_tokens(score, token_chunk, hidden, targets)


def _over_tokens(function, token_chunk, *arrays):
    """Applies `function` to `arrays` [T ...] in blocks of `token_chunk` of the T."""
    T = arrays[0].shape[0]
    if token_chunk is None or T <= token_chunk:
        return function(*arrays)
    blocks = -(-T // token_chunk)

    def cut(x):
        padded = jnp.pad(x, [(0, blocks * token_chunk - T)] + [(0, 0)] * (x.ndim - 1))
        return padded.reshape(blocks, token_chunk, *x.shape[1:])

    found = jax.lax.map(lambda block: function(*block), tuple(map(cut, arrays)))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:T], found)


def _score(hidden, unembedding, targets, chunk, softcap, want_vector):
    """Returns three scores, the sums over wrong tokens, log p(wrong) - log p(target)."""
    accumulate = jnp.promote_types(hidden.dtype, jnp.float32)
    target_logit = _logit_of(hidden, unembedding, targets, softcap)

    def add(others: _Others, weights: Float[Array, "C D"], offset) -> _Others:
        logits = _other_logits(hidden, weights, targets - offset, softcap)
        own_peak = jnp.max(logits, axis=-1)
        peak = jnp.maximum(others.peak, own_peak)
        shrink = jnp.exp(others.peak - peak)
        exps = jnp.exp(logits - peak[:, None])
        vector = others.vector
        if want_vector:
            vector = vector * shrink[:, None] + jnp.einsum(
                "tc,cd->td",
                (exps * _slope(logits, softcap)).astype(weights.dtype),
                weights,
                preferred_element_type=accumulate,
            )
        here = (offset + _first_equal(logits, own_peak)).astype(others.runner_up.dtype)
        runner_up = jnp.where(peak > others.peak, here, others.runner_up)
        total = others.total * shrink + exps.sum(axis=-1)
        return _Others(peak, runner_up, total, vector)

    T, D = hidden.shape
    start = _Others(
        jnp.full((T,), MASKED, accumulate),
        jnp.zeros((T,), jnp.int32),
        jnp.zeros((T,), accumulate),
        jnp.zeros((T, D if want_vector else 0), accumulate),
    )
    others = over_chunks(add, start, unembedding, chunk)
    log_odds = others.peak + jnp.log(others.total) - target_logit
    margin = target_logit - others.peak
    scores = jax.nn.softplus(log_odds), margin, others.runner_up
    return scores, others, log_odds


def _first_equal(logits: Float[Array, "T C"], peak: Float[Array, "T"]) -> Int[Array, "T"]:
    """Index of each row's first logit that equals `peak`, its largest.

    It is `argmax`, which XLA computes on a CPU an entry at a time, in as much time as the
    product that gives the logits. A maximum of floats is vectorised; float32 has all whole
    numbers up to 2^24.
    """
    C = logits.shape[1]
    index = jnp.arange(C, dtype=jnp.float32)[None]
    found = jnp.max(jnp.where(logits == peak[:, None], -index, 1.0 - C), axis=-1)
    return -found.astype(jnp.int32)


def _logit_of(hidden, unembedding, tokens, softcap) -> Float[Array, "T"]:
    rows = jnp.take(unembedding, tokens, axis=0)
    accumulate = jnp.promote_types(hidden.dtype, jnp.float32)
    logit = jnp.einsum("td,td->t", hidden, rows, preferred_element_type=accumulate)
    return soft_capped(logit, softcap)


def _slope(capped, softcap):
    """Derivative of a capped logit with respect to the uncapped logit."""
    if softcap is None:
        return 1.0
    return jnp.maximum(1 - jnp.square(capped / softcap), 0)  # 0 for masked logits


def _other_logits(hidden, weights, targets, softcap) -> Float[Array, "T C"]:
    """Logits of a chunk with the target masked; `targets` count from the chunk's start."""
    accumulate = jnp.promote_types(hidden.dtype, jnp.float32)
    logits = jnp.einsum("td,cd->tc", hidden, weights, preferred_element_type=accumulate)
    logits = soft_capped(logits, softcap)
    is_target = jnp.arange(weights.shape[0])[None, :] == targets[:, None]
    return jnp.where(is_target, MASKED, logits)


def over_chunks(step, carry, unembedding, chunk):
    """Folds `step(carry, rows, offset)` over chunks of rows; the last may be shorter."""
    V = unembedding.shape[0]
    if V <= chunk:
        return step(carry, unembedding, 0)
    whole = V // chunk

    def body(carry, offset):
        rows = jax.lax.dynamic_slice_in_dim(unembedding, offset, chunk)
        return step(carry, rows, offset), None

    # The derivative of this loop, which second derivatives need, recomputes the logits of
    # each chunk. Otherwise it would keep those of all chunks, and a copy of `unembedding`.
    body = jax.checkpoint(body, prevent_cse=False)
    carry, _ = jax.lax.scan(body, carry, jnp.arange(whole) * chunk)
    if V % chunk:
        carry = step(carry, unembedding[whole * chunk :], whole * chunk)
    return carry


def _forward(hidden, unembedding, targets, chunk, softcap, token_chunk):
    def forward(hidden, targets):
        scores, others, log_odds = _score(
            hidden, unembedding, targets, chunk, softcap, True
        )
        wrong = jax.nn.sigmoid(log_odds)
        rows = jnp.take(unembedding, targets, axis=0).astype(others.vector.dtype)
        slope = _slope(_logit_of(hidden, unembedding, targets, softcap), softcap)
        slope = jnp.broadcast_to(jnp.asarray(slope, wrong.dtype), targets.shape)
        pull = others.vector / others.total[:, None] - rows * slope[:, None]
        log_normaliser = others.peak + jnp.log(others.total)
        return scores, (wrong[:, None] * pull, wrong, log_normaliser, slope)

    scores, kept = _over_tokens(forward, token_chunk, hidden, targets)
    return scores, (*kept, hidden, unembedding, targets)


def _backward(chunk, softcap, token_chunk, residuals, cotangents):
    grad, wrong, log_normaliser, slope, hidden, unembedding, targets = residuals
    scale, _, _ = cotangents
    grad_hidden = (grad * scale[:, None]).astype(hidden.dtype)
    # What follows is the gradient of `unembedding`. Where the LM is frozen it is dead code,
    # which the compiler removes.
    push = scale * wrong
    accumulate = push.dtype

    def step(total, weights, offset):
        logits = _other_logits(hidden, weights, targets - offset, softcap)
        slopes = _slope(logits, softcap)
        probs = push[:, None] * jnp.exp(logits - log_normaliser[:, None]) * slopes
        rows = jnp.einsum("tc,td->cd", probs, hidden, preferred_element_type=accumulate)
        return jax.lax.dynamic_update_slice_in_dim(total, rows, offset, 0)

    zeros = jnp.zeros(unembedding.shape, accumulate)
    total = over_chunks(step, zeros, unembedding, chunk)
    pull = (push * slope)[:, None]
    total = total.at[targets].add(-pull * hidden.astype(accumulate))
    return grad_hidden, total.astype(unembedding.dtype), None


_cross_entropy.defvjp(_forward, _backward)
