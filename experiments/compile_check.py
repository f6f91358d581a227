"""Compiles each config's real step for its TPU slice, without a TPU and without weights.

  python experiments/compile_check.py [--config configs/compile_check.py:all] \
      [--config.programs='("cram/pythia_160m.py slice=v5e:2x4",)'] [--workdir DIR]

For each program it reports the memory and work of one chip, and a lower bound on the time
of a step. It writes results.jsonl, compile.md and compile.csv, and the compiled programs
under hlo/. A program with a record is compiled again only if it or a compiler has changed.
The exit status is 2 if a program does not fit or compile.
Needs libtpu: pip install 'memcomp[aot]'.
"""

import importlib.metadata
import os

import jax
from benchmarks.compile_records import check
from launch import Config, launch

from memcomp.cost.chips import parse_slice, slice_devices
from memcomp.errors import InputError
from memcomp.report.slices import compile_table, said
from memcomp.runs.files import (
    RECORDS,
    append_records,
    claim_workdir,
    read_records,
    write_whole,
)

DEFAULT_WORKDIR = "runs/compile_check"
# Without these, libtpu would ask a host that has TPUs.
QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # safe, because this process uses no TPU
}


def main(config: Config, workdir: str | None) -> None:
    """Compiles the programs and writes the files of a run."""
    jax.config.update("jax_platforms", "cpu")  # does not occupy a TPU of this host
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    slice_devices(parse_slice("v5e:2x2"))  # raises, if it must, before the workdir exists
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
        found = {r["program"]: r for r in read_records(path)}  # the last record of each
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


if __name__ == "__main__":
    launch(main, "compile_check.py", keeps_programs=False)
