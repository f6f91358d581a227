"""Rows of gpu_benchmark.py: cramming, IC-Former's step, and attention, on one device."""

import dataclasses
import functools
import importlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from launch import Config

from memcomp.compressors import layout, training
from memcomp.compressors.chunks import Chunks
from memcomp.compressors.icformer.config import ICFormerConfig
from memcomp.compressors.icformer.model import ICFormer
from memcomp.compressors.objectives import Batch, Task
from memcomp.lm.load import DTYPES, abstract_params
from memcomp.lm.protocol import CausalLM, LanguageModel
from memcomp.nn.attention import attend, causal_mask, scaled
from memcomp.nn.flash import kernel_of, resolve_attention
from memcomp.runs.files import Record
from memcomp.sharding import make_mesh

from .random_models import module_of, random_weights
from .speed import our_side, token_flops
from .timing import compiled, matmul_side, spread


@functools.lru_cache(maxsize=1)
def random_params(module: CausalLM, dtype: Any) -> Any:
    """Random weights of a model, cached for the next row, which may have the same shape."""
    return random_weights(abstract_params(module), dtype)


def random_lm(config: Config, row: Config) -> LanguageModel:
    """Makes a language model of the row's shape, with random weights."""
    plain, dtype = module_of(config.shapes[row.shape].to_dict()), DTYPES[config.dtype]
    attention = resolve_attention(row.attention, jax.devices()[0].platform, dtype)
    lm_config = dataclasses.replace(plain.config, remat=row.remat, attention=attention)
    params = random_params(plain, dtype)
    module = plain.clone(config=lm_config)
    return LanguageModel(row.shape, module, lm_config, params, None, dtype, "random")


def cram(config: Config, row: Config) -> Record:
    """Measures token-steps per second of the cramming loop."""
    lm = random_lm(config, row)
    rng = np.random.default_rng(config.seed)
    shape = (row.num_texts, row.num_tokens)
    tokens = rng.integers(lm.config.vocab_size, size=shape, dtype=np.int32)
    side, cost = our_side(lm, tokens, row.steps)
    side()
    rate = spread([side() for _ in range(config.rounds)])
    return {"rate": rate, "flops": token_flops(lm, row.num_tokens), **cost, **peak()}


def icformer(config: Config, row: Config) -> Record:
    """Measures context tokens per second of IC-Former's training step (autoencoding).

    FLOPs count only the LM's matrix products, forward and backward to its input vectors;
    those of IC-Former are a few per cent of them.
    """
    lm, M = random_lm(config, row), config.num_digests
    task = Task(lm.module, ICFormer(lm.module, ICFormerConfig(num_digests=M)))
    cfg = training.TrainConfig(1, row.num_texts, dtype=config.dtype)
    mesh = make_mesh(devices=jax.devices()[:1])
    batch = autoencoding(config.seed, row, lm.config.vocab_size, M)
    step = training.jit_train_step(task, cfg, mesh)
    with jax.set_mesh(mesh):
        state = training.init_state(config.seed, task, cfg, mesh)
        program, cost = compiled(step.lower(state, lm.params, batch))
        found = []
        for _ in range(config.rounds + 1):
            begin = time.perf_counter()
            for _ in range(row.steps):
                state, _ = program(state, lm.params, batch)
            jax.block_until_ready(state)
            tokens = row.num_texts * row.num_tokens * row.steps
            found.append(tokens / (time.perf_counter() - begin))
    read = M + 1 + row.num_tokens
    flops = token_flops(lm, read) * read / row.num_tokens
    return {"rate": spread(found[1:]), "flops": flops, **cost, **peak()}


def autoencoding(seed: int, row: Config, vocab_size: int, num_digests: int) -> Batch:
    """Makes one micro-batch of random contexts of one chunk, to be reproduced."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(vocab_size, size=(row.num_texts, row.num_tokens), dtype=np.int32)
    rows = [layout.autoencoding_row(text, num_digests, None) for text in tokens]
    lengths = np.full((row.num_texts, 1), row.num_tokens, np.int32)
    batch = Batch(Chunks(tokens[:, None], lengths), layout.stack_rows(rows))
    return jax.tree.map(lambda x: jnp.asarray(x)[None], batch)


def attention(config: Config, row: Config) -> Record:
    """Measures error and time of the attention kernel with gradients, against `attend`."""
    shape = config.shapes[row.shape]
    N, K = shape.num_attention_heads, shape.get("num_key_value_heads") or 0
    H, K = shape.get("head_dim") or shape.hidden_size // N, K or N
    keys = jax.random.split(jax.random.key(config.seed), 4)
    sizes = [(row.num_texts, row.num_tokens, heads, H) for heads in (N, K, K, N)]
    wide = [jax.random.normal(k, size) for k, size in zip(keys, sizes, strict=True)]
    short = [x.astype(DTYPES[config.dtype]) for x in wide]
    mask = causal_mask(jnp.arange(row.num_tokens), row.num_tokens)
    kernel = kernel_of(row.attention, [None], 0, row.num_tokens)
    assert kernel is not None

    def pulled(heads):
        def run(q, k, v, push):
            out, pull = jax.vjp(heads, q, k, v)
            return out, *pull(push)

        return jax.jit(run)

    plain = pulled(lambda q, k, v: attend(q, k, v, mask))
    fast = pulled(lambda q, k, v: kernel(scaled(q, None), k, v, None))
    want = plain(*(x.astype(jnp.float32) for x in short))
    pairs = zip(("heads", "q", "k", "v"), fast(*short), want, strict=True)
    errors = {n: float(jnp.abs(a - b).max() / jnp.abs(b).max()) for n, a, b in pairs}
    return {
        "errors": errors,
        "seconds": seconds(config, row, fast, short),
        "plain_seconds": seconds(config, row, plain, short),
    }


def seconds(config, row, program, arguments) -> dict[str, float]:
    """Measures the seconds of one call."""
    found = []
    for _ in range(config.rounds + 1):
        begin = time.perf_counter()
        for _ in range(row.steps):
            out = program(*arguments)
        jax.block_until_ready(out)
        found.append((time.perf_counter() - begin) / row.steps)
    return spread(found[1:])


def pytorch(config: Config, row: Config) -> Record:
    """Measures token-steps per second of PyTorch's loop, after the steps that compile."""
    loops = importlib.import_module("benchmarks.torch_cramming")
    entries = config.shapes[row.shape].to_dict()
    model = loops.random_model(entries, config.dtype, row.attention, row.compiled)
    rng = np.random.default_rng(config.seed)
    shape = (row.num_texts, row.num_tokens)
    tokens = rng.integers(entries["vocab_size"], size=shape)
    first = loops.run_steps(model, tokens, 2)
    work = tokens.size * row.steps
    found = [work / loops.run_steps(model, tokens, row.steps) for _ in range(config.rounds)]
    cost = {"first_steps_seconds": first, **loops.peak()}
    return {"rate": spread(found), **cost}


def peak() -> dict[str, int]:
    """Peak memory of the device in this process; empty if the device does not report it."""
    found = jax.devices()[0].memory_stats() or {}
    return {k: found[k] for k in ("peak_bytes_in_use", "bytes_limit") if k in found}


def our_matmul(config: Config) -> Callable[[], float]:
    """Returns a measurement of the device's matmul rate by JAX."""
    return matmul_side(config.matmul, DTYPES[config.dtype])


def torch_matmul(config: Config) -> Callable[[], float]:
    """Returns a measurement of the device's matmul rate by PyTorch."""
    rate = importlib.import_module("benchmarks.torch_cramming").matmul_rate
    return functools.partial(rate, config.matmul, config.dtype)


MATMULS = {"ours": our_matmul, "pytorch": torch_matmul}
KINDS: dict[str, Callable[[Any, Any], Record]] = {
    "attention": attention,
    "cram": cram,
    "icformer": icformer,
    "pytorch": pytorch,
}
