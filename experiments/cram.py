"""Crams texts into memory, stores it, reads it back, decodes it and shows the result.

  python experiments/cram.py [--config configs/cram/....py] [--config.x.y=value]
      [--workdir DIR] [--profile]

It can be stopped at any moment, and the same command resumes it, also on another mesh or
with another number of processes.
"""

import contextlib
import itertools

from launch import Config, is_profiled, launch, note, say_notes, stop_if_told

from memcomp.distributed import is_first
from memcomp.lm.score import BITS_PER_NAT
from memcomp.report.run_figure import cram_curves
from memcomp.runs.cramming import Progress, describe, run_cramming
from memcomp.runs.files import claim_workdir
from memcomp.runs.inputs import load_cramming
from memcomp.runs.profile import Profile
from memcomp.runs.progress import bar_of, of_cramming
from memcomp.runs.records import said_of_lost_texts
from memcomp.runs.scalars import ScalarWriter, scalar_writer

DEFAULT_WORKDIR = "runs/cram"


def main(config: Config, workdir: str | None) -> None:
    """Crams the texts, writes the files of a run and prints the table."""
    lm, texts, cfg = load_cramming(config.to_dict(), note)
    folder = claim_workdir(
        workdir or DEFAULT_WORKDIR, config.to_dict(), describe(lm, texts[0].source_sha256)
    )
    say_notes()
    metrics = folder / "metrics"
    scalars = scalar_writer(metrics) if is_first() else contextlib.nullcontext()
    with (
        scalars as writer,
        Profile(folder, is_profiled()) as profile,
        bar_of(len(texts), of_cramming, stop_if_told) as show,
    ):
        chunks = itertools.count(1)

        def report(progress: Progress) -> None:
            if writer:
                write_scalars(writer, progress, next(chunks))
            profile.step()
            show(progress)

        records = run_cramming(lm, texts, cfg, folder, report)
    if is_first():
        picture = cram_curves(records).write(folder / "figures", "curves")
        print(table(records))
        print(f"figure: {picture}\nrun:    {folder}")


def write_scalars(writer: ScalarWriter, progress: Progress, chunk: int) -> None:
    """Writes the progress after a chunk for TensorBoard."""
    for name in ("num_done", "num_exact", "token_steps_per_second", "mean_loss_nats"):
        value = getattr(progress, name)
        if value is not None:
            writer.add_scalar(name, value, chunk)


def table(records: list[dict]) -> str:
    """Returns a table with a line per text: its length, whether it is exact, the cost."""
    head = ("tokens", "exact", "steps", "bits of text", "bits of memory", "text")
    rows = []
    for r in sorted(records, key=lambda r: (r["num_tokens"], r["text_id"])):
        prefix = r["greedy_prefix_tokens"]
        exact = "yes" if r["exact_greedy"] else f"first {prefix}"
        if r["diverged_at"] is not None:
            exact += f", no finite loss at step {r['diverged_at']}"
        if r["text_comes_back"] is False:
            exact += ", of tokens only"
        # Surprise of the decoded prefix. The gain in cross-entropy would be less, because
        # optimisation stops at the margin.
        nats = sum(s for s in r["surprise_nats"][:prefix] if s is not None)
        bits = f"{nats * BITS_PER_NAT:.0f}", f"{r['memory_bits']}"
        rows.append(
            (str(r["num_tokens"]), exact, str(r["steps"]), *bits, _short(r["text"]))
        )
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [
        "  ".join(cell.rjust(w) for cell, w in zip(row[:-1], widths, strict=False))
        + f"  {row[-1]}"
        for row in [head, *rows]
    ]
    back = [r for r in records if r["exact_greedy"] and r["text_comes_back"] is not False]
    exact, n = [r["num_tokens"] for r in back], len(records)
    verdict = f"{len(exact)} of {n} texts come back exactly, decoded from the stored memory"
    if exact:
        verdict += f"; the longest of them has {max(exact)} tokens"
    return "\n".join([*lines, "", f"{verdict}. {said_of_lost_texts(records)}".strip()])


def _short(text: str | None, most: int = 60) -> str:
    text = " ".join((text or "").split())
    return text if len(text) <= most else text[: most - 3] + "..."


if __name__ == "__main__":
    launch(main, "cram/builtin.py", resumable=True, profiled=True)
