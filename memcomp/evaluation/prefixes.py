"""What the LM makes of tokens after a prefix: memory, tokens, or one after the other."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Bool, Float, Int

from memcomp.cram.memory_file import load_memory
from memcomp.data.texts import Text
from memcomp.errors import InputError
from memcomp.evaluation.scores import BITS_PER_NAT, GROUP, start_token
from memcomp.lm import LanguageModel
from memcomp.nn.cross_entropy import token_scores
from memcomp.results import Record
from memcomp.sharding import fetch


@dataclasses.dataclass(frozen=True, eq=False)
class Crammed:
    """Texts of one length that were crammed, and what stands around them.

    Attributes:
      text_ids, sources: of each text.
      exact: whether memory gives back the text, decoded greedily.
      memory: what holds each text.
      before: the tokens before it, C of them.
      tokens: the text.
      after: its true continuation.
    """

    text_ids: tuple[int, ...]
    sources: tuple[str, ...]
    exact: Bool[np.ndarray, "B"]
    memory: Float[np.ndarray, "B M D"]
    before: Int[np.ndarray, "B C"]
    tokens: Int[np.ndarray, "B T"]
    after: Int[np.ndarray, "B n"]

    def records(self, columns: dict[str, Any], **same: Any) -> list[Record]:
        """A record a text: what it is, its entry of each column, and `same`."""
        return [
            {
                "text_id": text_id,
                "source": source,
                "exact": bool(exact),
                "num_tokens": self.tokens.shape[1],
                "num_memory": self.memory.shape[1],
                **same,
                **{name: values[i] for name, values in columns.items()},
            }
            for i, (text_id, source, exact) in enumerate(
                zip(self.text_ids, self.sources, self.exact, strict=True)
            )
        ]


def read_crammed(
    lm: LanguageModel,
    folder: epath.Path,
    records: Sequence[Record],
    passages: Sequence[Text],
    num_before: int,
) -> Crammed:
    """What a run of cramming has in its folder, with what stands around the texts.

    Args:
      lm: the LM of the run.
      folder: of the run.
      records: of results.jsonl, all of one length.
      passages: of each record one with its id, all of one length, in which the text
        starts at token `num_before`.

    Raises:
      InputError: a memory file that was made with another LM.
    """
    texts = {passage.text_id: passage for passage in passages}
    files = {r["memory_file"]: load_memory(folder / r["memory_file"], lm) for r in records}
    whole = np.stack([texts[r["text_id"]].tokens for r in records])
    C, end = num_before, num_before + records[0]["num_tokens"]
    return Crammed(
        text_ids=tuple(r["text_id"] for r in records),
        sources=tuple(r["source"] for r in records),
        exact=np.array([r["exact_greedy"] for r in records]),
        memory=np.stack([files[r["memory_file"]][r["memory_key"]].memory for r in records]),
        before=whole[:, :C],
        tokens=whole[:, C:end],
        after=whole[:, end:],
    )


class Scores(NamedTuple):
    """How well tokens are predicted, each after the true ones before it.

    Attributes:
      loss: nats of each.
      right: whether it is the most likely one.
    """

    loss: Float[np.ndarray, "B T"]
    right: Bool[np.ndarray, "B T"]

    def columns(self) -> dict[str, list[float]]:
        """Of each text: mean loss of a token in nats and in bits, and accuracy."""
        loss = self.loss.mean(axis=1, dtype=np.float64)
        return {
            "loss_nats": loss.tolist(),
            "loss_bits": (loss * BITS_PER_NAT).tolist(),
            "accuracy": self.right.mean(axis=1).tolist(),
        }


def start(lm: LanguageModel, num_texts: int) -> Int[np.ndarray, "B _"]:
    """BOS, or EOS, or no token at all where the LM has neither, for each text."""
    token = start_token(lm)
    return np.full((num_texts, 0 if token is None else 1), token or 0, np.int32)


def joined(lm: LanguageModel, *parts: np.ndarray) -> Float[np.ndarray, "B P D"]:
    """Input vectors of parts, each memory [B M D] or token ids [B T], in their order."""
    vectors = [
        _embedded(lm.params, part, module=lm.module) if part.ndim == 2 else part
        for part in parts
    ]
    return np.concatenate([np.asarray(v, np.float32) for v in vectors], axis=1)


def score_after(
    lm: LanguageModel, prefix: Float[np.ndarray, "B P D"], tokens: Int[np.ndarray, "B T"]
) -> Scores:
    """Scores of `tokens`, the first of them too, each after `prefix` and those before it.

    After an empty prefix the first token is predicted uniformly, as `scores.baselines`
    has it.

    Raises:
      InputError: the LM has not so many positions, or its logits are not finite.
    """
    wanted, room = prefix.shape[1] + tokens.shape[1] - 1, lm.config.max_positions
    if wanted > room:
        raise InputError(
            f"{prefix.shape[1]} vectors and {tokens.shape[1]} tokens after them need "
            f"{wanted} positions, and {lm.name} has {room}; give fewer"
        )
    found = []
    for first in range(0, len(tokens), GROUP):
        rows = np.arange(first, first + GROUP).clip(max=len(tokens) - 1)
        scores = _scores(lm.params, prefix[rows], tokens[rows], module=lm.module)
        loss, margin = fetch(scores)
        lm.check_finite(np.isfinite(loss))
        here = slice(0, min(GROUP, len(tokens) - first))
        found.append((loss[here], margin[here] > 0))
    return Scores(*map(np.concatenate, zip(*found, strict=True)))


@functools.partial(jax.jit, static_argnames="module")
def _embedded(params: Any, tokens: Int[Array, "B T"], *, module: Any) -> Array:
    return module.apply({"params": params}, tokens, method="embed")


@functools.partial(jax.jit, static_argnames="module")
def _scores(
    params: Any, prefix: Float[Array, "B P D"], tokens: Int[Array, "B T"], *, module: Any
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    variables = {"params": params}
    read = module.apply(variables, tokens[:, :-1], method="embed")
    P = prefix.shape[1]
    x = jnp.concatenate([prefix.astype(read.dtype), read], axis=1)
    hidden, _ = module.apply(variables, x)
    rows = module.apply(variables, method="unembedding")
    score = functools.partial(token_scores, softcap=module.softcap)
    empty = P == 0
    got = jax.vmap(score, (0, None, 0))(
        hidden[:, max(P - 1, 0) :], rows, tokens[:, int(empty) :]
    )
    # Without anything before it the first token is as likely as every other.
    missing = [(0, 0), (int(empty), 0)]
    loss = jnp.pad(got.loss, missing, constant_values=math.log(rows.shape[0]))
    return loss, jnp.pad(got.margin, missing, constant_values=-1.0)
