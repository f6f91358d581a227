"""In which layers memory is read: attention on it, and the loss if it is hidden in some.

Letters: B texts, M memory, T tokens of a text, L layers, N heads. The LM reads memory at
positions 0..M - 1 and then the text, teacher-forced; the query at M - 1 + t predicts
token t, counted from 0. The query at M - 1 sees only memory, even if memory is hidden from
the text. So both studies are over tokens 1..T - 1, predicted at queries M..M + T - 2.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from memcomp.errors import InputError
from memcomp.lm.protocol import CausalLM, LanguageModel, Params, embed, intermediates
from memcomp.lm.score import Scores, in_groups, joined, score_after, start
from memcomp.nn.decoder import DecoderConfig
from memcomp.runs.files import Record
from memcomp.studies.prefixes import Crammed


def check_attends(lm: LanguageModel, num_tokens: int) -> None:
    """Raises an `InputError` if attention on memory cannot be measured."""
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
    """Attention probability that the queries of a text give to the vectors before it.

    Args:
      lm: the language model.
      prefix: memory, or other vectors in its place.
      tokens: tokens of each text, at least two.

    Returns:
      Sum of the attention probabilities on all M keys of the prefix, for each layer, head
      and query M..M + T - 2.

    Raises:
      InputError: the LM has no attention.

    Source: "attention hijacking" of arXiv:2607.21231, which reports it by layer.
    """
    check_attends(lm, tokens.shape[1])
    return in_groups(lambda rows: lm.run(_mass, *rows), (prefix, tokens[:, :-1]))


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
    """Attention probabilities [queries keys] of a prefix and tokens; S = M + T."""
    vectors = embed(params, read, module=module)
    x = jnp.concatenate([prefix.astype(vectors.dtype), vectors], axis=1)
    kept = intermediates(params, x, module=module, mask=mask)
    (weights,) = jax.tree.leaves(kept)  # [layers ...]
    L, B, K, G, S, _ = weights.shape
    return weights.reshape(L, B, K * G, S, S).swapaxes(0, 1)


def attention_study(lm: LanguageModel, crammed: Crammed) -> list[Record]:
    """Returns records of attention on memory, and on the start token in its place.

    There is one for each text, condition ("memory", "start token") and layer. `mass` is the
    attention on the prefix, as a mean over heads and queries; `heads` is the mean of each
    head; `uniform` is the value for uniform attention on all keys up to the query (without
    regard to a layer's window).
    """
    conditions = {"memory": crammed.memory}
    first = start(lm, len(crammed.tokens))
    if first.shape[1]:  # shows how much attention any first position gets
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
    """Mask that hides memory from the text in layers first..last - 1, for `score_after`.

    The queries at memory's own positions still see it.

    Raises:
      InputError: the LM has no attention, or does not have these layers.
    """
    check_attends(lm, 2)
    L = lm.config.num_layers
    if not 0 <= first <= last <= L:
        raise InputError(f"layers {first} to {last}; {lm.name} has 0 to {L}")
    mask = np.ones((L, num_positions, num_positions), bool)
    mask[first:last, num_memory:, :num_memory] = False
    return mask


def knockouts(num_layers: int) -> list[tuple[int, int]]:
    """Ranges [a, b) of layers: none, each layer alone, the first b, and all from a on."""
    L = num_layers
    alone = [(i, i + 1) for i in range(L)]
    growing = [(0, b) for b in range(L + 1)] + [(a, L) for a in range(L)]
    return sorted({*alone, *growing})


def knockout_study(lm: LanguageModel, crammed: Crammed) -> list[Record]:
    """Returns scores of tokens 1..T - 1 with memory hidden in layers [first, last).

    There is a record for each text and range of `knockouts`. For comparison, there is one
    of each text after the start token in place of memory (`condition` "start token", no
    range).

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
