"""Training objectives of a compressor: the frozen LM predicts tokens from its vectors.

The sequences (`memcomp.compressors.layout`) determine which tokens: the context itself, its
continuation, an answer, or a mixture of them in one batch.

Letters: B sequences, S positions, A scored tokens of a sequence, R = B A, D d_model.
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from memcomp.compressors.chunks import Chunks, soft_prompts
from memcomp.compressors.layout import SPECIAL, Rows, input_vectors
from memcomp.compressors.protocol import Compressor, Params
from memcomp.lm.cache import from_numbers
from memcomp.lm.protocol import CausalLM, embed, hidden_states
from memcomp.lm.score import score_hidden
from memcomp.ranges import check_choice
from memcomp.sharding import constrain_batch

AVERAGES = ("token", "sequence")


@dataclasses.dataclass(frozen=True)
class Task:
    """The compressor and its objective; a static argument of jitted functions.

    Attributes:
      module: Flax module of the frozen LM.
      compressor: the compressor that is trained.
      average: how losses are averaged: "token", over all scored tokens of the global
        batch, or "sequence", first over each sequence and then over the sequences.
      vocab_chunk: number of vocabulary entries of the unembedding at once.

    Raises:
      InputError: the average is not known.
    """

    module: CausalLM
    compressor: Compressor
    average: str = "token"
    vocab_chunk: int = 8192

    def __post_init__(self):
        check_choice("average", self.average, AVERAGES)


class Batch(NamedTuple):
    """Contexts, and sequences with the tokens that are predicted from them.

    Attributes:
      chunks: chunks of the contexts.
      rows: sequences that the LM reads, with vectors.
    """

    chunks: Chunks
    rows: Rows


class RowScores(NamedTuple):
    """Scores of a batch of sequences; values at padding have no meaning.

    Attributes:
      nats: cross-entropy of every scored token.
      right: whether the LM gives the scored token the highest probability.
    """

    nats: Float[Array, "B A"]
    right: Bool[Array, "B A"]


def batch_scores(params: Params, lm_params: Params, batch: Batch, task: Task) -> RowScores:
    """Scores the sequences of a batch from the vectors that the compressor makes.

    Args:
      params: the trained tree, {"compressor": ..., "ae": [D], "ft": [D]}, in the dtype
        of the computation.
      lm_params: parameters of the frozen LM, for which no gradient is ever taken.
      batch: see `Batch`.
      task: see `Task`.
    """
    module, chunk = task.module, task.vocab_chunk
    prompts = soft_prompts(task.compressor, params["compressor"], lm_params, *batch.chunks)
    specials = jnp.stack([params[name] for name in SPECIAL])
    return row_scores(prompts, specials, lm_params, batch.rows, module, chunk)


def row_scores(
    prompts: Float[Array, "B P D"],
    specials: Float[Array, "N D"],
    lm_params: Params,
    rows: Rows,
    module: CausalLM,
    vocab_chunk: int,
    cache: Float[Array, "B C W"] | None = None,
) -> RowScores:
    """Scores sequences in which soft prompts stand among tokens.

    Args:
      prompts: digests of each sequence.
      specials: trained vectors in the order of `SPECIAL`.
      lm_params: parameters of the LM.
      rows: sequences that the LM reads.
      module: Flax module of the LM.
      vocab_chunk: number of vocabulary entries of the unembedding at once.
      cache: see `SoftPrompts`.
    """
    embedded = embed(lm_params, rows.tokens, module=module)
    x = input_vectors(rows.tokens, rows.slots, embedded, specials, prompts)
    hidden = _hidden(x, rows, lm_params, module, cache)
    targets = rows.targets
    chunks = {"module": module, "vocab_chunk": vocab_chunk}
    scores = score_hidden(lm_params, hidden, targets.ravel(), **chunks)
    nats, margin = (score.reshape(targets.shape) for score in scores)
    return RowScores(nats, margin > 0)


def _hidden(x, rows: Rows, lm_params, module, cache=None) -> Float[Array, "R D"]:
    """Final hidden states at the positions that predict a scored token, in order.

    Only these are multiplied with the unembedding, which saves most of the work if answers
    are short.
    """
    if cache is not None:
        room = cache.shape[1] + x.shape[1]
        cache = from_numbers(cache, room, x.dtype, module=module)
    hidden = hidden_states(lm_params, constrain_batch(x), cache, module=module)
    D = hidden.shape[-1]
    indices = jnp.broadcast_to(rows.read[:, :, None], (*rows.read.shape, D))
    return jnp.take_along_axis(hidden, indices, axis=1).reshape(-1, D)


def token_weights(scored: Bool[Array, "*N B A"], average: str) -> Float[Array, "*N B A"]:
    """Weights of the tokens, which sum to one over all micro-batches of the global batch.

    They depend only on which tokens are scored. So the gradients of micro-batches, and of
    shards on several devices, are only summed, and no mean of means is taken.
    """
    counted = scored.astype(jnp.float32)
    if average == "token":
        return counted / jnp.maximum(counted.sum(), 1.0)
    lengths = counted.sum(axis=-1, keepdims=True)
    num_rows = jnp.maximum((lengths > 0).sum(), 1)
    return counted / jnp.maximum(lengths, 1.0) / num_rows
