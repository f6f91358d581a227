"""Mamba: layers without attention, whose state has the same size at every text length.

Letters: B texts, T positions, L layers, D d_model, E d_inner, Z d_state, R dt_rank,
W d_conv, V vocabulary.

Memory vectors enter where token vectors do, before the first layer, and are not scaled.

Source: Gu and Dao 2023, arXiv:2312.00752.
"""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from memcomp.errors import InputError
from memcomp.nn.convolution import causal_convolution
from memcomp.nn.decoder import Decoder
from memcomp.nn.einsum import Einsum
from memcomp.nn.mlp import ACTIVATIONS
from memcomp.nn.norms import RMSNorm
from memcomp.nn.parameters import with_axes
from memcomp.nn.remat import check_remat, rematerialised
from memcomp.nn.selective_scan import selective_scan


@dataclasses.dataclass(frozen=True, kw_only=True)
class MambaConfig:
    """Sizes and options of one model.

    Attributes:
      d_model: width of an input vector (D).
      d_inner: number of channels of the recurrence (E).
      d_state: size of each channel's state (Z).
      d_conv: number of positions that the convolution sees, its own included (W).
      dt_rank: width of the vectors from which the step sizes are computed (R).
      activation: activation after the convolution, a key of `ACTIVATIONS`; the gate's is
        silu.
      use_bias: whether the maps into and out of a mixer have biases.
      use_conv_bias: whether the convolution has a bias.
      residual_in_fp32: whether the residual stream is at least float32, even if the
        activations have fewer bits.
      tied_embeddings: whether the unembedding is the embedding.
      remat: what the backward pass keeps of a layer, a key of `REMAT`.

    Raises:
      InputError: the activation or remat is unknown.
    """

    vocab_size: int
    num_layers: int
    d_model: int
    d_inner: int
    d_state: int
    d_conv: int
    dt_rank: int
    activation: str = "silu"
    norm_eps: float = 1e-5
    use_bias: bool = False
    use_conv_bias: bool = True
    residual_in_fp32: bool = True
    tied_embeddings: bool = True
    remat: str = "none"

    def __post_init__(self):
        if self.activation not in ACTIVATIONS:
            raise InputError(
                f"activation {self.activation!r} is not known; known are "
                f"{', '.join(ACTIVATIONS)}"
            )
        check_remat(self.remat)

    @property
    def max_positions(self) -> int:
        """Largest int32, because a recurrence has no longest sequence."""
        return 2**31 - 1

    @property
    def d_selection(self) -> int:
        """Width of dt, B and C, which depend on the input, side by side."""
        return self.dt_rank + 2 * self.d_state


class MambaCache(NamedTuple):
    """State of every layer; its size does not depend on the number of positions read.

    Attributes:
      conv: last inputs of the convolution.
      ssm: state of the recurrence, in at least float32.
      length: number of positions read.
    """

    conv: Float[Array, "L B V E"]  # V = W - 1
    ssm: Float[Array, "L B Z E"]
    length: Int[Array, ""]


class Mixer(nn.Module):
    """Convolution and selective scan of E channels, gated."""

    config: MambaConfig

    @nn.compact
    def __call__(self, x, cached):
        cfg = self.config
        D, E, bias = cfg.d_model, cfg.d_inner, cfg.use_bias
        conv, state = (None, None) if cached is None else cached
        axes = ("embed", None, "mlp")
        both = Einsum("btd,dge->btge", (D, 2, E), axes, 2 * bias, name="in")(x)
        inner, gate = both[:, :, 0], both[:, :, 1]
        inner, conv = Convolution(cfg, name="conv")(inner, conv)
        inner = ACTIVATIONS[cfg.activation](inner)
        y, state = SelectiveSSM(cfg, name="ssm")(inner, state)
        y = (y * nn.silu(gate)).astype(x.dtype)
        out = Einsum("bte,ed->btd", (E, D), ("mlp", "embed"), int(bias), name="out")(y)
        return out, (conv, state)


class Convolution(nn.Module):
    """Causal convolution of each channel over the last W positions."""

    config: MambaConfig

    @nn.compact
    def __call__(self, x, state):
        cfg = self.config
        normal = with_axes(nn.initializers.normal(cfg.d_conv**-0.5), (None, "mlp"))
        kernel = self.param("kernel", normal, (cfg.d_conv, cfg.d_inner))
        bias = None
        if cfg.use_conv_bias:
            zeros = with_axes(nn.initializers.zeros, ("mlp",))
            bias = self.param("bias", zeros, (cfg.d_inner,))
        return causal_convolution(x, kernel, bias, state)


class SelectiveSSM(nn.Module):
    """Recurrence of every channel, with dt, B and C computed from its input."""

    config: MambaConfig

    @nn.compact
    def __call__(self, x, state):
        cfg = self.config
        E, Z, R = cfg.d_inner, cfg.d_state, cfg.dt_rank
        shape = (E, cfg.d_selection)
        chosen = Einsum("bte,es->bts", shape, ("mlp", None), name="selection")(x)
        low, B, C = jnp.split(chosen, (R, R + Z), axis=-1)
        dt = Einsum("btr,re->bte", (R, E), (None, "mlp"), name="dt")(low)
        channels = {
            name: self.param(name, with_axes(init, axes), shape)
            for name, init, axes, shape in (
                ("dt_bias", _dt_bias, ("mlp",), (E,)),
                ("log_rates", _log_rates, (None, "mlp"), (Z, E)),
                ("skip", nn.initializers.ones, ("mlp",), (E,)),
            )
        }
        # At least float32 from here on, because errors of the rates grow with every
        # position.
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        wide = {name: value.astype(dtype) for name, value in channels.items()}
        dt = nn.softplus(dt + jnp.broadcast_to(wide["dt_bias"], dt.shape))
        A = -jnp.exp(wide["log_rates"])
        return selective_scan(x, dt, A, B, C, wide["skip"], state)


def _dt_bias(key, shape, dtype=jnp.float32):
    """Initial dt_bias: its softplus is 0.01, the middle of the paper's step sizes."""
    return jnp.full(shape, jnp.log(jnp.expm1(0.01)), dtype)


def _log_rates(key, shape, dtype=jnp.float32):
    """Initial rates: 1 ... Z in every channel (section 3.6: S4D-Real)."""
    return jnp.broadcast_to(
        jnp.log(jnp.arange(1, shape[0] + 1, dtype=dtype))[:, None], shape
    )


class Layer(nn.Module):
    """One residual layer."""

    config: MambaConfig

    @nn.compact
    def __call__(self, x, cached, dtype):
        normed = RMSNorm(self.config.norm_eps, name="norm")(x.astype(dtype))
        mixed, cached = Mixer(self.config, name="mixer")(normed, cached)
        return x + mixed, cached


class Mamba(Decoder):
    """Mamba as a `CausalLM` (see `memcomp.lm.protocol`)."""

    layer = Layer

    def __call__(
        self, x: Float[Array, "B T D"], cache: MambaCache | None = None
    ) -> tuple[Float[Array, "B T D"], MambaCache | None]:
        """Returns hidden states after the final norm, and the cache after reading `x`."""
        cfg, dtype = self.config, x.dtype

        def read(layer, x, cached):
            return layer(x, cached, dtype)

        scan = nn.scan(
            rematerialised(cfg.remat, read),
            variable_axes={"params": 0, "intermediates": 0},  # the latter for tests
            split_rngs={"params": True},
            length=cfg.num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        if cfg.residual_in_fp32:
            x = x.astype(jnp.promote_types(dtype, jnp.float32))
        states = None if cache is None else (cache.conv, cache.ssm)
        x, states = scan(self.layers, x, states)
        if cache is not None:
            conv, ssm = states
            cache = MambaCache(conv, ssm, cache.length + x.shape[1])
        return self.leave(x).astype(dtype), cache

    def empty_cache(self, batch: int, length: int, dtype) -> MambaCache:
        """Returns the state before the first position; its size ignores `length`."""
        cfg = self.config
        shape = (cfg.num_layers, batch, cfg.d_conv - 1, cfg.d_inner)
        wide = jnp.promote_types(dtype, jnp.float32)
        return MambaCache(
            conv=jnp.zeros(shape, dtype),
            ssm=jnp.zeros((*shape[:2], cfg.d_state, cfg.d_inner), wide),
            length=jnp.zeros((), jnp.int32),
        )
