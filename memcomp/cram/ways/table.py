"""The ways of writing by name, and how texts are scored in any of them."""

import functools

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from memcomp.cram.ways.cache import CacheMemory
from memcomp.cram.ways.one_step import OneStep, SharedOneStep
from memcomp.cram.ways.vectors import Vectors
from memcomp.cram.ways.way import Way
from memcomp.lm.protocol import CausalLM, LanguageModel, Params
from memcomp.lm.score import VOCAB_CHUNK, in_groups, read_scores, start_token
from memcomp.nn.cross_entropy import TokenScores

WAYS: dict[str, Way] = {
    "vectors": Vectors(),
    "cache": CacheMemory(),
    "one_step": OneStep(),
    "one_step_after": OneStep(after=True),
    "one_step_shared": SharedOneStep(),
}


def memory_scores(
    memory: Float[Array, "M W"],
    tokens: Int[Array, "T"],
    params: Params,
    *,
    module: CausalLM,
    vocab_chunk: int,
    token_chunk: int | None = None,
    loss_gradient: bool = True,
    way: str = "vectors",
    start: int = 0,
) -> TokenScores:
    """Loss and margin of each token of a text, given its memory.

    In a way in which the LM reads the text, each token is predicted from the true tokens
    before it.

    Args:
      memory: memory of the text.
      tokens: the text.
      params: parameters of the LM.
      module: the LM's Flax module.
      vocab_chunk: number of vocabulary entries whose logits exist at once.
      token_chunk: number of tokens whose logits exist at once; None for all.
      loss_gradient: False where only the margin is differentiated; see `token_scores`.
      way: a key of `WAYS`.
      start: token that begins a text for this LM.
    """
    x, cache = WAYS[way].inputs(params, memory, tokens, start, module=module)
    return read_scores(
        x,
        tokens,
        params,
        cache,
        module=module,
        vocab_chunk=vocab_chunk,
        token_chunk=token_chunk,
        loss_gradient=loss_gradient,
    )


def scores_given_memory(
    lm: LanguageModel,
    memory: Float[np.ndarray, "B M W"],
    tokens: Int[np.ndarray, "B T"],
    way: str,
) -> TokenScores:
    """Cross-entropy in nats and margin [B T] of each token of texts, given their memories.

    Args:
      lm: the language model.
      memory: memory of each text.
      tokens: the texts, padded on the right.
      way: a key of `WAYS`.

    Raises:
      InputError: the LM's logits are not finite.
    """
    options = {"way": way, "start": start_token(lm) or 0}
    scores = in_groups(lambda rows: lm.run(_scores, *rows, **options), (memory, tokens))
    lm.check_finite(np.isfinite(scores.loss))
    return scores


@functools.partial(jax.jit, static_argnames=("module", "way", "start"))
def _scores(params, memory, tokens, *, module, way, start):
    def one(memory, tokens):
        options = {"module": module, "vocab_chunk": VOCAB_CHUNK}
        return memory_scores(memory, tokens, params, way=way, start=start, **options)

    return jax.vmap(one)(memory, tokens)
