"""Measures speed and memory of cramming, as ratios to a PyTorch loop on the same machine.

  python experiments/benchmark.py [--config configs/benchmark.py] [--config.rows=NAME,...]
      [--workdir DIR]

The two sides of a comparison take turns, and a ratio is that of two consecutive runs. The
table shows the median, smallest and largest of these ratios. Each measurement is a JSON
line in results.jsonl.
"""

import pathlib
import resource
import sys
import tempfile
from collections.abc import Sequence

from benchmarks.decoding import decoding
from benchmarks.speed import about, cross_entropy, gradient, long_texts, speed
from benchmarks.step_parts import LOSS_OF, breakdown
from benchmarks.whole_jobs import jobs, refill
from launch import Config, launch

from memcomp.errors import InputError
from memcomp.ranges import check_choice
from memcomp.runs.files import Record, append_records, claim_workdir


def main(config: Config, workdir: str | None) -> None:
    """Runs the chosen rows, writes their records and prints the table."""
    names = chosen(config.rows)
    check_choice("breakdown.score", config.breakdown.score, LOSS_OF)
    folder = claim_workdir(workdir or "runs/benchmark", config.to_dict(), about())
    records = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            for record in ROWS[name](name, config, pathlib.Path(scratch)):
                record |= {"peak_rss_bytes": peak_rss(), **about()}
                append_records(folder / "results.jsonl", [record])
                records.append(record)
                print(f"measured {record['what']}", file=sys.stderr, flush=True)
    print(table(records))


def chosen(rows: str) -> list[str]:
    """Names of the chosen rows."""
    names = list(ROWS) if rows == "all" else rows.split(",")
    if unknown := [name for name in names if name not in ROWS]:
        raise InputError(f"no rows {', '.join(unknown)}; there are {', '.join(ROWS)}")
    return names


def peak_rss() -> int:
    """Peak resident memory of this process in bytes, PyTorch's included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def table(records: Sequence[Record]) -> str:
    """Returns a table with one line per measurement."""
    head = ("measurement", "required", "median", "min", "max")
    rows: list[tuple[str, ...]] = [head]
    for record in records:
        wanted = "" if record["required"] is None else f"{record['required']:g}"
        figures = [f"{record[key]:.3g}" for key in ("median", "min", "max")]
        rows.append((record["what"], wanted, *figures))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
        for row in rows
    )


ROWS = {
    "builtin": speed,
    "pythia_160m": speed,
    "to_exact": jobs,
    "grid": jobs,
    "refill": refill,
    "cross_entropy": cross_entropy,
    "breakdown": breakdown,
    "decoding": decoding,
    "long_text": long_texts,
    "mamba_130m": gradient,
}


if __name__ == "__main__":
    launch(main, "benchmark.py", keeps_programs=False)
