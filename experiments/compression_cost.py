"""Measures the cost of IC-Former and ICAE: FLOPs by formula and compiler, time, memory.

  python experiments/compression_cost.py [--config.x.y=value] [--workdir DIR]

It writes costs.csv and costs.md, figures/flops.png with its numbers, and clock.json. FLOPs
are counted without weights. The time is that of `digest` alone, without compilation and
until its result is ready; the compressors take turns.
"""

import json
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from benchmarks.random_models import random_weights
from benchmarks.timing import over, rates, spread
from launch import Config, launch

from memcomp.compressors.icae.config import ICAEConfig
from memcomp.compressors.icae.model import ICAE
from memcomp.compressors.icformer.config import ICFormerConfig
from memcomp.compressors.icformer.model import ICFormer
from memcomp.convert.families import FAMILIES
from memcomp.cost.formulas import compiled_flops, compiled_memory
from memcomp.errors import InputError
from memcomp.lm.load import DTYPES, abstract_params
from memcomp.report.digest_cost import (
    NAMES,
    cost_figure,
    cost_records,
    cost_table,
)
from memcomp.runs.files import Record, claim_workdir, write_whole

DEFAULT_WORKDIR = "runs/compression_cost"


def main(config: Config, workdir: str | None) -> None:
    """Measures both compressors and writes the files of a run."""
    about = {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
    if config.clock.dtype not in DTYPES:
        raise InputError(
            f"clock.dtype {config.clock.dtype!r} is not one of {', '.join(DTYPES)}"
        )
    pair = compressors(config, config.shape)  # a bad shape raises before the claim below
    compressors(config, config.clock.shape)
    folder = claim_workdir(workdir or DEFAULT_WORKDIR, config.to_dict(), about)
    records = []
    ways = cost_records(pair, config.contexts, config.chunk)
    for record in tqdm.tqdm(ways, unit="program", disable=not sys.stderr.isatty()):
        records.append(record)
    table, figure = cost_table(records), cost_figure(records)
    write_whole(folder / "costs.md", table.markdown())
    write_whole(folder / "costs.csv", table.csv())
    figure.write(folder / "figures", "flops")
    print(table.markdown())
    measured = clock(config)
    write_whole(folder / "clock.json", json.dumps(measured, indent=2) + "\n")
    print(said(measured), f"\nrun: {folder}", sep="\n")


def compressors(config: Config, shape: Config) -> list[Any]:
    """Makes IC-Former and ICAE for the LM of `shape`, which is a config.json."""
    entries = shape.to_dict()
    kind = entries["model_type"]
    if kind not in FAMILIES:
        raise InputError(f"model_type {kind!r} is not one of {', '.join(FAMILIES)}")
    family = FAMILIES[kind]
    import transformers  # imported late, as without torch it prints a line

    hf = transformers.AutoConfig.for_model(**entries)
    module, M = family.model(family.config_from_hf(hf)), config.num_digests
    return [
        ICFormer(module, ICFormerConfig(num_digests=M)),
        ICAE(module, ICAEConfig(num_digests=M, rank=config.rank)),
    ]


def clock(config: Config) -> dict[str, Record]:
    """Measures time, FLOPs and memory of each compressor, and ratios ICAE / IC-Former."""
    section = config.clock
    B, C, dtype = section.num_chunks, section.num_tokens, DTYPES[section.dtype]
    pair = compressors(config, section.shape)
    lm_params = random_weights(abstract_params(pair[0].lm_module), dtype)
    tokens = np.random.default_rng(0).integers(section.shape.vocab_size, size=(B, C))
    tokens, lengths = jnp.asarray(tokens, jnp.int32), jnp.full(B, C, jnp.int32)
    sides = {}
    for compressor in pair:
        params = random_weights(jax.eval_shape(compressor.init, jax.random.key(0)), dtype)
        digest = jax.jit(compressor.digest)
        jax.block_until_ready(digest(params, lm_params, tokens, lengths))

        def run(digest=digest, params=params):
            begin = time.perf_counter()
            jax.block_until_ready(digest(params, lm_params, tokens, lengths))
            return 1 / (time.perf_counter() - begin)

        sides[NAMES[type(compressor)]] = run
    found = rates(sides, section.rounds)
    seconds = {name: [1 / rate for rate in found[name]] for name in found}
    measured: dict[str, Record] = {}
    for compressor in pair:
        name, options = NAMES[type(compressor)], {"num_chunks": B, "dtype": dtype}
        measured[name] = {
            "seconds": spread(seconds[name]),
            "flops": compiled_flops(compressor, C, num_chunks=B),
            "bytes": compiled_memory(compressor, C, **options)._asdict(),
        }
    measured["ICAE / IC-Former"] = {
        "seconds": over(seconds["ICAE"], seconds["IC-Former"]),
        "flops": measured["ICAE"]["flops"] / measured["IC-Former"]["flops"],
    }
    return measured


def said(measured: dict[str, Record]) -> str:
    """Returns a line per compressor, and one with their ratio."""
    lines = []
    for name in NAMES.values():
        seconds, flops, held = (measured[name][k] for k in ("seconds", "flops", "bytes"))
        lines.append(
            f"{name}: {seconds['median']:.4g} s (min {seconds['min']:.4g}, max "
            f"{seconds['max']:.4g}), {flops / seconds['median']:.3g} FLOP/s, weights "
            f"{held['arguments'] / 1e9:.3g} GB, beside them "
            f"{held['temporary'] / 1e9:.3g} GB"
        )
    ratio = measured["ICAE / IC-Former"]
    lines.append(
        f"ICAE / IC-Former: {ratio['seconds']['median']:.1f} in time (min "
        f"{ratio['seconds']['min']:.1f}, max {ratio['seconds']['max']:.1f}), "
        f"{ratio['flops']:.1f} in FLOPs"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    launch(main, "compression_cost.py")
