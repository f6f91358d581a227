"""The files of a run: one config owns the folder, and a run resumes after any kill."""

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from etils import epath

from memcomp import distributed
from memcomp.disk import path_of, write_whole, writing
from memcomp.errors import InputError

CONFIG = "config.json"
RECORDS = "results.jsonl"
SUMMARY = "summary.json"
MESH = "mesh"  # the field of a config that says where a run computes, not what

# Names, for error messages, of what the SHA-256 entries of config.json stand for.
CONTENT = {
    "lm": "weights of the language model",
    "tokenizer": "tokens of the same texts",
    "texts": "texts",
    "valid": "texts in `valid`",
    "questions": "questions",
    "test questions": "questions",
    "start": "weights of the compressor that it starts with",
    "beside": "weights of the compressors beside it",
}

Record = dict[str, Any]
IDENTITY = ("text_id", "restart", "seed_id")  # fields that a summary does not average


def claim_workdir(
    workdir: str | os.PathLike, config: Mapping[str, Any], about: Mapping[str, Any]
) -> epath.Path:
    """Makes the folder of a run, or resumes the run in it if its config is the same.

    The first process does it; the others wait.

    Args:
      workdir: the folder, which may exist already.
      config: the resolved config. A run resumes only with the same config; the mesh may
        differ.
      about: other facts to record, such as versions and devices. Every entry `sha256` in
        it must be the same too: it identifies the weights or texts that a name in the
        config stands for.

    Raises:
      InputError: the folder cannot be written, or belongs to another config or to other
        weights or texts; the message says what differs.
    """
    path = path_of(workdir)
    if distributed.is_first():
        _claim(path, json.loads(json.dumps(config)), about)  # tuples become lists
    distributed.barrier()
    return path


def _claim(path: epath.Path, config: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    file = path / CONFIG
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            # In a bucket, a folder exists only once it has files.
            if path.exists() and any(path.iterdir()):
                raise InputError(
                    f"{path} has files but no {CONFIG}; give a new or empty --workdir"
                )
            write_whole(file, json.dumps({"config": config, **about}, indent=2) + "\n")
            return
        found = json.loads(file.read_text())
        there = dict(found["config"])
    except OSError as error:
        raise InputError(
            f"{path} cannot be used as a workdir ({error}); give another --workdir"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is not of a run of memcomp ({error!r})") from error
    _check_same(path, there, config)
    _check_content(path, found, about)


def _check_same(
    path: epath.Path, there: Mapping[str, Any], here: Mapping[str, Any]
) -> None:
    there, here = ({k: v for k, v in c.items() if k != MESH} for c in (there, here))
    if changes := differences(there, here):
        raise InputError(
            f"{path} belongs to a run with another config ({'; '.join(changes)}); give "
            "the same config, or another --workdir"
        )


def _check_content(
    path: epath.Path, there: Mapping[str, Any], here: Mapping[str, Any]
) -> None:
    """Raises `InputError` if the same names now stand for other weights or texts."""
    there, here = _fingerprints(there), _fingerprints(here)
    for name in sorted(there.keys() | here.keys()):
        old, new = (str(of.get(name, "nothing"))[:12] for of in (there, here))
        if old != new:
            raise InputError(
                f"{path} belongs to a run with other {CONTENT.get(name, name)} (SHA-256 "
                f"{old} there, {new} here); put back those that it began with, or give "
                "another --workdir"
            )


def _fingerprints(about: Mapping[str, Any]) -> dict[str, Any]:
    """Returns every `sha256` of a config.json, by the name of the entry it belongs to."""
    ending = ".sha256"
    return {
        name.removesuffix(ending): digest
        for name, digest in _flat(about).items()
        if name.endswith(ending) and not name.startswith("config.")
    }


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Lists the fields that differ between two nested configs: `a.b: 1 there, 2 here`."""
    old, new = _flat(old), _flat(new)
    lines = []
    for name in sorted(old.keys() | new.keys()):
        there, here = old.get(name, "nothing"), new.get(name, "nothing")
        if there != here:
            lines.append(f"{name}: {there!r} there, {here!r} here")
    return lines


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def read_records(path: epath.Path) -> list[Record]:
    """Reads the records of a file; removes an incomplete last line that a kill has left.

    Raises:
      InputError: another line is not a record.
    """
    if not path.exists():
        return []
    text = path.read_bytes()
    whole, newline, torn = text.rpartition(b"\n")
    if torn:
        write_whole(path, whole + newline)
    return [_parsed(path, i, line) for i, line in enumerate(whole.splitlines(), 1) if line]


def _parsed(path: epath.Path, number: int, line: bytes) -> Record:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"line {number} of {path} is not JSON ({error}); remove that line, and what it "
            "was is done again"
        ) from error
    if not isinstance(record, dict):
        raise InputError(f"line {number} of {path} is no record; remove that line")
    return record


def append_records(path: epath.Path, records: Iterable[Record]) -> None:
    """Appends a line for each record; they are on disk when this returns.

    An object in a bucket cannot be appended to, so it is written again as a whole.
    """
    lines = "".join(json.dumps(record) + "\n" for record in records).encode()
    if "://" in os.fspath(path):
        if lines or not path.exists():
            write_whole(path, (path.read_bytes() if path.exists() else b"") + lines)
        return
    with writing(path), path.open("ab") as file:
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())


def run_studies(
    path: epath.Path, studies: Mapping[str, Callable[[], Iterable[Record]]]
) -> list[Record]:
    """Runs the studies that the file does not have yet; returns the records of all.

    The records of a study are added together, each with the study's `kind`. All processes
    must call it; the first one reads and writes.

    Args:
      path: file with the records of all studies, one study after the other.
      studies: functions by kind; each returns at least one record.
    """
    before = read_records(path) if distributed.is_first() else []
    records = json.loads(distributed.from_first(json.dumps(before).encode()))
    done = {record["kind"] for record in records}
    for kind in [kind for kind in studies if kind not in done]:
        records += [{"kind": kind, **record} for record in studies[kind]()]
        if distributed.is_first():
            write_whole(path, "".join(json.dumps(record) + "\n" for record in records))
    return records


def summarise(records: Sequence[Record]) -> dict[str, Any]:
    """Returns n, and mean and standard error of each field that is always a number.

    The standard error is the sample standard deviation over sqrt(n), None for n = 1.
    """
    names = [
        name
        for name in (records[0] if records else {})
        if name not in IDENTITY and all(isinstance(r[name], int | float) for r in records)
    ]
    summary: dict[str, Any] = {"n": len(records)}
    for name in names:
        values = [float(record[name]) for record in records]
        mean = math.fsum(values) / len(values)
        error = None
        if len(values) > 1:
            squares = math.fsum((v - mean) ** 2 for v in values)
            error = math.sqrt(squares / (len(values) - 1) / len(values))
        summary[name] = {"mean": mean, "standard_error": error}
    return summary
