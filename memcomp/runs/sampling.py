"""A run that samples texts from a language model; it resumes after any kill.

Batch b holds the texts b * batch_size, b * batch_size + 1 and so on, and its lines are
appended together. A resumed run samples the batch that was not finished as a whole again,
so that its file equals that of a run without interruption, bit for bit.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Sequence

from etils import epath

from memcomp import distributed
from memcomp.data.tokens import ids_to_text
from memcomp.lm.protocol import LanguageModel
from memcomp.lm.sample import Sampled, SamplingConfig, sample_texts
from memcomp.ranges import check_count
from memcomp.runs.files import (
    RECORDS,
    SUMMARY,
    Record,
    append_records,
    read_records,
    summarise,
    write_whole,
)


@dataclasses.dataclass(frozen=True)
class Progress:
    """Progress of a run after a batch.

    Attributes:
      num_done: texts that are sampled, those of earlier starts of the run included.
      tokens_per_second: tokens of the batch over the time that it took; the first batch
        after a start includes compilation.
    """

    num_done: int
    tokens_per_second: float


def check_sizes(num_texts: int, batch_size: int) -> None:
    """Raises `InputError` unless both numbers are 1 or more."""
    check_count("num_texts", num_texts)
    check_count("batch_size", batch_size)


def run_sampling(
    lm: LanguageModel,
    cfg: SamplingConfig,
    folder: epath.Path,
    *,
    num_texts: int,
    batch_size: int,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Record:
    """Samples texts 0 to num_texts - 1 into results.jsonl; returns the summary.

    A record has `text_id`, `seed`, `num_tokens`, `ended` (see `Sampled`) and `text`. A text
    without a letter has no record, because readers of texts refuse it. All processes must
    call it; the first one reads and writes.

    Args:
      lm: the language model.
      cfg: how texts are sampled.
      folder: the workdir, which may hold texts of an earlier start of the same run.
      num_texts: number of texts, those without a letter included.
      batch_size: number of texts that are sampled together.
      report: called after each batch; an exception that it raises ends the run, which can
        be resumed.

    Raises:
      InputError: a number is out of its range, or texts cannot be sampled from the LM.
    """
    check_sizes(num_texts, batch_size)
    file = folder / RECORDS
    last = _last_text(file)
    for first in range((last + 1) // batch_size * batch_size, num_texts, batch_size):
        begin = time.perf_counter()
        ids = range(first, first + batch_size)  # also in the last batch: one program
        sampled = sample_texts(lm, ids, cfg)
        kept = range(max(first, last + 1), min(first + batch_size, num_texts))
        records = [_record(lm, cfg, i, sampled[i - first]) for i in kept]
        if distributed.is_first():
            append_records(file, [r for r in records if r["text"].strip()])
        rate = sum(len(x.tokens) for x in sampled) / (time.perf_counter() - begin)
        report(Progress(min(first + batch_size, num_texts), rate))
    records = read_records(file) if distributed.is_first() else []
    summary = _summary(records, num_texts)
    if distributed.is_first():
        write_whole(folder / SUMMARY, json.dumps(summary, indent=2) + "\n")
    return summary


def _last_text(file: epath.Path) -> int:
    """Number of the last text in the file; -1 for none."""
    records = read_records(file) if distributed.is_first() else []
    last = records[-1]["text_id"] if records else -1
    return json.loads(distributed.from_first(json.dumps(last).encode()))


def _record(
    lm: LanguageModel, cfg: SamplingConfig, text_id: int, sampled: Sampled
) -> Record:
    return {
        "text_id": text_id,
        "seed": cfg.seed,
        "num_tokens": len(sampled.tokens),
        "ended": sampled.ended,
        "text": ids_to_text(lm.tokenizer, sampled.tokens),
    }


def _summary(records: Sequence[Record], num_texts: int) -> Record:
    """Averages the records; `num_empty` counts the texts without one."""
    columns = [{name: r[name] for name in ("num_tokens", "ended")} for r in records]
    total = sum(r["num_tokens"] for r in records)
    counts = {"num_empty": num_texts - len(records), "total_tokens": total}
    return summarise(columns) | counts
