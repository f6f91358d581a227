"""Kernels of attention against the weights written out, values and gradients."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from memcomp import sharding
from memcomp.errors import InputError
from memcomp.nn import flash
from memcomp.nn.attention import attend, causal_mask
from memcomp.nn.blockwise import UNBOUNDED, blockwise_attend

FAST_COMPILE = {"xla_backend_optimization_level": 0}
B, T, H, BLOCK = 2, 40, 16, 16  # the last block is not full
# Query heads, kv heads, window, soft cap.
CASES = {
    "grouped": (6, 2, None, None),
    "one kv head": (4, 1, None, 2.0),
    "window": (4, 4, 13, None),
    "long window": (2, 1, 30, None),
}
KERNEL_CASES = ["grouped", "window"]


def heads(case, dtype=np.float32, batch=B, length=T):
    """Queries, keys, values, and what heads are pushed by; logits of size 8."""
    N, K, _, _ = CASES[case]
    rng = np.random.default_rng(0)
    shapes = [(batch, length, n, H) for n in (N, K, K, N)]
    q, k, v, push = (jnp.asarray(rng.standard_normal(s), dtype) for s in shapes)
    return 2 * q, k, v, push


def plain(q, k, v, window, softcap):
    mask = causal_mask(jnp.arange(q.shape[1]), q.shape[1], window)
    return attend(q, k, v, mask, scale=1.0, softcap=softcap)


def blocks(q, k, v, window, softcap, block=BLOCK):
    bound = jnp.array(UNBOUNDED if window is None else window)
    return blockwise_attend(q, k, v, bound, softcap, block)


def with_gradients(attention, case):
    """`f(q, k, v, push)`: the heads, and the gradients that `push` gives."""
    _, _, window, softcap = CASES[case]

    def run(q, k, v, push):
        out, pull = jax.vjp(lambda *qkv: attention(*qkv, window, softcap), q, k, v)
        return out, *pull(push)

    return run


def check(got, want, error):
    """Largest error of each array, relative to its largest number or 1."""
    for name, a, b in zip(("heads", "q", "k", "v"), got, want, strict=True):
        found = jnp.abs(a - b).max() / jnp.maximum(jnp.abs(b).max(), 1)
        assert found < error, (name, found)


@pytest.mark.parametrize("case", CASES)
def test_blocks_match_the_weights(case):
    with jax.enable_x64(True):
        inputs = heads(case, np.float64)
        want = jax.jit(with_gradients(plain, case))(*inputs)
        got = jax.jit(with_gradients(blocks, case))(*inputs)
        assert got[0].dtype == jnp.float64
        check(got, want, 1e-14)  # measured 2.1e-15


@pytest.mark.parametrize("case", KERNEL_CASES)
def test_splash_attention_matches_the_weights(case):
    inputs = heads(case)
    want = jax.jit(with_gradients(plain, case))(*inputs)
    splash = functools.partial(flash.splash_attend, interpret=True)
    got = jax.jit(with_gradients(splash, case))(*inputs)
    check(got, want, 4e-6)  # measured 8.2e-7


@pytest.mark.parametrize(
    ("attention", "case"),
    [(blocks, "window"), *((flash.cudnn_attend, case) for case in KERNEL_CASES)],
)
def test_sixteen_bits_are_as_good_as_their_rounding(attention, case):
    if attention is flash.cudnn_attend and jax.default_backend() != "gpu":
        pytest.skip("cuDNN needs a GPU")
    short = [x.astype(jnp.bfloat16) for x in heads(case)]
    want = jax.jit(with_gradients(plain, case))(*(x.astype(jnp.float32) for x in short))
    got = jax.jit(with_gradients(attention, case))(*short)
    assert {x.dtype for x in got} == {jnp.dtype(jnp.bfloat16)}
    check([x.astype(jnp.float32) for x in got], want, 1.5e-2)


def test_a_batch_of_texts_is_the_texts_one_by_one():
    case = "window"
    inputs = [x[:, None] for x in heads(case)]  # texts of a vmap, each of B = 1
    run = with_gradients(blocks, case)
    got = jax.jit(jax.vmap(run))(*inputs)
    for i in range(B):
        want = jax.jit(run)(*(x[i] for x in inputs))
        check([x[i] for x in got], want, 2e-6)  # measured 2e-7


def test_texts_are_batched_for_cudnn_as_it_wants_them(monkeypatch):
    """Traced, not run: shapes, dtypes and batch axes are checked where they are traced."""
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda _: True)
    for case in KERNEL_CASES:
        inputs = [x[:, None].astype(jnp.bfloat16) for x in heads(case)]
        run = jax.vmap(with_gradients(flash.cudnn_attend, case))
        program = str(jax.make_jaxpr(run)(*inputs))
        assert "dot_product_attention_bwd" in program
        window = CASES[case][2]
        assert f"sliding_window_length={window}" in program


@pytest.mark.parametrize("attention", [plain, blocks])
def test_memory_of_blocks_grows_with_the_length_alone(attention):
    def temporaries(length):
        inputs = [
            jax.ShapeDtypeStruct((1, length, n, H), jnp.float32) for n in (2, 1, 1, 2)
        ]
        run = with_gradients(functools.partial(attention), "grouped")
        program = jax.jit(run, compiler_options=FAST_COMPILE).lower(*inputs).compile()
        return program.memory_analysis().temp_size_in_bytes

    growth = temporaries(4096) / temporaries(2048)
    # Measured 4.0 and 2.0.
    assert growth > 3.5 if attention is plain else growth < 2.5


@pytest.mark.parametrize("sizes", [(2, 2, 2), (1, 1, 2), (4, 1, 1)])
def test_splash_attention_on_a_mesh_matches_one_device(sizes):
    case = "grouped"
    N, K, window, softcap = CASES[case]
    inputs = heads(case, batch=4)[:3]
    devices = jax.devices()[: math.prod(sizes)]
    mesh = sharding.make_mesh(*sizes, devices=devices)
    splash = functools.partial(
        flash.splash_attend, window=window, softcap=softcap, interpret=True
    )
    want = jax.jit(splash)(*inputs)
    cut = sharding.batch_sharding(mesh)
    with jax.set_mesh(mesh):
        got = jax.jit(splash)(*(jax.device_put(x, cut) for x in inputs))
        each = jax.vmap(splash, spmd_axis_name=sharding.BATCH)
        texts = jax.jit(each)(*(jax.device_put(x[:, None], cut) for x in inputs))
    data, fsdp, tensor = sizes
    shape = 4 // (data * fsdp), T, N // tensor, H
    assert got.sharding.shard_shape(got.shape) == shape
    np.testing.assert_allclose(got, want, atol=2e-6)
    np.testing.assert_allclose(texts[:, 0], want, atol=2e-6)


def test_the_axes_that_cut_heads_are_those_of_the_mesh():
    assert flash.BATCH == sharding.BATCH
    assert flash.HEADS == sharding.RULES["heads"] == sharding.RULES["kv_heads"]


def test_what_a_kernel_cannot_do_is_done_in_blocks(monkeypatch):
    monkeypatch.setattr(flash, "blockwise_attend", lambda q, *_: q + 1)
    q = jnp.zeros((1, 2, 1, 8))
    assert (flash.kernel_of("cudnn", [None], 0, 2)(q, q, q, 1.0) == 1).all()
    assert flash.kernel_of("splash", [None], 0, flash.LANES) is None


@pytest.mark.parametrize("windows", [[None] * 2, [None, 4]])
def test_kinds_of_layers_with_one_window_share_a_kernel(windows, monkeypatch):
    traced = []

    def kernel(q, k, v, window, softcap):
        traced.append(window)
        return q

    monkeypatch.setitem(flash.ATTENTION, "splash", flash.Attention(kernel))
    q = jnp.zeros((1, 2, 1, 8))
    jax.eval_shape(
        lambda kind: flash.kernel_of("splash", windows, kind, 2)(q, q, q, None), 0
    )
    assert set(traced) == set(windows) and len(traced) == len(set(windows))


def test_auto_goes_by_the_devices():
    resolve = flash.resolve_attention
    assert resolve("auto", "gpu", jnp.bfloat16) == "cudnn"
    assert resolve("auto", "gpu", jnp.float32) == "blockwise"
    assert resolve("auto", "tpu", jnp.float32) == "splash"
    assert resolve("auto", "cpu", jnp.float32) == "blockwise"
    assert resolve("plain", "tpu", jnp.float32) == "plain"


@pytest.mark.parametrize(
    ("name", "dtype", "message"),
    [
        ("slow", jnp.float32, "'slow' is not one of plain, blockwise, cudnn, splash"),
        ("splash", jnp.float32, "runs on tpu, and these devices are of gpu"),
        ("cudnn", jnp.float32, "takes 16-bit numbers, and the dtype is float32"),
    ],
)
def test_what_does_not_run_is_refused(name, dtype, message):
    with pytest.raises(InputError, match=message):
        flash.resolve_attention(name, "gpu", dtype)
