"""Log of a training run: log.jsonl, TensorBoard scalars and lines on the terminal."""

import json
import sys
import time
from collections.abc import Sequence

from etils import epath
from tqdm import tqdm

from memcomp.distributed import say
from memcomp.runs.files import Record, append_records, read_records, write_whole
from memcomp.runs.scalars import scalar_writer

LOG = "log.jsonl"
SECONDS_BETWEEN_LINES = 30  # if there is no terminal for a progress bar


class Log:
    """The log of a run; only the first of several processes has one."""

    def __init__(self, folder: epath.Path, *, num_steps: int, step: int):
        """Opens the log of a run of `num_steps` that is at `step`.

        Records of later steps are removed: they came after the checkpoint, and those steps
        will be taken and logged again.
        """
        self.file, self.num_steps = folder / LOG, num_steps
        kept = [r for r in read_records(self.file) if r["step"] <= step]
        write_whole(self.file, "".join(json.dumps(r) + "\n" for r in kept))
        self.line = time.monotonic()
        self.writer = scalar_writer(folder / "metrics", purge_step=step + 1)
        self.bar = tqdm(
            total=num_steps, initial=step, unit="step", disable=not sys.stderr.isatty()
        )

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *error: object) -> None:
        self.writer.close()
        self.bar.close()

    def add(self, record: Record, said: Sequence[str]) -> None:
        """Adds a record to the log and shows it.

        Args:
          record: numbers by name; `step` is the number of steps taken.
          said: what to show of it. A terminal shows it beside the progress bar. Otherwise
            it is printed after each evaluation and every `SECONDS_BETWEEN_LINES`.
        """
        append_records(self.file, [record])
        step = record["step"]
        for name, value in record.items():
            if name != "step":
                self.writer.add_scalar(name, value, step)
        self.bar.set_postfix_str(", ".join(said))
        self.bar.update(step - self.bar.n)
        if not self.bar.disable:
            return
        evaluated = any(name.startswith("valid_") for name in record)
        if evaluated or time.monotonic() - self.line > SECONDS_BETWEEN_LINES:
            say(f"step {step:,}/{self.num_steps:,}: {', '.join(said)}")
            self.line = time.monotonic()
