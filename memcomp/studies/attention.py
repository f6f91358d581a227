"""Where memory is read: attention on it by layer, and what is lost without it in some.

Letters: B texts, M memory, T tokens of a text, L layers, N heads. The LM reads memory at
positions 0..M - 1 and then the text, teacher-forced; the query at M - 1 + t predicts
token t, from 0. That at M - 1 sees nothing but memory, whatever is done to it: both
studies are over tokens 1..T - 1, predicted at queries M..M + T - 2.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from memcomp.errors import InputError
from memcomp.lm.protocol import CausalLM, LanguageModel, Params, embed, intermediates
from memcomp.lm.score import GROUP, Scores, joined, score_after, start
from memcomp.nn.decoder import DecoderConfig
from memcomp.runs.files import Record
from memcomp.sharding import fetch
from memcomp.studies.prefixes import Crammed


def check_attends(lm: LanguageModel, num_tokens: int) -> None:
    """Raises an `InputError` where attention on memory is not to be had."""
    if not isinstance(lm.config, DecoderConfig):
        raise InputError(
            f"{lm.name} has no attention ({type(lm.module).__name__}), so that there is "
            "none on memory to measure or to knock out; give an LM with attention, or "
            "leave these studies out"
        )
    if num_tokens < 2:
        raise InputError(
            f"texts have {num_tokens} token, which is predicted from memory alone; give 2 "
            "or more to see what later tokens read of it"
        )


def attention_mass(
    lm: LanguageModel, prefix: Float[np.ndarray, "B M D"], tokens: Int[np.ndarray, "B T"]
) -> Float[np.ndarray, "B L N _"]:
    """How much of their attention the queries of a text give to what stands before it.

    Args:
      lm: the language model.
      prefix: memory, or other vectors in its place.
      tokens: of each text, at least two.

    Returns:
      Weights on all M keys of the prefix, summed, for each layer, head and query
      M..M + T - 2.

    Raises:
      InputError: an LM without attention.

    Source: "attention hijacking" of arXiv:2607.21231, which reports it by layer.
    """
    check_attends(lm, tokens.shape[1])
    found = []
    for first in range(0, len(tokens), GROUP):
        rows = np.arange(first, first + GROUP).clip(max=len(tokens) - 1)
        mass = fetch(lm.run(_mass, prefix[rows], tokens[rows, :-1]))
        found.append(mass[: len(tokens) - first])
    return np.concatenate(found)


@functools.partial(jax.jit, static_argnames="module")
def _mass(
    params: Params,
    prefix: Float[Array, "B M D"],
    read: Int[Array, "B T"],
    *,
    module: CausalLM,
) -> Float[Array, "B L N T"]:
    M = prefix.shape[1]
    weights = all_weights(params, prefix, read, module=module)
    return weights[..., M:, :M].sum(axis=-1)


def all_weights(
    params: Params,
    prefix: Float[Array, "B M D"],
    read: Int[Array, "B T"],
    *,
    module: CausalLM,
    mask: Bool[Array, "L S S"] | None = None,
) -> Float[Array, "B L N S S"]:
    """The weight of every query, the last but one axis, on every key, S = M + T."""
    vectors = embed(params, read, module=module)
    x = jnp.concatenate([prefix.astype(vectors.dtype), vectors], axis=1)
    kept = intermediates(params, x, module=module, mask=mask)
    (weights,) = jax.tree.leaves(kept)  # [layers ...]
    L, B, K, G, S, _ = weights.shape
    return weights.reshape(L, B, K * G, S, S).swapaxes(0, 1)


def attention_study(lm: LanguageModel, crammed: Crammed) -> list[Record]:
    """Records of attention on memory, and on the start token that is there without it.

    Each text, condition ("memory", "start token") and layer has `mass`, the mean over
    heads and queries; `heads`, that of each head; `uniform`, what it would be if all keys
    in reach of a query got the same (a layer's window is not taken into account).
    """
    conditions = {"memory": crammed.memory}
    first = start(lm, len(crammed.tokens))
    if first.shape[1]:  # what the LM does with any first position
        conditions["start token"] = joined(lm, first)
    records = []
    for condition, prefix in conditions.items():
        M, T = prefix.shape[1], crammed.tokens.shape[1]
        uniform = float(np.mean(M / np.arange(M + 1, M + T)))
        mass = attention_mass(lm, prefix, crammed.tokens).astype(np.float64)
        for layer in range(mass.shape[1]):
            of_heads = mass[:, layer].mean(axis=-1)
            columns = {"mass": of_heads.mean(axis=-1).tolist(), "heads": of_heads.tolist()}
            records += crammed.records(
                columns, condition=condition, layer=layer, uniform=uniform
            )
    return records


def knockout_mask(
    lm: LanguageModel, first: int, last: int, num_memory: int, num_positions: int
) -> Bool[np.ndarray, "L S S"]:
    """Hides memory from the text in layers first..last - 1, for `score_after`.

    The queries at memory's own positions still see it.

    Raises:
      InputError: an LM without attention, or layers that it does not have.
    """
    check_attends(lm, 2)
    L = lm.config.num_layers
    if not 0 <= first <= last <= L:
        raise InputError(f"layers {first} to {last}; {lm.name} has 0 to {L}")
    mask = np.ones((L, num_positions, num_positions), bool)
    mask[first:last, num_memory:, :num_memory] = False
    return mask


def knockouts(num_layers: int) -> list[tuple[int, int]]:
    """Ranges [a, b) of layers: none; each alone; from the first on; up to the last."""
    L = num_layers
    alone = [(i, i + 1) for i in range(L)]
    growing = [(0, b) for b in range(L + 1)] + [(a, L) for a in range(L)]
    return sorted({*alone, *growing})


def knockout_study(lm: LanguageModel, crammed: Crammed) -> list[Record]:
    """Records of tokens 1..T - 1 with memory hidden from them in layers [first, last).

    Of each text and range of `knockouts`, and for comparison of the LM that reads its
    start token in the place of memory (`condition` "start token", no range).

    Source: arXiv:2607.21231, who mask attention to memory in the early layers.
    """
    check_attends(lm, crammed.tokens.shape[1])
    M, T, records = crammed.memory.shape[1], crammed.tokens.shape[1], []
    for first, last in knockouts(lm.config.num_layers):
        mask = knockout_mask(lm, first, last, M, M + T - 1)
        columns = _later(score_after(lm, crammed.memory, crammed.tokens, mask))
        records += crammed.records(columns, condition="memory", first=first, last=last)
    plain = joined(lm, start(lm, len(crammed.tokens)))
    columns = _later(score_after(lm, plain, crammed.tokens))
    return records + crammed.records(columns, condition="start token")


def _later(scores: Scores) -> dict[str, list[float]]:
    return Scores(scores.loss[:, 1:], scores.right[:, 1:]).columns()
