"""Scores of texts: how well the frozen LM predicts them; texts are scored nowhere else.

Losses are in nats. Letters: B texts, T tokens, S positions, P vectors before the
text, D d_model.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from memcomp.errors import InputError
from memcomp.lm.cache import from_numbers
from memcomp.lm.protocol import (
    Cache,
    CausalLM,
    LanguageModel,
    Params,
    embed,
    hidden_states,
    unembedding,
)
from memcomp.nn.cross_entropy import TokenScores, token_scores
from memcomp.sharding import constrain_example, fetch

Item = TypeVar("Item")
BITS_PER_NAT = 1 / math.log(2)
GROUP = 8  # texts that are scored or decoded together, so that one program serves all
VOCAB_CHUNK = 8192  # number of vocabulary entries whose logits exist at once


def score_hidden(
    params: Params,
    hidden: Float[Array, "T D"],
    targets: Int[Array, "T"],
    *,
    module: CausalLM,
    vocab_chunk: int = VOCAB_CHUNK,
    token_chunk: int | None = None,
    loss_gradient: bool = True,
) -> TokenScores:
    """Loss and margin of each target, given the final hidden state that predicts it.

    `loss_gradient` is False where only the margin is differentiated; see `token_scores`.
    """
    rows = unembedding(params, module=module)
    chunks = vocab_chunk, module.softcap, token_chunk
    return token_scores(hidden, rows, targets, *chunks, loss_gradient=loss_gradient)


def read_scores(
    x: Float[Array, "R S D"],
    targets: Int[Array, "T"],
    params: Params,
    cache: Cache = None,
    *,
    module: CausalLM,
    vocab_chunk: int,
    token_chunk: int | None = None,
    loss_gradient: bool = True,
) -> TokenScores:
    """Loss and margin of each target, predicted by the last of the input vectors.

    Args:
      x: input vectors, in rows that are read side by side. Target i is predicted by row
        i modulo R (`in_turn`); with one row, by the last T vectors.
      targets: tokens that they predict.
      params: parameters of the LM.
      cache: cache of each row, after which the vectors are read; None for none.
      module: the LM's Flax module.
      vocab_chunk: number of vocabulary entries whose logits exist at once.
      token_chunk: number of tokens whose logits exist at once; None for all.
      loss_gradient: False where only the margin is differentiated; see `token_scores`.
    """
    # Where parameters and texts are sharded over the same mesh axis, the compiler might
    # otherwise gather the activations, which are larger, instead of the parameters.
    x = constrain_example(x)
    hidden = hidden_states(params, x, cache, module=module)
    return score_hidden(
        params,
        in_turn(hidden, len(targets)),
        targets,
        module=module,
        vocab_chunk=vocab_chunk,
        token_chunk=token_chunk,
        loss_gradient=loss_gradient,
    )


def in_turn(hidden: Float[Array, "R S D"], num: int) -> Float[Array, "{num} D"]:
    """The last hidden states of rows, taken in turn from each row."""
    each = -(-num // len(hidden))
    last = hidden[:, hidden.shape[1] - each :].swapaxes(0, 1)
    return last.reshape(-1, last.shape[-1])[:num]


def score_last(
    params: Params,
    x: Float[Array, "B S D"],
    targets: Int[Array, "B T"],
    *,
    module: CausalLM,
    vocab_chunk: int = VOCAB_CHUNK,
    cache: Cache = None,
    mask: Bool[Array, "L S keys"] | None = None,
) -> TokenScores:
    """Loss and margin [B T] of the targets, predicted by the last T of S input vectors."""
    hidden = hidden_states(params, x, cache, module=module, mask=mask)
    hidden = hidden[:, -targets.shape[1] :]
    rows = unembedding(params, module=module)
    score = functools.partial(token_scores, chunk=vocab_chunk, softcap=module.softcap)
    return jax.vmap(score, (0, None, 0))(hidden, rows, targets)


class Scores(NamedTuple):
    """Scores of tokens, each predicted from the true tokens before it.

    Attributes:
      loss: loss of each token in nats.
      right: whether each token is the most likely one.
    """

    loss: Float[np.ndarray, "B T"]
    right: Bool[np.ndarray, "B T"]

    def columns(self) -> dict[str, list[float]]:
        """Mean loss per token in nats and in bits, and accuracy, of each text."""
        loss = self.loss.mean(axis=1, dtype=np.float64)
        return {
            "loss_nats": loss.tolist(),
            "loss_bits": (loss * BITS_PER_NAT).tolist(),
            "accuracy": self.right.mean(axis=1).tolist(),
        }


def start(lm: LanguageModel, num_texts: int) -> Int[np.ndarray, "B _"]:
    """Start token of each text: BOS, or else EOS; no token if the LM has neither."""
    token = start_token(lm)
    return np.full((num_texts, 0 if token is None else 1), token or 0, np.int32)


def joined(lm: LanguageModel, *parts: np.ndarray) -> Float[np.ndarray, "B P D"]:
    """Concatenates the input vectors of parts, each memory [B M D] or token ids [B T]."""
    vectors = [fetch(lm.run(_embed, part)) if part.ndim == 2 else part for part in parts]
    return np.concatenate([np.asarray(v, np.float32) for v in vectors], axis=1)


def score_after(
    lm: LanguageModel,
    prefix: Float[np.ndarray, "B P D"],
    tokens: Int[np.ndarray, "B T"],
    mask: Bool[np.ndarray, "L S keys"] | None = None,
    cached: Float[np.ndarray, "B M W"] | None = None,
) -> Scores:
    """Scores all `tokens`, each predicted from `prefix` and the tokens before it.

    After an empty prefix, the first token gets a uniform prediction, as in `baselines`.

    Args:
      lm: the language model.
      prefix: input vectors before each text.
      tokens: token ids of each text.
      mask: mask that hides keys, of the cache and of S = P + T - 1 positions, from queries
        at these positions of an LM with attention (`memcomp.nn.decoder`); None hides
        nothing.
      cached: cache of M positions as numbers (`memcomp.lm.cache`), after which the prefix
        is read; None for none.

    Raises:
      InputError: the LM has too few positions, or its logits are not finite.
    """
    before = prefix.shape[1] + (0 if cached is None else cached.shape[1])
    wanted, room = before + tokens.shape[1] - 1, lm.config.max_positions
    if wanted > room:
        raise InputError(
            f"{before} vectors and {tokens.shape[1]} tokens after them need "
            f"{wanted} positions, and {lm.name} has {room}; give fewer"
        )
    loss, margin = in_groups(
        lambda rows: lm.run(_score_after, *rows, mask), (prefix, tokens, cached)
    )
    lm.check_finite(np.isfinite(loss))
    return Scores(loss, margin > 0)


def in_groups(run: Callable[[Any], Any], batch: Any, size: int = GROUP) -> Any:
    """Joins the results of `run` for `size` rows of a batch at a time: one program.

    Args:
      run: from a tree of arrays of `size` rows to another one.
      batch: a tree of arrays of any number of rows; the last one fills up the last group.
      size: rows at a time.

    Returns:
      The tree that `run` gives, as numpy arrays with a row for each of the batch.
    """
    num, found = len(jax.tree.leaves(batch)[0]), []
    for first in range(0, num, size):
        rows = np.arange(first, first + size).clip(max=num - 1)
        results = fetch(run(jax.tree.map(operator.itemgetter(rows), batch)))
        found.append(jax.tree.map(operator.itemgetter(slice(num - first)), results))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *found)


class Baseline(NamedTuple):
    """Scores of one text by the LM without memory.

    Attributes:
      loss_nats: mean cross-entropy in nats per scored token.
      accuracy: share of the scored tokens that are right.
      surprise_nats: [T], cross-entropy of each token; NaN where it is given.
    """

    loss_nats: float
    accuracy: float
    surprise_nats: np.ndarray


def baselines(
    lm: LanguageModel,
    texts: Sequence[Int[np.ndarray, "_"]],
    *,
    num_given: int,
    pad_to: int,
    vocab_chunk: int,
) -> list[Baseline]:
    """Scores each text by the LM without memory, teacher-forced.

    Where the first token is scored (strict protocol), the LM reads its BOS before it, or
    its EOS if it has no BOS. With neither, the first token gets a uniform prediction. Where
    it is given, the LM reads nothing before it.

    Args:
      lm: the language model.
      texts: token ids of each text.
      num_given: number of leading tokens that are not scored.
      pad_to: length to which texts are padded; at least that of the longest.
      vocab_chunk: number of vocabulary entries whose logits exist at once.

    Source: `original_loss` of Kuratov et al. 2025, arXiv:2502.13063; the first token is
      our addition.
    """
    start = None if num_given else start_token(lm)
    found = []
    for group in grouped(texts):
        tokens = np.zeros((GROUP, pad_to), np.int32)
        for row, text in zip(tokens, group, strict=False):
            row[: len(text)] = text
        loss, right = _scores_without_memory(lm, tokens, start, vocab_chunk)
        for text, text_loss, text_right in zip(group, loss, right, strict=False):
            scored = slice(num_given, len(text))
            lm.check_finite(np.isfinite(text_loss[scored]))
            mean = float(np.mean(text_loss[scored], dtype=np.float64))
            surprise = np.full(len(text), np.nan, np.float32)
            surprise[scored] = text_loss[scored]
            found.append(Baseline(mean, float(np.mean(text_right[scored])), surprise))
    return found


def _scores_without_memory(
    lm: LanguageModel, tokens: np.ndarray, start: int | None, vocab_chunk: int
) -> tuple[np.ndarray, np.ndarray]:
    """Loss of every token [B T], and whether it is right; `start` is BOS, EOS or None."""
    read, targets = tokens[:, :-1], tokens[:, 1:]
    if start is not None:
        first = np.full_like(tokens[:, :1], start)
        read, targets = np.concatenate([first, read], axis=1), tokens
    scores = lm.run(_score_tokens, read, targets, vocab_chunk=vocab_chunk)
    loss, right = fetch(scores.loss), fetch(scores.margin) > 0
    if start is None:
        uniform = np.full_like(loss, math.log(lm.config.vocab_size), shape=(len(loss), 1))
        loss = np.concatenate([uniform, loss], axis=1)
        right = np.concatenate([uniform < 0, right], axis=1)
    return loss, right


def grouped(items: Sequence[Item]) -> list[list[Item]]:
    """Groups of `GROUP` items; the last group may be smaller."""
    return [list(items[i : i + GROUP]) for i in range(0, len(items), GROUP)]


def start_token(lm: LanguageModel) -> int | None:
    """Token that the LM reads before a text: BOS, or else EOS; None if it has neither."""
    tokenizer = lm.tokenizer
    if tokenizer is None:
        return None
    if tokenizer.bos_token_id is not None:
        return tokenizer.bos_token_id
    return tokenizer.eos_token_id


@functools.partial(jax.jit, static_argnames="module")
def _embed(params: Params, tokens: Int[Array, "B T"], *, module: CausalLM) -> Array:
    return embed(params, tokens, module=module)


@functools.partial(jax.jit, static_argnames=("module", "vocab_chunk"))
def _score_tokens(
    params: Params,
    read: Int[Array, "B T"],
    targets: Int[Array, "B T"],
    *,
    module: CausalLM,
    vocab_chunk: int,
) -> TokenScores:
    x = embed(params, read, module=module)
    return score_last(params, x, targets, module=module, vocab_chunk=vocab_chunk)


@functools.partial(jax.jit, static_argnames="module")
def _score_after(
    params: Params,
    prefix: Float[Array, "B P D"],
    tokens: Int[Array, "B T"],
    cached: Float[Array, "B M W"] | None,
    mask: Bool[Array, "L S keys"] | None,
    *,
    module: CausalLM,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    read = embed(params, tokens[:, :-1], module=module)
    x = jnp.concatenate([prefix.astype(read.dtype), read], axis=1)
    empty = int(prefix.shape[1] == 0)
    cache = None
    if cached is not None:
        room = cached.shape[1] + x.shape[1]
        cache = from_numbers(cached, room, x.dtype, module=module)
    targets = tokens[:, empty:]
    got = score_last(params, x, targets, module=module, cache=cache, mask=mask)
    # Without anything before it, the first token gets a uniform prediction.
    missing = [(0, 0), (empty, 0)]
    uniform = math.log(module.config.vocab_size)
    loss = jnp.pad(got.loss, missing, constant_values=uniform)
    return loss, jnp.pad(got.margin, missing, constant_values=-1.0)
