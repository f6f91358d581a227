"""Makes the records of compile_check.py: the result of compiling a step, or the problem."""

import gzip
import hashlib
import re
import time
from typing import Any

import jax
from etils import epath

from memcomp.cost.chips import Slice, parse_slice, roofline, slice_devices
from memcomp.cost.work import Program, memory_of
from memcomp.disk import make_folder, write_whole
from memcomp.report.slices import shortage
from memcomp.runs.files import Record

from .compile_programs import Step, lower, program_config

LARGEST = 4  # number of buffers that are listed
# Number of chips -> topology of a slice with more memory per chip. A program that does not
# fit is compiled for it to find how much memory it needs.
ROOMY = {1: "1x1x1", 4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4"}


def check(
    program: str, known: dict[str, Record], versions: dict[str, str], folder: epath.Path
) -> Record | None:
    """Compiles a program and returns its record; None if the known record is valid."""
    config = program_config(program)
    part = parse_slice(config.slice)
    step = lower(program, config, slice_devices(part))
    # The result depends only on the traced program, its slice and the compilers.
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
    """Compiles a step and saves its program; returns figures of it, or the problem."""
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
    """Returns a sentence with the largest buffers, and what to change."""
    first = re.search(r"total memory required[^\n]*", error)
    plain = f"has no room: {first[0].rstrip('.') if first else error.splitlines()[0]}"
    plain = f"{plain}; {step.smaller}, or take a slice with more memory"
    shape = ROOMY.get(part.num_chips)
    if shape is None:
        return plain
    try:
        devices = slice_devices(parse_slice(f"v5p:{shape}"))
        made = lower(program, config, devices).lowered.compile()
    except jax.errors.JaxRuntimeError:  # it does not fit there either
        return plain
    memory, hlo = memory_of(made), Program(made.as_text())
    return shortage(memory, step.rows, step.parts, part, hlo.largest(LARGEST), step.smaller)
