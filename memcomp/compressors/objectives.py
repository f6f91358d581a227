"""What a compressor is trained for: that the frozen LM predicts tokens from its vectors.

Which tokens is a matter of the rows (`memcomp.compressors.layout`): the context itself,
what follows it, an answer, or a mixture of them in one batch.

Letters: B rows, S positions, A scored tokens of a row, R = B A, D d_model.
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from memcomp.compressors.chunks import Chunks, soft_prompts
from memcomp.compressors.layout import SPECIAL, Rows, input_vectors
from memcomp.compressors.protocol import Compressor, Params
from memcomp.errors import InputError
from memcomp.lm.protocol import CausalLM, embed, hidden_states, unembedding
from memcomp.lm.score import score_hidden
from memcomp.nn.divergence import divergence
from memcomp.sharding import constrain_batch

AVERAGES = ("token", "sequence")


@dataclasses.dataclass(frozen=True)
class Task:
    """What is trained and for what; static in jitted functions.

    Attributes:
      module: Flax module of the frozen LM.
      compressor: what is trained.
      average: "token", over all scored tokens of the global batch, or "sequence", over
        its rows of each row's own mean.
      distillation: weight of KL(LM that sees the full context || LM that sees the
        vectors) where a row has a teacher; cross-entropy has the rest of 1 there.
      vocab_chunk: rows of the unembedding at once.

    Raises:
      InputError: an average that is not known, or a weight that is none.
    """

    module: CausalLM
    compressor: Compressor
    average: str = "token"
    distillation: float = 0.0
    vocab_chunk: int = 8192

    def __post_init__(self):
        if self.average not in AVERAGES:
            raise InputError(
                f"average {self.average!r} is not one of {', '.join(AVERAGES)}"
            )
        if not 0 <= self.distillation <= 1:
            raise InputError(
                f"distillation is {self.distillation}; give a weight from 0 to 1"
            )


class Batch(NamedTuple):
    """Contexts, and rows that are to be predicted from them.

    Attributes:
      chunks: of the contexts.
      rows: what the LM reads, with vectors.
      teacher: what it reads in their place where it sees the full context; a row has as
        many scored tokens as that of `rows`, or none for no teacher. None for no
        teachers at all.
    """

    chunks: Chunks
    rows: Rows
    teacher: Rows | None = None


class RowScores(NamedTuple):
    """What the LM makes of rows; what pads is not to be read.

    Attributes:
      hidden: final states at the positions that predict a scored token, row after row.
      nats: cross-entropy of every scored token.
      right: whether it is the likeliest token.
    """

    hidden: Float[Array, "R D"]
    nats: Float[Array, "B A"]
    right: Bool[Array, "B A"]


class TokenLosses(NamedTuple):
    """The losses of every scored token; the values of padding mean nothing.

    Attributes:
      loss: what is minimised, in nats.
      nats: cross-entropy.
      right: whether it is the likeliest token.
    """

    loss: Float[Array, "B A"]
    nats: Float[Array, "B A"]
    right: Bool[Array, "B A"]


def token_losses(
    params: Params, lm_params: Params, batch: Batch, task: Task
) -> TokenLosses:
    """The losses of a batch.

    Args:
      params: the trained tree, {"compressor": ..., "ae": [D], "ft": [D]}, in the dtype
        of the computation.
      lm_params: of the frozen LM; no gradient of them is ever taken.
      batch: see `Batch`.
      task: see `Task`.
    """
    module, chunk = task.module, task.vocab_chunk
    prompts = soft_prompts(task.compressor, params["compressor"], lm_params, *batch.chunks)
    specials = jnp.stack([params[name] for name in SPECIAL])
    read = row_scores(prompts, specials, lm_params, batch.rows, module, chunk)
    loss = nats = read.nats
    if batch.teacher is not None and task.distillation:
        x = embed(lm_params, batch.teacher.tokens, module=module)
        taught = _hidden(x, batch.teacher, lm_params, module)
        rows = unembedding(lm_params, module=module)
        kl = divergence(taught, read.hidden, rows, chunk, module.softcap)
        mixed = (1 - task.distillation) * nats + task.distillation * kl.reshape(nats.shape)
        loss = jnp.where(batch.teacher.scored, mixed, nats)
    return TokenLosses(loss, nats, read.right)


def row_scores(
    prompts: Float[Array, "B P D"],
    specials: Float[Array, "N D"],
    lm_params: Params,
    rows: Rows,
    module: CausalLM,
    vocab_chunk: int,
) -> RowScores:
    """Rows as the LM reads them: soft prompts among tokens.

    Args:
      prompts: the digests of each row.
      specials: in the order of `SPECIAL`.
      lm_params: of the LM.
      rows: what it reads.
      module: of the LM.
      vocab_chunk: rows of the unembedding at once.
    """
    embedded = embed(lm_params, rows.tokens, module=module)
    x = input_vectors(rows.tokens, rows.slots, embedded, specials, prompts)
    hidden = _hidden(x, rows, lm_params, module)
    targets = rows.targets
    chunks = {"module": module, "vocab_chunk": vocab_chunk}
    scores = score_hidden(lm_params, hidden, targets.ravel(), **chunks)
    nats, margin = (score.reshape(targets.shape) for score in scores)
    return RowScores(hidden, nats, margin > 0)


def _hidden(x, rows: Rows, lm_params, module) -> Float[Array, "R D"]:
    """Final hidden states at the positions that predict a scored token, row after row.

    Only these meet the unembedding, which is most of the work where answers are short.
    """
    hidden = hidden_states(lm_params, constrain_batch(x), module=module)
    D = hidden.shape[-1]
    indices = jnp.broadcast_to(rows.read[:, :, None], (*rows.read.shape, D))
    return jnp.take_along_axis(hidden, indices, axis=1).reshape(-1, D)


def token_weights(scored: Bool[Array, "*N B A"], average: str) -> Float[Array, "*N B A"]:
    """Weights that sum to one over the whole global batch, all its micro-batches included.

    They depend on the rows alone, so that gradients of micro-batches, and of parts of a
    batch on several devices, are only ever summed: never a mean of means.
    """
    counted = scored.astype(jnp.float32)
    if average == "token":
        return counted / jnp.maximum(counted.sum(), 1.0)
    lengths = counted.sum(axis=-1, keepdims=True)
    num_rows = jnp.maximum((lengths > 0).sum(), 1)
    return counted / jnp.maximum(lengths, 1.0) / num_rows
