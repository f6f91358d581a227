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
from memcomp.nn.blockwise import BLOCK, UNBOUNDED, blockwise_attend

LANES = 128  # splash attention's blocks are multiples of so many positions
SPLASH_BLOCK = 512  # positions a block, at the most; not tuned on a TPU
# The axes of memcomp.sharding's mesh that cut a batch, and heads.
BATCH, HEADS = ("data", "fsdp"), "tensor"


Heads = Float[Array, "B T N H"]
Kernel = Callable[..., Heads]  # of q, k, v, window and softcap


class Attention(NamedTuple):
    """One way to compute heads.

    Attributes:
      kernel: of scaled queries, keys, values, window and soft cap; None for the weights,
        or for blocks, whose window need not be known at compile time.
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
    attention: str,
    windows: Sequence[int | None],
    kind: Int[Array, ""] | int,
    length: int,
) -> Callable[..., Heads] | None:
    """`Positions.kernel` of a layer.

    Args:
      attention: a key of `ATTENTION`.
      windows: of the kinds of layers that a stack has: how many keys a query sees, its
        own included, or None for all.
      kind: of the layer, an index to `windows`; may be traced.
      length: positions of a sequence.
    """
    if attention == "plain" or length < ATTENTION[attention].shortest:
        return None
    return functools.partial(_heads, ATTENTION[attention], tuple(windows), kind)


def _heads(row: Attention, windows, kind, q, k, v, softcap) -> Heads:
    if row.kernel is None or (softcap is not None and not row.softcaps):
        bounds = [UNBOUNDED if window is None else window for window in windows]
        return blockwise_attend(q, k, v, jnp.array(bounds)[kind], softcap)
    branches = [
        functools.partial(row.kernel, window=window, softcap=softcap) for window in windows
    ]
    if len(set(windows)) == 1:  # kinds of layers that differ in their rotary positions
        return branches[0](q, k, v)
    return jax.lax.switch(kind, branches, q, k, v)


def cudnn_attend(q, k, v, window: int | None, softcap: float | None = None) -> Heads:
    """Flash attention of cuDNN; for bfloat16 and float16, without a soft cap."""
    assert softcap is None
    left = None if window is None else (window - 1, 0)
    return jax.nn.dot_product_attention(
        q, k, v, scale=1.0, is_causal=True, local_window_size=left, implementation="cudnn"
    )


def splash_attend(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    window: int | None,
    softcap: float | None = None,
    interpret: bool = False,
) -> Float[Array, "B T N H"]:
    """Splash attention, a Pallas kernel for TPUs; on a mesh, each device has its part.

    Args:
      q: scaled queries.
      k: keys of the same positions.
      v: values of the same.
      window: how many keys a query sees, its own included; None for all.
      softcap: logits z become c tanh(z / c); None for none.
      interpret: run it without a TPU, slowly.
    """
    local = functools.partial(_splash, window=window, softcap=softcap, interpret=interpret)
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


def _splash(q, k, v, *, window, softcap, interpret) -> Heads:
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
        if window is None
        else masks.LocalMask(shape, (window - 1, 0), 0)
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
