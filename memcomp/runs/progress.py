"""Progress of a run, as its user sees it."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import tqdm

from memcomp.distributed import is_first, say

LINE_SECONDS = 10  # between two lines where there is no terminal


@contextlib.contextmanager
def bar_of(
    num_texts: int,
    figures: Callable[[Any], dict[str, Any]],
    after_chunk: Callable[[], None],
) -> Iterator[Callable[[Any], None]]:
    """Shows how many texts are done; yields the function that a run calls as `report`.

    It is a bar on a terminal, and a line now and then elsewhere, such as in a log. Only the
    first process shows it.

    Args:
      num_texts: number of texts of the whole run.
      figures: makes the values beside the bar from a run's progress.
      after_chunk: called after each chunk, for example to end a run that is told to stop.
    """
    is_terminal, said = sys.stderr.isatty(), -LINE_SECONDS
    with tqdm.tqdm(
        total=num_texts,
        unit="text",
        mininterval=1,
        disable=not (is_first() and is_terminal),
    ) as bar:

        def report(progress: Any) -> None:
            nonlocal said
            values = figures(progress)
            bar.n = progress.num_done
            bar.set_postfix(values)
            if not is_terminal and time.monotonic() >= said + LINE_SECONDS:
                said = time.monotonic()
                words = [f"{name}={value}" for name, value in values.items()]
                say(", ".join([f"{progress.num_done} of {num_texts} texts", *words]))
            after_chunk()

        yield report


def of_cramming(progress: Any) -> dict[str, Any]:
    """Values beside the bar for a `memcomp.runs.cramming.Progress`."""
    return {
        "exact": progress.num_exact,
        "token_steps_per_s": f"{progress.token_steps_per_second:.0f}",
    }


def of_horizons(progress: Any) -> dict[str, Any]:
    """Values beside the bar for a `memcomp.runs.horizons.HorizonProgress`."""
    return {
        "mean_exact": f"{progress.mean_exact:.2f}",
        "longest": progress.longest,
        "token_steps_per_s": f"{progress.token_steps_per_second:.0f}",
        "minutes_left": f"{progress.seconds_left / 60:.0f}",
    }


def of_sampling(progress: Any) -> dict[str, Any]:
    """Values beside the bar for a `memcomp.runs.sampling.Progress`."""
    return {"tokens_per_s": f"{progress.tokens_per_second:.0f}"}
