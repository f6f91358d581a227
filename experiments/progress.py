"""Progress of a run on the terminal, and its end when it is told to stop."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import tqdm
from launch import say_notes, stop_if_told

from memcomp.distributed import is_first


@contextlib.contextmanager
def bar_of(num_texts: int, figures: Callable[[Any], dict[str, Any]]) -> Iterator[Callable]:
    """A progress bar of texts; what it gives is a run's `report`, called after each chunk.

    The first process shows it. A job that is told to stop does so after its next chunk.

    Args:
      num_texts: of the whole run.
      figures: of a progress, what stands beside the bar.
    """
    say_notes()
    with tqdm.tqdm(
        total=num_texts, unit="text", mininterval=1, disable=not is_first()
    ) as bar:

        def report(progress: Any) -> None:
            bar.n = progress.num_done
            bar.set_postfix(figures(progress))
            stop_if_told()

        yield report


def of_cramming(progress: Any) -> dict[str, Any]:
    """What is shown of a `memcomp.runs.cramming.Progress`."""
    return {
        "exact": progress.num_exact,
        "token_steps_per_s": f"{progress.token_steps_per_second:.0f}",
    }


def of_horizons(progress: Any) -> dict[str, Any]:
    """What is shown of a `memcomp.runs.horizons.HorizonProgress`."""
    return {
        "mean_exact": f"{progress.mean_exact:.2f}",
        "longest": progress.longest,
        "token_steps_per_s": f"{progress.token_steps_per_second:.0f}",
        "minutes_left": f"{progress.seconds_left / 60:.0f}",
    }
