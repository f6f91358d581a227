"""Measures the cost of compressors: FLOPs by formula and compiler, time and memory.

  python experiments/compression_cost.py [--config.x.y=value] [--workdir DIR]

It writes costs.csv and costs.md, figures/flops.png with its numbers, and clock.json. FLOPs
are counted without weights. The time is that of `digest` alone, without compilation and
until its result is ready; the compressors, and a step of cramming, take turns.
"""

import json
import sys
from typing import Any

import jax
import tqdm
from benchmarks.compression_clock import clock, said
from benchmarks.random_models import module_of
from launch import Config, launch

from memcomp.compressors.gradmem import GradMem, GradMemConfig
from memcomp.compressors.icae import ICAE, ICAEConfig
from memcomp.compressors.icformer.config import ICFormerConfig
from memcomp.compressors.icformer.model import ICFormer
from memcomp.lm.load import DTYPES
from memcomp.ranges import check_choice
from memcomp.report.digest_cost import cost_figure, cost_records, cost_table
from memcomp.runs.files import claim_workdir, write_whole

DEFAULT_WORKDIR = "runs/compression_cost"


def main(config: Config, workdir: str | None) -> None:
    """Measures the compressors and writes the files of a run."""
    about = {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
    check_choice("clock.dtype", config.clock.dtype, DTYPES)
    # A bad shape raises before the claim below.
    large = compressors(config, config.shape)
    small = compressors(config, config.clock.shape)
    folder = claim_workdir(workdir or DEFAULT_WORKDIR, config.to_dict(), about)
    records = []
    ways = cost_records(large, config.contexts, config.chunk)
    for record in tqdm.tqdm(ways, unit="program", disable=not sys.stderr.isatty()):
        records.append(record)
    table, figure = cost_table(records), cost_figure(records)
    write_whole(folder / "costs.md", table.markdown())
    write_whole(folder / "costs.csv", table.csv())
    figure.write(folder / "figures", "flops")
    print(table.markdown())
    section = config.clock
    sizes = section.num_chunks, section.num_tokens, section.dtype, section.rounds
    measured = clock(small, *sizes)
    write_whole(folder / "clock.json", json.dumps(measured, indent=2) + "\n")
    print(said(measured), f"\nrun: {folder}", sep="\n")


def compressors(config: Config, shape: Config) -> list[Any]:
    """Makes the compressors for the LM of `shape`, which is a config.json."""
    module, M = module_of(shape.to_dict()), config.num_digests
    return [
        ICFormer(module, ICFormerConfig(num_digests=M)),
        ICAE(module, ICAEConfig(num_digests=M, rank=config.rank)),
        GradMem(module, GradMemConfig(num_digests=M, num_steps=config.num_steps)),
    ]


if __name__ == "__main__":
    launch(main, "compression_cost.py")
