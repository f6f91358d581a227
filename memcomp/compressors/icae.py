"""ICAE: the LM reads a context and then memory slots, whose hidden states are the digests.

The encoder is the frozen LM with low-rank adapters on its queries and values. They are
passed beside its parameters as a collection "adapters" (see `memcomp.nn.einsum`), which
computes x W + (x A) B. So neither a second copy of W nor a gradient of its size is made.

Letters: B chunks, C tokens ("words") of a chunk, M slots, D d_model, L layers, R rank,
N heads, K kv heads, H head width.

Source: Ge et al. 2024, arXiv:2307.06945, section 2; adapters: Hu et al. 2021,
  arXiv:2106.09685.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from memcomp.convert.engine import Params
from memcomp.errors import InputError
from memcomp.lm.load import abstract_params
from memcomp.lm.protocol import CausalLM, embed, hidden_states
from memcomp.nn.parameters import with_axes
from memcomp.ranges import check_choice, check_count, check_number

INITS = {"zeros": nn.initializers.zeros, "normal": nn.initializers.normal(1.0)}
# Indices of queries and values in a kernel that holds queries, keys and values.
FUSED = {"q": 0, "v": 2}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ICAEConfig:
    """Sizes of ICAE; the defaults are the published ones.

    There are two differences from the authors' training. Their adapters have a dropout of
    0.05, and ours have none. They draw the vectors AE and FT from N(0, 1), in one table
    with the slots; ours begin at 0, as IC-Former's do.

    Attributes:
      num_digests: number of memory slots of a chunk (M).
      rank: rank of the adapters (R).
      alpha: the adapters' products are multiplied by alpha / rank.
      slot_init: initialisation of the vectors that the LM reads in the slots: "normal" with
        a standard deviation of 1, or "zeros", as in the replica that IC-Former was
        compared with.
      bidirectional: whether the tokens of a chunk see each other in both directions while
        it is compressed. The slots still see only the chunk and the slots before them.
        False, as published, keeps the LM's causal mask.

    Raises:
      InputError: a value is out of its range.

    Source: Ge et al. 2024, arXiv:2307.06945, section 3.1 and table 8.
    """

    num_digests: int = 128
    rank: int = 128
    alpha: float = 32.0
    slot_init: str = "normal"
    bidirectional: bool = False

    def __post_init__(self):
        check_count("num_digests", self.num_digests)
        check_count("rank", self.rank)
        check_number("alpha", self.alpha, above=0)
        check_choice("slot_init", self.slot_init, INITS)


@dataclasses.dataclass(frozen=True)
class ICAE:
    """ICAE for one LM: a `Compressor` (see `memcomp.compressors.protocol`).

    Attributes:
      lm_module: a `CausalLM` with attention, which is encoder and decoder.
      config: sizes of the trainable part.

    Raises:
      InputError: the LM has no queries and values.
    """

    lm_module: CausalLM
    config: ICAEConfig

    def __post_init__(self):
        _kernels(self.lm_module)

    @property
    def num_digests(self) -> int:
        """Number of vectors of a chunk (M)."""
        return self.config.num_digests

    def init(self, key: Array) -> Params:
        """Initial weights in float32, boxed with their logical axes.

        They are `slots` [M D], and for q and v `down` [L D R], uniform within D**-0.5, and
        `up` [L R N H], zero, so that at first the encoder equals the LM.
        """
        cfg = self.config
        slots_key, *keys = jax.random.split(key, 1 + len(FUSED))
        init = with_axes(INITS[cfg.slot_init], (None, "embed"))
        slots = init(slots_key, (cfg.num_digests, self.lm_module.config.d_model))
        adapters = {}
        for key, (name, kernel) in zip(keys, _kernels(self.lm_module).items(), strict=True):
            (L, D, *out), (layers, embed, *axes) = kernel.value.shape, kernel.names
            down = with_axes(_uniform, (layers, embed, None))
            up = with_axes(nn.initializers.zeros, (layers, None, *axes[-2:]))
            adapters[name] = {
                "down": down(key, (L, D, cfg.rank)),
                "up": up(key, (L, cfg.rank, *out[-2:])),
            }
        return {"slots": slots, "adapters": adapters}

    def digest(
        self,
        params: Params,
        lm_params: Params,
        tokens: Int[Array, "B C"],
        lengths: Int[Array, "B"],
    ) -> Float[Array, "B M D"]:
        """Returns the LM's hidden states at the slots, which follow each chunk.

        Raises:
          InputError: chunks and slots do not fit into the LM's positions.
        """
        C, M, window = (
            tokens.shape[1],
            self.num_digests,
            self.lm_module.config.max_positions,
        )
        if C + M > window:
            raise InputError(
                f"chunks of {C} tokens and {M} slots are longer than the LM's window of "
                f"{window}; cut contexts into chunks of {max(window - M, 0)} or less"
            )
        lm_params = jax.lax.stop_gradient(lm_params)
        words = embed(lm_params, tokens, module=self.lm_module)
        x = followed_by(words.astype(params["slots"].dtype), params["slots"], lengths)
        adapters = {"layers": {"attn": self._adapters(params["adapters"])}}
        # Padding is on the right and in no prefix, so that no token or slot sees it.
        hidden = hidden_states(
            lm_params,
            x,
            module=self.lm_module,
            adapters=adapters,
            prefix=lengths if self.config.bidirectional else None,
        )
        places = lengths[:, None] + jnp.arange(M)[None, :]
        return jnp.take_along_axis(hidden, places[:, :, None], axis=1)

    def _adapters(self, of_maps: Params) -> Params:
        """Makes the collection "adapters" for attention, stacked over layers."""
        scale = self.config.alpha / self.config.rank
        down = {name: pair["down"] for name, pair in of_maps.items()}
        up = {name: pair["up"] * scale for name, pair in of_maps.items()}
        if "qkv" not in _attention(self.lm_module):
            return {name: {"down": down[name], "up": up[name]} for name in FUSED}
        # Both adapters side by side make one of twice the rank. Each half of it writes
        # only to its own part of the three: queries or values.
        parts = [
            jnp.stack([up[name] * (c == part) for c in range(3)], axis=2)
            for name, part in FUSED.items()
        ]
        both = jnp.concatenate([down[name] for name in FUSED], axis=-1)
        return {"qkv": {"down": both, "up": jnp.concatenate(parts, axis=1)}}


def followed_by(
    words: Float[Array, "B C D"], slots: Float[Array, "M D"], lengths: Int[Array, "B"]
) -> Float[Array, "B S D"]:
    """Returns each chunk's `lengths` first words, all slots, then padding; S = C + M."""
    (B, C, D), M = words.shape, slots.shape[0]
    source = jnp.concatenate([words, jnp.broadcast_to(slots[None], (B, M, D))], axis=1)
    places, n = jnp.arange(C + M)[None, :], lengths[:, None]
    index = jnp.where(places < n, places, places - n + C).clip(max=C + M - 1)
    return jnp.take_along_axis(source, index[:, :, None], axis=1)


@functools.lru_cache
def _attention(lm_module: CausalLM) -> Params:
    """Shapes and axes of the parameters of attention; empty for an LM without it."""
    return abstract_params(lm_module)["layers"].get("attn", {})


def _kernels(lm_module: CausalLM) -> dict[str, Any]:
    """Returns the kernels of queries and of values; twice the same if they are fused."""
    attention = _attention(lm_module)
    if "qkv" in attention:
        return dict.fromkeys(FUSED, attention["qkv"]["kernel"])
    if attention.keys() >= FUSED.keys():
        return {name: attention[name]["kernel"] for name in FUSED}
    raise InputError(
        f"{type(lm_module).__name__} has no queries and values to put adapters on, which "
        "ICAE is made of; give an LM with attention"
    )


def _uniform(key: Array, shape: tuple[int, ...]) -> Array:
    """Uniform within +-(size of the second axis)**-0.5: Kaiming's, with PyTorch's slope."""
    bound = shape[1] ** -0.5
    return jax.random.uniform(key, shape, minval=-bound, maxval=bound)
