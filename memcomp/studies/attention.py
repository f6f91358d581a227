"""In which layers memory is read: attention on it, and the loss if it is hidden in some.

Letters: B texts, M memory, T tokens of a text, L layers, N heads, P vectors before the
text. The LM reads memory and then the text, teacher-forced. Memory is the P vectors before
the text, or a cache before them; its keys are the first M of all. Query P - 1 + t predicts
token t, counted from 0. Query P - 1 sees memory even if it is hidden from the text. So both
studies are over tokens 1..T - 1, predicted at queries P..P + T - 2.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from memcomp.errors import InputError
from memcomp.lm.cache import from_numbers
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
    lm: LanguageModel,
    prefix: Float[np.ndarray, "B P D"],
    tokens: Int[np.ndarray, "B T"],
    cached: Float[np.ndarray, "B M W"] | None = None,
) -> Float[np.ndarray, "B L N _"]:
    """Attention probability that the queries of a text give to its memory.

    Args:
      lm: the language model.
      prefix: memory, or other vectors in its place; with a cache, what is read after it.
      tokens: tokens of each text, at least two.
      cached: memory as the numbers of a cache; None if the prefix is the memory.

    Returns:
      Sum of the attention probabilities on all M keys of the memory, for each layer, head
      and query P..P + T - 2.

    Raises:
      InputError: the LM has no attention.

    Source: "attention hijacking" of arXiv:2607.21231, which reports it by layer.
    """
    check_attends(lm, tokens.shape[1])
    rows = (prefix, tokens[:, :-1], cached)
    return in_groups(lambda rows: lm.run(_mass, *rows), rows)


@functools.partial(jax.jit, static_argnames="module")
def _mass(
    params: Params,
    prefix: Float[Array, "B P D"],
    read: Int[Array, "B T"],
    cached: Float[Array, "B M W"] | None,
    *,
    module: CausalLM,
) -> Float[Array, "B L N T"]:
    M = prefix.shape[1] if cached is None else cached.shape[1]
    weights = all_weights(params, prefix, read, cached, module=module)
    return weights[..., prefix.shape[1] :, :M].sum(axis=-1)


def all_weights(
    params: Params,
    prefix: Float[Array, "B P D"],
    read: Int[Array, "B T"],
    cached: Float[Array, "B M W"] | None = None,
    *,
    module: CausalLM,
    mask: Bool[Array, "L S keys"] | None = None,
) -> Float[Array, "B L N S keys"]:
    """Attention probabilities of a prefix and tokens, S = P + T, those of a cache first."""
    vectors = embed(params, read, module=module)
    x = jnp.concatenate([prefix.astype(vectors.dtype), vectors], axis=1)
    cache = None
    if cached is not None:
        room = cached.shape[1] + x.shape[1]
        cache = from_numbers(cached, room, x.dtype, module=module)
    kept = intermediates(params, x, cache, module=module, mask=mask)
    (weights,) = jax.tree.leaves(kept)  # [layers ...]
    L, B, K, G, S, keys = weights.shape
    return weights.reshape(L, B, K * G, S, keys).swapaxes(0, 1)


def attention_study(lm: LanguageModel, crammed: Crammed) -> list[Record]:
    """Returns records of attention on memory, and on the start token in its place.

    There is one for each text, condition ("memory", "start token") and layer. `mass` is the
    attention on the prefix, as a mean over heads and queries; `heads` is the mean of each
    head; `uniform` is the value for uniform attention on all keys up to the query (without
    regard to a layer's window).
    """
    conditions = {"memory": crammed.reads(lm, crammed.memory)}
    first = start(lm, len(crammed.tokens))
    if first.shape[1]:  # shows how much attention any first position gets
        conditions["start token"] = crammed.reads(lm, None, first)
    records = []
    for condition, (prefix, cached) in conditions.items():
        P, T = prefix.shape[1], crammed.tokens.shape[1]
        M = P if cached is None else cached.shape[1]
        before = P if cached is None else M + P
        uniform = float(np.mean(M / np.arange(before + 1, before + T)))
        mass = attention_mass(lm, prefix, crammed.tokens, cached).astype(np.float64)
        for layer in range(mass.shape[1]):
            of_heads = mass[:, layer].mean(axis=-1)
            columns = {"mass": of_heads.mean(axis=-1).tolist(), "heads": of_heads.tolist()}
            records += crammed.records(
                columns, condition=condition, layer=layer, uniform=uniform
            )
    return records


def knockout_mask(
    lm: LanguageModel,
    first: int,
    last: int,
    num_memory: int,
    num_positions: int,
    in_cache: bool = False,
) -> Bool[np.ndarray, "L S keys"]:
    """Mask that hides memory from the text in layers first..last - 1, for `score_after`.

    The queries before the text, at memory's own positions or of the start token after a
    cache, still see it.

    Args:
      lm: the language model.
      first: first layer in which memory is hidden.
      last: the layer after the last one.
      num_memory: keys of the memory (M).
      num_positions: queries (S).
      in_cache: whether memory is a cache before these queries.

    Raises:
      InputError: the LM has no attention, or does not have these layers.
    """
    check_attends(lm, 2)
    L = lm.config.num_layers
    if not 0 <= first <= last <= L:
        raise InputError(f"layers {first} to {last}; {lm.name} has 0 to {L}")
    num_keys = num_positions + (num_memory if in_cache else 0)
    mask = np.ones((L, num_positions, num_keys), bool)
    mask[first:last, 1 if in_cache else num_memory :, :num_memory] = False
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
    prefix, cached = crammed.reads(lm, crammed.memory)
    M, S, records = (
        crammed.memory.shape[1],
        prefix.shape[1] + crammed.tokens.shape[1] - 1,
        [],
    )
    for first, last in knockouts(lm.config.num_layers):
        mask = knockout_mask(lm, first, last, M, S, in_cache=cached is not None)
        columns = _later(score_after(lm, prefix, crammed.tokens, mask, cached))
        records += crammed.records(columns, condition="memory", first=first, last=last)
    plain = joined(lm, start(lm, len(crammed.tokens)))
    columns = _later(score_after(lm, plain, crammed.tokens))
    return records + crammed.records(columns, condition="start token")


def _later(scores: Scores) -> dict[str, list[float]]:
    return Scores(scores.loss[:, 1:], scores.right[:, 1:]).columns()
