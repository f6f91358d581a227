"""Texts sampled from a language model itself, each from its own random key.

Letters: B texts, N new tokens, V vocabulary.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from memcomp.errors import InputError
from memcomp.lm.decode import check_sampling, continue_vectors
from memcomp.lm.protocol import CausalLM, LanguageModel, Params, embed
from memcomp.ranges import check_count, check_seed
from memcomp.sharding import fetch


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How texts are sampled.

    Attributes:
      seed: seed of all texts; text i uses `fold_in(key(seed), i)` and nothing else.
      num_tokens: largest number of tokens of a text.
      temperature: logits are divided by it; 1 for the LM's own distribution.
      top_p: tokens are drawn from the likeliest ones of this total probability.

    Raises:
      InputError: a value is out of its range.
    """

    seed: int = 0
    num_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self):
        check_seed("seed", self.seed)
        check_count("num_tokens", self.num_tokens)
        check_sampling(self.temperature, self.top_p)
        if self.temperature == 0:
            raise InputError(
                "temperature is 0, with which all texts are the same; give more than 0"
            )


class Sampled(NamedTuple):
    """A sampled text.

    Attributes:
      tokens: token ids, without special tokens.
      ended: whether the LM ended the text; False if it was cut at the largest number of
        tokens.
    """

    tokens: Int[np.ndarray, "_"]
    ended: bool


def sample_texts(
    lm: LanguageModel, text_ids: Sequence[int], cfg: SamplingConfig
) -> list[Sampled]:
    """Samples texts from the start of a document to the first special token.

    A document starts with the tokenizer's BOS, or with its EOS if it has no BOS. A text
    depends on the other texts of its batch only by rounding. All texts are sampled as one
    batch, and each number of texts is compiled by itself.

    Args:
      lm: the language model.
      text_ids: numbers of the texts; each is folded into the seed.
      cfg: how they are sampled.

    Raises:
      InputError: the LM has no tokenizer or too few positions, the tokenizer has neither
        BOS nor EOS, or logits are not finite.
    """
    start = check_model(lm, cfg)
    key = jax.random.key(cfg.seed)
    ids = np.asarray(text_ids, np.uint32)
    said, counts, finite = lm.run(
        _sample,
        jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, ids),
        np.int32(start),
        np.asarray(lm.tokenizer.all_special_ids, np.int32),
        np.float32(cfg.temperature),
        None if cfg.top_p == 1 else np.float32(cfg.top_p),
        num_tokens=cfg.num_tokens,
    )
    said, counts, finite = fetch((said, counts, finite))
    lm.check_finite(finite)
    return [
        Sampled(tokens[:n], bool(n < cfg.num_tokens))
        for tokens, n in zip(said, counts, strict=True)
    ]


def check_model(lm: LanguageModel, cfg: SamplingConfig) -> int:
    """Returns the token that starts a document of this LM.

    Raises:
      InputError: texts cannot be sampled from the LM; see `sample_texts`.
    """
    if lm.tokenizer is None:
        raise InputError(
            f"{lm.name} has no tokenizer, which makes texts of tokens; add tokenizer.json"
        )
    starts = lm.tokenizer.bos_token_id, lm.tokenizer.eos_token_id
    start = next((token for token in starts if token is not None), None)
    if start is None:
        raise InputError(
            f"the tokenizer of {lm.name} has neither BOS nor EOS, with one of which a "
            "document starts; name one of them in its tokenizer_config.json"
        )
    if cfg.num_tokens > lm.config.max_positions:
        raise InputError(
            f"num_tokens is {cfg.num_tokens}; {lm.name} has {lm.config.max_positions} "
            "positions, so give at most as many"
        )
    return start


@functools.partial(jax.jit, static_argnames=("module", "num_tokens"))
def _sample(
    params: Params,
    keys: Array,
    start: Int[Any, ""],
    stops: Int[Any, "stops"],
    temperature: Float[Any, ""],
    top_p: Float[Any, ""] | None,
    *,
    module: CausalLM,
    num_tokens: int,
) -> tuple[Int[Array, "B {num_tokens}"], Int[Array, "B"], Bool[Array, ""]]:
    B = keys.shape[0]
    x = embed(params, jnp.full((B, 1), start), module=module)
    return continue_vectors(
        params,
        x,
        jnp.ones(B, jnp.int32),
        stops,
        (keys, temperature, top_p),
        module=module,
        num_tokens=num_tokens,
        num_prefill=1,
        growing=True,
    )
