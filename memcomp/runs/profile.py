"""A trace of a few steps of a run, under its workdir (docs/speed.md)."""

import sys
from typing import Any

import jax
from etils import epath

AFTER = 1  # the trace leaves out the compilation, or reading from disk, of the first call
UNITS = 3  # steps of training, or chunks of cramming


class Profile:
    """Writes a trace to `folder`/profile, if one is wanted.

    It begins after `AFTER` calls of `step` and ends `UNITS` calls later, or with the run.
    """

    def __init__(self, folder: epath.Path, wanted: bool):
        self._folder = folder / "profile"
        self._seen, self._running, self._last = 0, False, None
        self._wanted = wanted

    def __enter__(self) -> "Profile":
        return self

    def step(self, result: Any = None) -> None:
        """Counts a unit of work that was handed to the devices and returns `result`."""
        self._seen += 1
        if not self._wanted:
            return
        self._last = result
        if self._seen == AFTER:
            # Python's own calls would fill the trace and slow down the traced steps.
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0
            jax.profiler.start_trace(
                str(self._folder), create_perfetto_trace=True, profiler_options=options
            )
            self._running = True
        elif self._seen == AFTER + UNITS:
            self._stop()

    def __exit__(self, *error: object) -> None:
        self._stop()
        if self._wanted and self._seen <= AFTER:
            say(f"the run had {self._seen} of the {AFTER + 1} steps or chunks of a trace")

    def _stop(self) -> None:
        if self._running:
            self._running = False
            jax.block_until_ready(self._last)
            jax.profiler.stop_trace()
            say(f"wrote a trace of {self._seen - AFTER} steps or chunks to {self._folder}")


def say(message: str) -> None:
    """Prints to standard error, because results may go to standard output."""
    print(message, file=sys.stderr, flush=True)
