"""Time, FLOPs and memory of compressors and of a step of cramming, on this machine."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.random_models import random_weights
from benchmarks.timing import Side, over, rates, spread, timed
from memcomp.cost.formulas import compiled_flops, compiled_memory, shapes_of
from memcomp.cost.work import memory_of
from memcomp.cram.config import CramConfig
from memcomp.cram.loop import cram_chunk, lower_cram_chunk
from memcomp.cram.state import init_states
from memcomp.lm.load import DTYPES, abstract_params
from memcomp.report.digest_cost import NAMES
from memcomp.runs.files import Record

CRAMMING = "cramming, one step"


def clock(
    compressors: Sequence[Any], num_chunks: int, num_tokens: int, dtype: str, rounds: int
) -> dict[str, Record]:
    """Measures each compressor and a step of cramming, and ratios ICAE / IC-Former.

    Args:
      compressors: one of each kind, for the same LM; cramming has as many vectors.
      num_chunks: number of chunks, or texts, of a batch.
      num_tokens: number of tokens of each.
      dtype: dtype of all parameters, a key of `memcomp.lm.load.DTYPES`.
      rounds: number of measurements of each side.
    """
    module, kind = compressors[0].lm_module, DTYPES[dtype]
    shape = num_chunks, num_tokens
    tokens = np.random.default_rng(0).integers(module.config.vocab_size, size=shape)
    lm_params = random_weights(abstract_params(module), kind)
    batch = jnp.asarray(tokens, jnp.int32), jnp.full(num_chunks, num_tokens, jnp.int32)
    sides: dict[str, Side] = {}
    for made in compressors:
        params = random_weights(jax.eval_shape(made.init, jax.random.key(0)), kind)
        sides[NAMES[type(made)]] = _digesting(made, params, lm_params, *batch)
    cfg = cram_config(compressors[0].num_digests)
    sides[CRAMMING] = _cramming_side(lm_params, batch, module, cfg)
    found = rates(sides, rounds)
    seconds = {name: [1 / rate for rate in found[name]] for name in found}
    measured: dict[str, Record] = {CRAMMING: _cramming_cost(module, shape, kind, cfg)}
    for made in compressors:
        options = {"num_chunks": num_chunks, "dtype": kind}
        measured[NAMES[type(made)]] = {
            "flops": compiled_flops(made, num_tokens, num_chunks=num_chunks),
            "bytes": compiled_memory(made, num_tokens, **options)._asdict(),
        }
    for name, record in measured.items():
        record["seconds"] = spread(seconds[name])
    measured["ICAE / IC-Former"] = {
        "seconds": over(seconds["ICAE"], seconds["IC-Former"]),
        "flops": measured["ICAE"]["flops"] / measured["IC-Former"]["flops"],
    }
    return measured


def cram_config(num_memory: int) -> CramConfig:
    """One step a call, with the default recipe."""
    return CramConfig(num_tokens=None, num_memory=num_memory, steps_per_chunk=1)


def _digesting(compressor: Any, *args: Any) -> Side:
    digest = jax.jit(compressor.digest)
    jax.block_until_ready(digest(*args))  # compiles
    return timed(lambda: digest(*args))


def _cramming_side(lm_params, batch, module, cfg: CramConfig) -> Side:
    tokens, lengths = batch
    ids = jnp.arange(len(tokens), dtype=jnp.int32)
    held = [init_states(ids, lm_params, module=module, cfg=cfg)]

    def run():
        states = held.pop()  # it is donated
        states, _ = cram_chunk(states, tokens, lengths, lm_params, module=module, cfg=cfg)
        held.append(states)
        return states

    jax.block_until_ready(run())  # compiles
    return timed(run)


def _cramming_cost(module, shape: tuple[int, int], dtype: Any, cfg: CramConfig) -> Record:
    """FLOPs and memory of a step; loops are unrolled for FLOPs, so that all are counted."""
    whole = {"vocab_chunk": module.config.vocab_size, "token_chunk": shape[1]}
    counted = dataclasses.replace(cfg, **whole)
    flops = _step_program(module.clone(unroll=True), shape, jnp.float32, counted)
    return {
        "flops": flops.cost_analysis()["flops"],
        "bytes": memory_of(_step_program(module, shape, dtype, cfg))._asdict(),
    }


def _step_program(module, shape: tuple[int, int], dtype: Any, cfg: CramConfig) -> Any:
    """The compiled program of a step, without any arrays."""
    params = shapes_of(abstract_params(module), dtype)
    tokens = jax.ShapeDtypeStruct(shape, jnp.int32)
    lengths = jax.ShapeDtypeStruct(shape[:1], jnp.int32)

    def init(ids, params):
        return init_states(ids, params, module=module, cfg=cfg)

    states = jax.eval_shape(init, lengths, params)
    made = lower_cram_chunk(states, tokens, lengths, params, module=module, cfg=cfg)
    return made.compile()


def said(measured: dict[str, Record]) -> str:
    """Returns a line per compressor, one of a step of cramming, and one with the ratio."""
    lines = []
    for name in (*NAMES.values(), CRAMMING):
        seconds, flops, held = (measured[name][k] for k in ("seconds", "flops", "bytes"))
        lines.append(
            f"{name}: {seconds['median']:.4g} s (min {seconds['min']:.4g}, max "
            f"{seconds['max']:.4g}), {flops:.4g} FLOPs, {flops / seconds['median']:.3g} "
            f"FLOP/s, arguments {held['arguments'] / 1e9:.3g} GB, beside them "
            f"{held['temporary'] / 1e9:.3g} GB"
        )
    ratio = measured["ICAE / IC-Former"]
    lines.append(
        f"ICAE / IC-Former: {ratio['seconds']['median']:.1f} in time (min "
        f"{ratio['seconds']['min']:.1f}, max {ratio['seconds']['max']:.1f}), "
        f"{ratio['flops']:.1f} in FLOPs"
    )
    return "\n".join(lines)
