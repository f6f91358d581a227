"""A cramming run in a workdir; it can be stopped at any moment and resumes.

After each chunk, three things happen in this order: the memories of the finished texts are
written, read back and decoded; their lines are appended to results.jsonl; the texts in
flight are saved. A kill in between costs one chunk. The chunk is then repeated with the
same results, and lines that are there already are not written twice.

With several processes, each writes the memories and the lines of the texts in its own
batch slots (see `ledger`). Once all lines are written, the first process saves the texts
in flight of all processes.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from memcomp import distributed
from memcomp.cram.config import CramConfig
from memcomp.cram.memory_file import Memory, parse_memory, save_memory
from memcomp.cram.pool import SNAPSHOT, Pool, Snapshot
from memcomp.cram.result import CramResult
from memcomp.cram.schedule import advance_all
from memcomp.data.texts import Text, read_texts
from memcomp.disk import make_folder
from memcomp.errors import InputError
from memcomp.lm.protocol import LanguageModel
from memcomp.lm.score import baselines
from memcomp.runs.files import (
    RECORDS,
    SUMMARY,
    Record,
    summarise,
    write_whole,
)
from memcomp.runs.ledger import Ledger
from memcomp.runs.records import decode_stored, record

FLIGHT = "in_flight.safetensors"


@dataclasses.dataclass(frozen=True)
class Progress:
    """Progress of a run after a chunk.

    Attributes:
      num_texts: number of texts of the whole run.
      num_done: texts with a result, those of earlier starts of the run included.
      num_exact: finished texts that greedy decoding of the stored memory gives exactly.
      steps_per_second: gradient evaluations of single texts per second, in this chunk.
      token_steps_per_second: the same, with each text counted by its number of tokens.
      mean_loss_nats: mean loss of the texts in flight at their last step; None if no text
        is in flight.
    """

    num_texts: int
    num_done: int
    num_exact: int
    steps_per_second: float
    token_steps_per_second: float
    mean_loss_nats: float | None


def run_cramming(
    lm: LanguageModel,
    texts: Sequence[Text],
    cfg: CramConfig,
    workdir: epath.Path,
    report: Callable[[Progress], None] = lambda progress: None,
) -> list[Record]:
    """Crams all texts into files of `workdir`; returns the records, ordered by `seed_id`.

    Args:
      lm: the frozen language model.
      texts: the texts, with distinct `seed_id`s.
      cfg: what to cram and how.
      workdir: folder claimed by this config (`files.claim_workdir`), which all processes
        can read. Results of an earlier start of the same run are kept, whatever its mesh.
      report: called after each chunk.

    Raises:
      InputError: a text does not fit into the LM's positions.
    """
    make_folder(workdir / "memory")
    ledger, clock = Ledger(workdir / RECORDS), _Clock()
    done = ledger.records
    from_source = {text.seed_id: text.source_sha256 for text in texts}
    chunks = advance_all(lm, texts, cfg, done=set(done), snapshot=read_flight(workdir))
    group = cfg.way.num_texts(cfg.num_memory)
    for finished, pool in chunks:
        pad_to = pool.num_tokens // group
        new = _store(lm, finished, cfg, workdir, pad_to, ledger.records)
        new = [r | {"source_sha256": from_source[r["seed_id"]]} for r in new]
        ledger.add(new, {r.seed_id: r.process for r in finished})
        write_flight(workdir, pool.snapshot())  # all processes must take part in a snapshot
        report(clock.progress(len(texts), list(ledger.records.values()), pool))
    ledger.merge()
    ordered = [ledger.records[i] for i in sorted(ledger.records)]
    if distributed.is_first():
        write_whole(workdir / SUMMARY, json.dumps(summarise(ordered), indent=2) + "\n")
        (workdir / FLIGHT).unlink(missing_ok=True)
    distributed.barrier()
    return ordered


def _store(
    lm: LanguageModel,
    finished: Sequence[CramResult],
    cfg: CramConfig,
    workdir: epath.Path,
    pad_to: int,
    done: Container[int],
) -> list[Record]:
    """Saves the memories of `finished`; returns records of those that are not `done`."""
    if not finished:
        return []
    processes = sorted({r.process for r in finished})
    names = {p: _memory_file(r for r in finished if r.process == p) for p in processes}
    stored = _store_memories(lm, finished, names, workdir, done)
    new = [r for r in finished if r.seed_id not in done]
    decoded = decode_stored(lm, [stored[str(r.seed_id)] for r in new], pad_to)
    without = baselines(
        lm,
        [r.tokens for r in new],
        num_given=cfg.num_given,
        pad_to=pad_to,
        vocab_chunk=cfg.vocab_chunk,
    )
    records = []
    for result, baseline, both in zip(new, without, decoded, strict=True):
        where = {"memory_file": names[result.process], "memory_key": str(result.seed_id)}
        records.append(record(result, baseline, both, lm) | where)
    return records


def _memory_file(results: Iterable[CramResult]) -> str:
    return f"memory/{min(r.seed_id for r in results):08d}.safetensors"


def _store_memories(
    lm: LanguageModel,
    finished: Sequence[CramResult],
    names: Mapping[int, str],
    workdir: epath.Path,
    done: Container[int],
) -> dict[str, Memory]:
    """Saves the memories of this process; returns those of all processes, read back.

    The file holds all memories of this chunk, also those that are done. If a kill came
    between the file and the lines that name it, the same file is written again, and
    memories that other lines name stay in it.
    """
    me, data = jax.process_index(), b""
    if me in names:
        path = workdir / names[me]
        save_memory(path, [r for r in finished if r.process == me], done)
        data = path.read_bytes()
    read = distributed.gather(data)
    stored = {}
    for process, name in names.items():
        stored |= parse_memory(read[process], str(workdir / name), lm)
    return stored


def write_flight(workdir: epath.Path, snapshot: Snapshot) -> None:
    """Saves the texts in flight after a chunk; the first process does it."""
    if distributed.is_first():
        write_whole(workdir / FLIGHT, safetensors.numpy.save(dict(snapshot)))


def read_flight(workdir: epath.Path) -> dict[str, np.ndarray] | None:
    """Reads the texts that were in flight when the run stopped; None if there were none.

    All processes must call it, and all get the same.
    """
    path, data = workdir / FLIGHT, b""
    if distributed.is_first() and path.exists():
        data = path.read_bytes()
    data = distributed.from_first(data)
    if not data:
        return None
    begin_anew = "remove it, and the texts in flight begin anew"
    try:
        arrays = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}); {begin_anew}") from error
    if missing := sorted(SNAPSHOT - arrays.keys()):
        raise InputError(
            f"{path} lacks {', '.join(missing)}, so it is of another version of memcomp; "
            f"{begin_anew}"
        )
    return arrays


class _Clock:
    def __init__(self):
        self._last = time.perf_counter()

    def progress(self, num_texts: int, records: list[Record], pool: Pool) -> Progress:
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        return Progress(
            num_texts=num_texts,
            num_done=len(records),
            num_exact=sum(r["exact_greedy"] for r in records),
            steps_per_second=pool.last_steps / seconds,
            token_steps_per_second=pool.last_token_steps / seconds,
            mean_loss_nats=pool.mean_loss(),
        )


def describe(lm: LanguageModel, texts_sha256: str | None = None) -> dict[str, Any]:
    """Describes what a run uses: the LM, the texts, versions, devices, git revision.

    Args:
      lm: the language model.
      texts_sha256: SHA-256 of the texts' source, if there is one.
    """
    belongs = {"tokenizer": tokenizer_sha256(lm.tokenizer), "texts": texts_sha256}
    return {
        "lm": {
            "name": lm.name,
            "revision": lm.revision,
            "sha256": lm.fingerprint,
            "parameters": int(sum(x.size for x in jax.tree.leaves(lm.params))),
            "dtype": np.dtype(lm.dtype).name,
            "d_model": lm.config.d_model,
            "vocab_size": lm.config.vocab_size,
        },
        **{name: {"sha256": digest} for name, digest in belongs.items() if digest},
        **environment(),
    }


def environment(*more: str) -> dict[str, Any]:
    """Versions of packages, those of `more` included, devices and git revision of a run."""
    packages = ("memcomp", "jax", "jaxlib", "flax", "optax", "numpy", "transformers", *more)
    return {
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages},
        },
        "devices": [str(device.device_kind) for device in jax.devices()],
        "git": git_revision(pathlib.Path(__file__).parents[1]),
    }


def tokenizer_sha256(tokenizer: Any) -> str | None:
    """SHA-256 of a tokenizer's token ids for the built-in texts; None for no tokenizer."""
    if tokenizer is None:
        return None
    texts = [text for _, text in read_texts("builtin")]
    ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()


def git_revision(package: pathlib.Path) -> str | None:
    """Returns the git revision of the repository that `package` is part of.

    None for an installed package, even if its folder lies inside some other repository.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        # Inside a hook, git sets variables that name the hook's own repository.
        env = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
        said = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
        return said.stdout.strip()

    try:
        top = pathlib.Path(git("rev-parse", "--show-toplevel"))
        git("ls-files", "--error-unmatch", "__init__.py")
        own = top.resolve() == package.resolve().parent
        return git("describe", "--always", "--dirty") if own else None
    except (OSError, subprocess.CalledProcessError):
        return None  # no git, no repository, or one that does not have the package
