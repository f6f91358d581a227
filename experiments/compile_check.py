"""Compiles every config's real step for its TPU slice, without a TPU and without weights.

  python experiments/compile_check.py [--config configs/compile_check.py:all] \
      [--config.programs='("cram/pythia_160m.py slice=v5e:2x4",)'] [--workdir DIR]

Says of each what one chip holds and does, and how long a step takes at the least. Writes
results.jsonl, compile.md and compile.csv, and under hlo/ the compiled programs. What has a
record is compiled again only if the program, or a compiler, is another. The status is 2
where something does not fit or compile.
Needs libtpu: pip install 'memcomp[aot]'.
"""

import gzip
import hashlib
import importlib.metadata
import os
import re
import time
from typing import Any

import jax
from benchmarks.compile_programs import Step, lower, program_config
from etils import epath
from launch import Config, launch

from memcomp.cost.chips import Slice, parse_slice, roofline, slice_devices
from memcomp.cost.work import Program, memory_of
from memcomp.disk import make_folder
from memcomp.errors import InputError
from memcomp.report.slices import compile_table, said, shortage
from memcomp.runs.files import (
    RECORDS,
    Record,
    append_records,
    claim_workdir,
    read_records,
    write_whole,
)

DEFAULT_WORKDIR = "runs/compile_check"
LARGEST = 4  # buffers that are named
# As many chips with more memory: what a program that does not fit would need is read there.
ROOMY = {1: "1x1x1", 4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4"}
# What libtpu would else ask a host that has TPUs.
QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no TPU is taken that another could want
}


def main(config: Config, workdir: str | None) -> None:
    """Config to library to the files of a run."""
    jax.config.update("jax_platforms", "cpu")  # a TPU that is here is not taken
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    slice_devices(parse_slice("v5e:2x2"))  # before the workdir is made
    versions = {n: importlib.metadata.version(n) for n in ("jax", "libtpu")}
    folder = claim_workdir(
        workdir or DEFAULT_WORKDIR, {"records": "compile_check"}, {"versions": versions}
    )
    path, failed = folder / RECORDS, []
    for program in config.programs:
        known = {r["program"]: r for r in read_records(path)}
        record = check(program, known, versions, folder)
        if record is not None:
            append_records(path, [record])
        found = {r["program"]: r for r in read_records(path)}  # the last one of each
        print(said(found[program]), flush=True)
        failed += [program] if found[program]["problem"] else []
        table = compile_table([found[p] for p in config.programs if p in found])
        write_whole(folder / "compile.md", table.markdown())
        write_whole(folder / "compile.csv", table.csv())
    print(f"run: {folder}")
    if failed:
        raise InputError(
            f"{len(failed)} of {len(config.programs)} programs do not fit or compile: "
            f"{'; '.join(failed)}; {folder / 'compile.md'} says what to change"
        )


def check(
    program: str, known: dict[str, Record], versions: dict[str, str], folder: epath.Path
) -> Record | None:
    """What compiling a program says; None where its record is still true."""
    config = program_config(program)
    part = parse_slice(config.slice)
    step = lower(program, config, slice_devices(part))
    # All that the result depends on: the program as traced, its slice, the compilers.
    text = "\n".join([step.lowered.as_text(), str(part), *versions.values()])
    fingerprint = hashlib.sha256(text.encode()).hexdigest()[:12]
    if known.get(program, {}).get("fingerprint") == fingerprint:
        return None
    record = {
        "program": program,
        "fingerprint": fingerprint,
        "slice": str(part),
        "chips": part.num_chips,
        "hbm_bytes": part.chip.hbm_bytes,
        "mesh": step.mesh,
        "dtype": config.dtype,
        "lm": step.lm,
        "num_params": step.num_params,
        "rows": step.rows,
        "num_tokens": step.num_tokens,
        "versions": versions,
    }
    hlo = folder / "hlo" / f"{fingerprint}.txt.gz"
    return record | compiled(program, config, step, part, hlo)


def compiled(
    program: str, config: Any, step: Step, part: Slice, file: epath.Path
) -> Record:
    """What the compiler makes of a step, whose program is kept, or why it does not."""
    begin = time.monotonic()
    try:
        made = step.lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        seconds, reason = time.monotonic() - begin, str(error)
        if "RESOURCE_EXHAUSTED" in reason:
            problem = too_large(program, config, step, part, reason)
        else:
            problem = f"does not compile: {' '.join(reason.split())[:500]}"
        return {"compile_seconds": seconds, "problem": problem}
    seconds = time.monotonic() - begin
    text = made.as_text()
    make_folder(file.parent)
    write_whole(file, gzip.compress(text.encode()))
    hlo, memory = Program(text), memory_of(made)
    work = hlo.work()
    times = roofline(work, part.chip)
    return {
        "compile_seconds": seconds,
        "memory_bytes": memory._asdict() | {"total": memory.total},
        "flops": work.flops,
        "bytes": work.num_bytes,
        "collectives": {k: c._asdict() for k, c in work.collectives.items()},
        "unknown_loops": work.unknown_loops,
        "custom_kernels": work.custom_kernels,
        "roofline_seconds": times._asdict(),
        "largest": [buffer._asdict() for buffer in hlo.largest(LARGEST)],
        "problem": "",
    }


def too_large(program: str, config: Any, step: Step, part: Slice, error: str) -> str:
    """A sentence that says what is large, and what to change."""
    first = re.search(r"total memory required[^\n]*", error)
    plain = f"has no room: {first[0].rstrip('.') if first else error.splitlines()[0]}"
    plain = f"{plain}; {step.smaller}, or take a slice with more memory"
    shape = ROOMY.get(part.num_chips)
    if shape is None:
        return plain
    try:
        devices = slice_devices(parse_slice(f"v5p:{shape}"))
        made = lower(program, config, devices).lowered.compile()
    except jax.errors.JaxRuntimeError:  # no room there either
        return plain
    memory, hlo = memory_of(made), Program(made.as_text())
    return shortage(memory, step.rows, step.parts, part, hlo.largest(LARGEST), step.smaller)


if __name__ == "__main__":
    launch(main, "compile_check.py")
