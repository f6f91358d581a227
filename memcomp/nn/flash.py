"""Kernels of causal attention that never materialise the [T, T] probabilities.

All kernels compute the same as `memcomp.nn.attention.attend`, which tests compare them
with, in memory that grows linearly with the length. Blockwise attention replaces a kernel
that cannot do what is asked. With a cache, or if the probabilities are wanted,
`memcomp.nn.attention` is used instead.

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
from memcomp.ranges import check_choice

LANES = 128  # blocks of splash attention are multiples of this many positions
SPLASH_BLOCK = 512  # largest block in positions; not tuned on a TPU
# Axes of memcomp.sharding's mesh over which the batch and the heads are sharded.
BATCH, HEADS = ("data", "fsdp"), "tensor"


Heads = Float[Array, "B T N H"]
Kernel = Callable[..., Heads]  # takes q, k, v, window and softcap


class Attention(NamedTuple):
    """One implementation of attention.

    Attributes:
      kernel: function of scaled queries, keys, values, window and soft cap; None for plain
        attention and for "blockwise", whose window may be traced.
      platforms: platforms of the devices that it runs on; empty for all.
      sixteen_bits: whether it takes only bfloat16 and float16.
      softcaps: whether it can cap logits.
      shortest: length below which sequences use plain attention.
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
    """Returns the kernel of a layer for `Positions`; None for plain attention.

    Args:
      attention: a key of `ATTENTION`.
      windows: for each kind of layer in the stack, the number of keys that a query sees,
        its own included, or None for all.
      kind: kind of the layer, an index into `windows`; may be traced.
      length: number of positions of a sequence.
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
    if len(set(windows)) == 1:  # kinds may differ only in their rotary positions
        return branches[0](q, k, v)
    return jax.lax.switch(kind, branches, q, k, v)


def cudnn_attend(q, k, v, window: int | None, softcap: float | None = None) -> Heads:
    """Flash attention of cuDNN, for bfloat16 and float16, without a soft cap."""
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
    """Splash attention, a Pallas kernel for TPUs; on a mesh it runs on each device's shard.

    Args:
      q: scaled queries.
      k: keys of the same positions.
      v: values of the same positions.
      window: number of keys that a query sees, its own included; None for all.
      softcap: cap c of the logits z, which become c tanh(z / c); None for no cap.
      interpret: whether to interpret the kernel, which is slow but needs no TPU.
    """
    local = functools.partial(_splash, window=window, softcap=softcap, interpret=interpret)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return local(q, k, v)
    # The compiler cannot shard a kernel, so that `shard_map` does it. Under a `vmap` over
    # texts B is 1; `spmd_axis_name` then names the axes of the batch, which must not be
    # named again here.
    parts = mesh.shape[BATCH[0]] * mesh.shape[BATCH[1]]
    cut = BATCH if parts > 1 and q.shape[0] % parts == 0 else None
    spec = PartitionSpec(cut, None, HEADS, None)
    return jax.shard_map(
        local, mesh=mesh, in_specs=(spec,) * 3, out_specs=spec, check_vma=False
    )(q, k, v)


def _splash(q, k, v, *, window, softcap, interpret) -> Heads:
    # Imported late, because importing Pallas takes half a second.
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel as splash,
    )
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_mask as masks,
    )

    T, N = q.shape[1:3]
    block = min(SPLASH_BLOCK, T + -T % LANES)
    # Padding is on the right, where only padding sees it.
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
# "plain" materialises all probabilities. It is also used for sequences of at most one
# block, which "blockwise" would do in more steps, and "splash" with more positions.
ATTENTION: dict[str, Attention] = {
    "plain":     Attention(),
    "blockwise": Attention(shortest=BLOCK + 1),
    "cudnn":     Attention(cudnn_attend, ("gpu",), sixteen_bits=True, softcaps=False),
    "splash":    Attention(splash_attend, ("tpu",), shortest=LANES + 1),
}
# fmt: on


def check_attention(name: str) -> None:
    """Raises an `InputError` unless `name` is a key of `ATTENTION`."""
    check_choice("attention", name, ATTENTION)


def resolve_attention(name: str, platform: str, dtype: Any) -> str:
    """Returns a key of `ATTENTION`; "auto" is resolved by platform and dtype.

    Args:
      name: a key of `ATTENTION`, or "auto" for the kernel that is made for this platform
        and dtype, or "blockwise" if there is none.
      platform: platform of the devices: "cpu", "gpu" or "tpu".
      dtype: dtype of queries, keys and values.

    Raises:
      InputError: the name is unknown, or the kernel does not support the platform or dtype.
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
