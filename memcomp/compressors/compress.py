"""`compress`: turns contexts into soft prompts with a trained compressor."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from memcomp.compressors.chunks import split
from memcomp.compressors.layout import SPECIAL
from memcomp.compressors.protocol import Compressor, Params
from memcomp.data.tokens import checked_ids, text_to_ids
from memcomp.errors import InputError
from memcomp.lm.protocol import LanguageModel
from memcomp.sharding import fetch, on_mesh


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedCompressor:
    """A compressor and its weights, for one LM.

    Attributes:
      compressor: the network, static and hashable.
      params: {"compressor": ..., "ae": [D], "ft": [D]} in float32.
      lm_name: name that the LM was loaded by.
      lm_fingerprint: `LanguageModel.fingerprint` of the LM.
    """

    compressor: Compressor
    params: Params = dataclasses.field(repr=False)
    lm_name: str
    lm_fingerprint: str


@dataclasses.dataclass(frozen=True, eq=False)
class SoftPrompts:
    """Vectors that stand for contexts, and what else an LM needs to read them.

    Attributes:
      vectors: vectors of each context, chunk after chunk; padded with 0 on the right.
      counts: number of vectors of each context, without padding.
      special: trained vectors that tell the LM its task, in the order of `SPECIAL`.
      lm_name: name of the LM that they are for.
      lm_fingerprint: `LanguageModel.fingerprint` of that LM.
      cache: numbers of a cache of each context (`memcomp.lm.cache`), after which the
        sequence with the vectors is read; None for none.
    """

    vectors: Float[np.ndarray, "B P D"]
    counts: Int[np.ndarray, "B"]
    special: Float[np.ndarray, "N D"]
    lm_name: str
    lm_fingerprint: str
    cache: Float[np.ndarray, "B C W"] | None = None

    def __len__(self) -> int:
        return len(self.vectors)

    def first(self, number: int) -> "SoftPrompts":
        """Those of the first contexts."""
        cache = None if self.cache is None else self.cache[:number]
        return dataclasses.replace(
            self, vectors=self.vectors[:number], counts=self.counts[:number], cache=cache
        )


def compress(
    lm: LanguageModel,
    trained: TrainedCompressor,
    contexts: Sequence[str | Sequence[int] | Int[np.ndarray, "_"]],
    *,
    max_chunk: int | None = 512,
    batch_size: int = 16,
) -> SoftPrompts:
    """Compresses contexts to soft prompts, in one pass of the compressor.

    Args:
      lm: the language model that the compressor was trained with.
      trained: the compressor.
      contexts: strings, or token ids.
      max_chunk: contexts longer than this are compressed in ceil(n / max_chunk) equal
        chunks; None to compress each as a whole.
      batch_size: number of chunks at once; it changes the result only by rounding.

    Raises:
      InputError: the compressor is for another LM, there are no contexts, one is empty or
        has invalid token ids, or chunks are longer than the compressor takes.
    """
    check_lm("the compressor was trained", trained, lm)
    if isinstance(contexts, str):
        raise InputError("contexts is one string; give a list of contexts")
    if not len(contexts):
        raise InputError("there are no contexts; give at least one")
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; give 1 or more")
    ids = [_tokens(lm, context) for context in contexts]
    parts = [split(tokens, max_chunk) for tokens in ids]
    chunks = [chunk for part in parts for chunk in part]
    longest = max(len(chunk) for chunk in chunks)

    params = jax.tree.map(lambda x: jnp.asarray(x, lm.dtype), trained.params["compressor"])
    # All batches have the same shape, so that only one program is compiled.
    found = []
    for first in range(0, len(chunks), batch_size):
        tokens = np.zeros((batch_size, longest), np.int32)
        lengths = np.ones(batch_size, np.int32)
        for row, chunk in enumerate(chunks[first : first + batch_size]):
            tokens[row, : len(chunk)], lengths[row] = chunk, len(chunk)
        with on_mesh(lm.mesh):
            digests = _digest(
                params, lm.params, tokens, lengths, compressor=trained.compressor
            )
        found.append(fetch(digests).astype(np.float32))
    vectors = np.concatenate(found)
    M, D = vectors.shape[1:]
    counts = np.asarray([M * len(part) for part in parts])
    result = np.zeros((len(parts), counts.max(), D), np.float32)
    ends = np.cumsum([len(part) for part in parts])
    for row, (end, part) in enumerate(zip(ends, parts, strict=True)):
        own = vectors[end - len(part) : end]
        result[row, : counts[row]] = own.reshape(-1, D)
    special = np.stack([fetch(trained.params[n]) for n in SPECIAL]).astype(np.float32)
    return SoftPrompts(result, counts, special, lm.name, lm.fingerprint)


@functools.partial(jax.jit, static_argnames="compressor")
def _digest(
    params: Params,
    lm_params: Params,
    tokens: Int[Array, "B C"],
    lengths: Int[Array, "B"],
    *,
    compressor: Compressor,
) -> Float[Array, "B M D"]:
    return compressor.digest(params, lm_params, tokens, lengths)


def _tokens(lm: LanguageModel, context: Any) -> Int[np.ndarray, "_"]:
    """Token ids of a context, without those that the tokenizer adds, as published."""
    if isinstance(context, str):
        return own_tokens(lm, context)
    return checked_ids("a context that is no string", context, lm.config.vocab_size)


def own_tokens(lm: LanguageModel, text: str) -> Int[np.ndarray, "_"]:
    """Token ids of a text, tokenized as in training.

    No special token is added, and the name of a special token in the text is plain text.
    """
    if lm.tokenizer is None:
        raise InputError(f"{lm.name} has no tokenizer; give token ids in place of strings")
    return text_to_ids(lm.tokenizer, text).astype(np.int32)


def check_lm(what: str, made: TrainedCompressor | SoftPrompts, lm: LanguageModel) -> None:
    """Raises `InputError` if `made` was made with another LM than `lm`."""
    if made.lm_fingerprint != lm.fingerprint:
        raise InputError(
            f"{what} with {made.lm_name} ({made.lm_fingerprint[:12]}), not with "
            f"{lm.name} ({lm.fingerprint[:12]}), whose weights or config.json differ; load "
            "the LM that it was made with"
        )
