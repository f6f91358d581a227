"""Measures cramming and IC-Former on one GPU: speed against PyTorch and a matmul, memory.

  python experiments/gpu_benchmark.py [--config configs/gpu_benchmark.py]
      [--config.x.y=value] [--workdir DIR]

Ours and PyTorch's part run one after the other, each in its own process. Each row is
recorded in results.jsonl when it is done; the same command measures the rows that are
missing. If a part that has rows finds no GPU, nothing is started.
"""

import importlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec

import jax
from absl import flags
from benchmarks.gpu_rows import KINDS, MATMULS
from benchmarks.speed import about
from etils import epath
from launch import Config, launch
from ml_collections import config_dict

from memcomp.disk import path_of
from memcomp.errors import InputError
from memcomp.runs.files import RECORDS, Record, append_records, claim_workdir, read_records

PARTS = ("ours", "pytorch")
# JAX preallocates 92 % of the GPU's memory in its own part, and uses none in the other.
ENVIRONMENT = {
    "ours": {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92"},
    "pytorch": {"JAX_PLATFORMS": "cpu"},
}
PART = flags.DEFINE_enum("part", None, PARTS, "Measure here, as the processes do.")
CHECK = flags.DEFINE_bool("check", False, "Of a part: only see that it has a GPU.")


def main(config: Config, workdir: str | None) -> None:
    """Starts a process for each part and prints results; --part makes it one of them."""
    folder = path_of(workdir or "runs/gpu_benchmark")
    if PART.value is not None:
        check_gpu(PART.value, config)
        return None if CHECK.value else measure(PART.value, config, folder / RECORDS)
    jax.config.update("jax_platforms", "cpu")  # leaves the GPU's memory to the parts
    names = config.rows.split(",")
    if unknown := [name for name in names if name not in config.row]:
        raise InputError(f"no rows {', '.join(unknown)}; there are {', '.join(config.row)}")
    parts = [part for part in PARTS if rows_of(part, config)]
    for part in parts:  # checked before anything is written
        if status := run_part(part, folder, "--check"):
            sys.exit(status)  # the part has printed the reason
    folder = claim_workdir(folder, config.to_dict(), {})  # the parts record their devices
    for part in parts:
        run_part(part, folder)
    print(table(read_records(folder / RECORDS), config.ratios))


def run_part(part: str, folder: epath.Path, *more: str) -> int:
    """Runs this command as the process of a part; returns its exit status."""
    extra = [f"--part={part}", f"--workdir={folder}", *more]
    command = [sys.executable, __file__, *sys.argv[1:], *extra]
    environment = os.environ | ENVIRONMENT[part]
    return subprocess.run(command, env=environment, check=False).returncode


def check_gpu(part: str, config: Config) -> None:
    """Raises `InputError` if a part has no GPU to measure."""
    if part == "ours":
        if jax.default_backend() != "gpu":
            raise InputError(
                f"JAX finds no GPU here, only a {jax.default_backend()}, and the rows are "
                "of full size; install 'memcomp[cuda]' on a machine with an NVIDIA GPU, or "
                "measure on this one with experiments/benchmark.py"
            )
    elif not (find_spec("torch") and importlib.import_module("torch").cuda.is_available()):
        ours = ",".join(rows_of("ours", config))
        raise InputError(
            "no torch here finds a GPU, which the rows of PyTorch need; install torch with "
            "CUDA" + (f", or leave them out with --config.rows={ours}" if ours else "")
        )


def rows_of(part: str, config: Config) -> list[str]:
    """Names of the chosen rows that a part measures, in their order."""
    names = config.rows.split(",")
    return [name for name in names if part_of(config.row[name]) == part]


def part_of(row: Config) -> str:
    """Name of the part that measures a row."""
    return "pytorch" if row.kind == "pytorch" else "ours"


def measure(part: str, config: Config, file: epath.Path) -> None:
    """Measures the rows of a part that have no record yet, until its time is over."""
    end = time.monotonic() + config.seconds[part]
    done = {record["row"] for record in read_records(file)}
    matmul = max(MATMULS[part](config)() for _ in range(config.rounds))
    for name in rows_of(part, config):
        if name in done:
            continue
        if time.monotonic() > end:
            print(f"{name}: no time left for it", file=sys.stderr, flush=True)
            continue
        begin = time.monotonic()
        record = with_room(KINDS[config.row[name].kind], config, config.row[name])
        if "flops" in record:
            record["share"] = record["flops"] * record["rate"]["median"] / matmul
        spent = {"matmul_flops_per_second": matmul, "row_seconds": time.monotonic() - begin}
        append_records(file, [{"row": name, **record, **spent, **about()}])
        print(f"{name}: {said(record)}", file=sys.stderr, flush=True)


def with_room(kind: Callable[..., Record], config: Config, row: Config) -> Record:
    """Measures a row, and halves its number of texts as long as memory is too small."""
    entries = row.to_dict()
    while True:
        try:
            return {**entries, **kind(config, config_dict.ConfigDict(entries))}
        except Exception as error:  # a row that fails is recorded, and others still run
            full = any(s in str(error) for s in ("RESOURCE_EXHAUSTED", "out of memory"))
            if not full or entries["num_texts"] == 1:
                return {**entries, "error": f"{type(error).__name__}: {error}"[:2000]}
        entries["num_texts"] //= 2


def said(record: Record) -> str:
    """Returns a short summary of a record."""
    if "error" in record:
        return record["error"].splitlines()[0][:200]
    if "errors" in record:
        worst = max(record["errors"].values())
        times = record["plain_seconds"]["median"] / record["seconds"]["median"]
        return f"largest relative error {worst:.2g}, {times:.2f} times as fast as plain"
    share = f", {record['share']:.1%} of the matmul rate" if "share" in record else ""
    return f"{record['num_texts']} texts, {record['rate']['median']:,.0f} tokens/s{share}"


def table(records: list[Record], ratios: Config) -> str:
    """Returns a line per row, and a line for each of the config's ratios."""
    by_row = {record["row"]: record for record in records}
    lines = [f"{name}: {said(record)}" for name, record in by_row.items()]
    for ratio in ratios.values():
        above = by_row.get(ratio.above, {})
        if ratio.below == "matmul":
            figure = above.get("share")
        else:
            rate, other = above.get("rate"), by_row.get(ratio.below, {}).get("rate")
            figure = rate["median"] / other["median"] if rate and other else None
        found = "not measured" if figure is None else f"{figure:.3g}"
        lines.append(f"{ratio.what}: {found} (wanted {ratio.required:g})")
    return "\n".join(lines)


if __name__ == "__main__":
    launch(main, "gpu_benchmark.py", keeps_programs=False)
