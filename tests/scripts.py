"""Runs a script of experiments/ in a process forked from one that has imported it all."""

import multiprocessing
import os
import pathlib
import runpy
import sys

EXPERIMENTS = pathlib.Path(__file__).parent.parent / "experiments"

# The server does not get this process's `sys.path`, and passes over what it cannot import.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(pathlib.Path(__file__).parent), os.environ.get("PYTHONPATH")])
)
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["preloaded", "tiny_lm", "cramming_run"])


def main(script, arguments, folder, stdin):
    os.chdir(folder)
    for name, descriptor in (("out", 1), ("err", 2)):
        file = os.open(f"{name}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
    if stdin is not None:
        pathlib.Path("in.txt").write_text(stdin)
        sys.stdin = open("in.txt")
    sys.argv = [str(EXPERIMENTS / script), *arguments]
    sys.path.insert(0, str(EXPERIMENTS))
    runpy.run_path(sys.argv[0], run_name="__main__")


def run_script(script, *arguments, folder, stdin=None):
    """Exit status, standard output and standard error of `script`, run in `folder`."""
    process = context.Process(target=main, args=(script, arguments, folder, stdin))
    process.start()
    process.join()
    said = [(pathlib.Path(folder) / f"{name}.txt").read_text() for name in ("out", "err")]
    return process.exitcode, *said
