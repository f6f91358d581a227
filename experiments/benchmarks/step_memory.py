"""Row cross_entropy of benchmark.py: memory of one gradient, as the compiler reports it."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from memcomp.cost.formulas import shapes_of
from memcomp.cram.ways.table import memory_scores
from memcomp.lm.load import abstract_params
from memcomp.lm.protocol import CausalLM, embed, hidden_states, unembedding
from memcomp.nn.cross_entropy import token_scores

from .timing import compiled


def plain_losses(hidden: jax.Array, rows: jax.Array, targets: jax.Array) -> jax.Array:
    """Loss of each token [T] in the plain way, with all logits at once."""
    logits = jnp.einsum("td,vd->tv", hidden, rows, preferred_element_type=jnp.float32)
    logs = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(logs, targets[:, None], axis=1)[:, 0]


def measure(
    module: CausalLM, dtype: Any, num_texts: int, num_tokens: int, vocab_chunk: int
) -> Iterator[dict[str, Any]]:
    """Memory of the gradient of the loss in chunks, in one chunk, and in the plain way.

    It is measured for the whole gradient of a step, to the memory, and for the loss alone,
    to the final hidden states. No weights are allocated, since only shapes are compiled.

    Args:
      module: Flax module of the LM, with `remat`; else attention probabilities take most.
      dtype: dtype of parameters and activations.
      num_texts: number of texts in a batch.
      num_tokens: number of tokens of each text.
      vocab_chunk: number of vocabulary entries at once.
    """
    V, D = module.config.vocab_size, module.config.d_model
    chunks = {"in chunks": vocab_chunk, "in one chunk": V, "plain": None}
    params = shapes_of(abstract_params(module), dtype)
    tokens = jax.ShapeDtypeStruct((num_texts, num_tokens), jnp.int32)
    memory = jax.ShapeDtypeStruct((num_texts, 1, D), jnp.float32)
    hidden = jax.ShapeDtypeStruct((num_texts, num_tokens, D), dtype)
    rows = jax.ShapeDtypeStruct((V, D), dtype)
    for label, chunk in chunks.items():
        whole = _cost(_memory_loss(module, chunk), (0, 0, None), memory, tokens, params)
        alone = _cost(_hidden_loss(chunk), (0, None, 0), hidden, rows, tokens)
        yield {"loss": label, "vocab_chunk": chunk, "step": whole, "alone": alone}


def _hidden_loss(chunk: int | None) -> Callable[..., jax.Array]:
    def loss(hidden, rows, targets):
        if chunk is None:
            return plain_losses(hidden, rows, targets).mean()
        return token_scores(hidden, rows, targets, chunk).loss.mean()

    return loss


def _memory_loss(module: CausalLM, chunk: int | None) -> Callable[..., jax.Array]:
    def loss(memory, tokens, params):
        if chunk is not None:
            scores = memory_scores(memory, tokens, params, module=module, vocab_chunk=chunk)
            return scores.loss.mean()
        read = embed(params, tokens[None, :-1], module=module)[0]
        x = jnp.concatenate([memory.astype(read.dtype), read])
        hidden = hidden_states(params, x[None], module=module)[0]
        rows = unembedding(params, module=module)
        return plain_losses(hidden, rows, tokens).mean()

    return loss


def _cost(loss: Callable[..., jax.Array], axes: Any, *shapes: Any) -> dict[str, Any]:
    gradient = jax.jit(jax.vmap(jax.value_and_grad(loss), in_axes=axes))
    return compiled(gradient.lower(*shapes))[1]
