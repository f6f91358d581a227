"""Causal attention that never materialises the [T, T] probabilities, a kernel a device.

All kernels compute what `memcomp.nn.attention.attend` does, which is the oracle, in memory
that grows with the length and not with its square. What a kernel cannot do is done block
by block; what is cached, and weights that are asked for, by the weights.

Letters: B texts, T positions, N heads, K kv heads, H head width.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from memcomp.errors import InputError
from memcomp.nn.blockwise import BLOCK, UNBOUNDED, Limits, blockwise_attend

LANES = 128  # splash attention's blocks are multiples of so many positions
SPLASH_BLOCK = 512  # positions a block, at the most; not tuned on a TPU
# The axes of memcomp.sharding's mesh that cut a batch, and heads.
BATCH, HEADS = ("data", "fsdp"), "tensor"


class Reach(NamedTuple):
    """Which of the keys up to its own a query of a layer sees; see `causal_mask`."""

    window: int | None = None
    hidden_keys: int = 0


Heads = Float[Array, "B T N H"]
Kernel = Callable[..., Heads]  # of q, k, v, reach and softcap


class Attention(NamedTuple):
    """One way to compute heads.

    Attributes:
      kernel: of scaled queries, keys, values, reach and soft cap; None for the weights,
        or for blocks, whose reach need not be known at compile time.
      platforms: of the devices that it runs on; empty for all.
      sixteen_bits: whether it takes bfloat16 and float16 alone.
      softcaps: whether it can cap logits.
      shortest: sequences below this go by the weights.
    """

    kernel: Kernel | None = None
    platforms: tuple[str, ...] = ()
    sixteen_bits: bool = False
    softcaps: bool = True
    shortest: int = 1


def kernel_of(
    attention: str, reaches: Sequence[Reach], kind: Int[Array, ""] | int, length: int
) -> Callable[..., Heads] | None:
    """`Positions.kernel` of a layer.

    Args:
      attention: a key of `ATTENTION`.
      reaches: of the kinds of layers that a stack has.
      kind: of the layer, an index to `reaches`; may be traced.
      length: positions of a sequence.
    """
    if attention == "plain" or length < ATTENTION[attention].shortest:
        return None
    return functools.partial(_heads, ATTENTION[attention], tuple(reaches), kind)


def _heads(row: Attention, reaches, kind, q, k, v, softcap) -> Heads:
    able = not any(reach.hidden_keys for reach in reaches)
    if row.kernel is None or not able or (softcap is not None and not row.softcaps):
        return blockwise_attend(q, k, v, _limits(reaches, kind), softcap)
    branches = [
        functools.partial(row.kernel, reach=reach, softcap=softcap) for reach in reaches
    ]
    if len(set(reaches)) == 1:  # kinds of layers that differ in their rotary positions
        return branches[0](q, k, v)
    return jax.lax.switch(kind, branches, q, k, v)


def _limits(reaches: Sequence[Reach], kind) -> Limits:
    windows = [UNBOUNDED if r.window is None else r.window for r in reaches]
    hidden = [reach.hidden_keys for reach in reaches]
    return Limits(jnp.array(windows)[kind], jnp.array(hidden)[kind])


def cudnn_attend(q, k, v, reach: Reach, softcap: float | None = None) -> Heads:
    """Flash attention of cuDNN; for bfloat16 and float16, without a soft cap."""
    assert softcap is None
    left = None if reach.window is None else (reach.window - 1, 0)
    return jax.nn.dot_product_attention(
        q, k, v, scale=1.0, is_causal=True, local_window_size=left, implementation="cudnn"
    )


def splash_attend(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    reach: Reach,
    softcap: float | None = None,
    interpret: bool = False,
) -> Float[Array, "B T N H"]:
    """Splash attention, a Pallas kernel for TPUs; on a mesh, each device has its part.

    Args:
      q: scaled queries.
      k: keys of the same positions.
      v: values of the same.
      reach: a window, or all; no hidden keys.
      softcap: logits z become c tanh(z / c); None for none.
      interpret: run it without a TPU, slowly.
    """
    local = functools.partial(_splash, reach=reach, softcap=softcap, interpret=interpret)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return local(q, k, v)
    # The compiler cannot cut a kernel. Under `vmap` over texts B is 1, and `spmd_axis_name`
    # has the axes of the batch, which must not be named here too.
    parts = mesh.shape[BATCH[0]] * mesh.shape[BATCH[1]]
    cut = BATCH if parts > 1 and q.shape[0] % parts == 0 else None
    spec = PartitionSpec(cut, None, HEADS, None)
    return jax.shard_map(
        local, mesh=mesh, in_specs=(spec,) * 3, out_specs=spec, check_vma=False
    )(q, k, v)


def _splash(q, k, v, *, reach: Reach, softcap, interpret) -> Heads:
    # Late: Pallas takes half a second to import.
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel as splash,
    )
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_mask as masks,
    )

    T, N = q.shape[1:3]
    block = min(SPLASH_BLOCK, T + -T % LANES)
    # Padding on the right is seen by padding alone.
    short = -T % block
    q, k, v = (
        jnp.pad(x, ((0, 0), (0, short), (0, 0), (0, 0))).swapaxes(1, 2) for x in (q, k, v)
    )
    shape = (T + short, T + short)
    mask = (
        masks.CausalMask(shape)
        if reach.window is None
        else masks.LocalMask(shape, (reach.window - 1, 0), 0)
    )
    names = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
    sizes: Any = {f"block_{name}": block for name in names}
    kernel = splash.make_splash_mha(
        masks.MultiHeadMask([mask] * N),
        block_sizes=splash.BlockSizes(**sizes),
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=softcap,
        interpret=interpret,
    )
    heads: Any = jax.vmap(kernel)(q, k, v)
    return heads.swapaxes(1, 2)[:, :T]


# fmt: off
# "plain" makes all weights. Up to a block, blocks would only do the same in more steps, and
# splash attention on more positions.
ATTENTION: dict[str, Attention] = {
    "plain":     Attention(),
    "blockwise": Attention(shortest=BLOCK + 1),
    "cudnn":     Attention(cudnn_attend, ("gpu",), sixteen_bits=True, softcaps=False),
    "splash":    Attention(splash_attend, ("tpu",), shortest=LANES + 1),
}
# fmt: on


def check_attention(name: str) -> None:
    """Raises an `InputError` for what is no key of `ATTENTION`."""
    if name not in ATTENTION:
        raise InputError(f"attention {name!r} is not one of {', '.join(ATTENTION)}")


def resolve_attention(name: str, platform: str, dtype: Any) -> str:
    """A key of `ATTENTION`, which "auto" leaves to the devices.

    Args:
      name: such a key, or "auto": the kernel that is made for the platform and dtype, or
        "blockwise" where there is none.
      platform: of the devices: "cpu", "gpu" or "tpu".
      dtype: of queries, keys and values.

    Raises:
      InputError: no such name, or a kernel that does not run on these devices or dtype.
    """
    dtype = jnp.dtype(dtype)
    wide = dtype.itemsize != 2
    if name == "auto":
        fit = (
            name
            for name, row in ATTENTION.items()
            if platform in row.platforms and not (wide and row.sixteen_bits)
        )
        return next(fit, "blockwise")
    check_attention(name)
    row = ATTENTION[name]
    if row.platforms and platform not in row.platforms:
        raise InputError(
            f"attention {name!r} runs on {', '.join(row.platforms)}, and these devices are "
            f"of {platform}; give 'auto', which chooses by the devices"
        )
    if wide and row.sixteen_bits:
        raise InputError(
            f"attention {name!r} takes 16-bit numbers, and the dtype is {dtype}; "
            "give --config.dtype=bfloat16 or attention 'auto'"
        )
    return name
