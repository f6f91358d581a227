"""Reads records and configs of run folders, and checks the fields that a report needs."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from types import NoneType
from typing import Any, NamedTuple

from memcomp.cram.ways.table import WAYS
from memcomp.errors import InputError
from memcomp.runs.files import Record

NUMBER = (int, float)
# Records of older versions have no seed_id; they gave a text another id at each length.
CRAMMED = {
    **{"protocol": str, "source": str, "num_memory": int, "memory": str},
    **{"text_id": int, "seed_id": int},
}
# Fields that tables and figures need, by kind of record.
NEEDED: dict[str, dict[str, Any]] = {
    "cramming": CRAMMED,
    "horizon": CRAMMED | {"horizon": NUMBER, "failed": (int, NoneType)},
    "growth": CRAMMED | {"prefix": int, "token_steps": int},
    "compression": {"method": str, "source": str, "text_id": int, "ratio": NUMBER},
    "cosine": {"cosine": NUMBER, "same_text": bool},
    "restart": {"exact": bool},
    "path": {"path": str, "pair": (int, str), "theta": NUMBER, "accuracy": NUMBER},
    "norm": {"of": str, "norm": NUMBER, "cosine": NUMBER},
    "scale": {"scale": NUMBER, "accuracy": NUMBER},
    "trajectory": {
        **{"text_id": int, "restart": int, "exact": bool, "steps": list, "points": list},
        **{"explained": list, "explained_alone": list},
    },
}
_USE = {"source": str, "text_id": int, "num_tokens": int, "num_memory": int, "exact": bool}
NEEDED["attention"] = _USE | {"mass": NUMBER, "uniform": NUMBER, "heads": list}
for _kind in ("knockout", "use", "context"):
    NEEDED[_kind] = _USE | {"loss_nats": NUMBER, "accuracy": NUMBER}


NAMES = {dict: "an object", list: "a list", int: "a whole number", str: "a text"}
# Entries of the LM in config.json.
LM: dict[str, type] = {"name": str, "sha256": str, "dtype": str}
LM |= {"d_model": int, "vocab_size": int, "parameters": int}


class Place(NamedTuple):
    """File and byte offset of a record's line."""

    path: str
    offset: int


def parsed(line: bytes, where: str) -> Record:
    """Parses a line as a JSON object.

    Raises:
      InputError: it is not a JSON object, or has a number that is not finite.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        record = json.loads(line, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: {error}") from error
    if not isinstance(record, dict):
        raise InputError(f"{where}: wanted an object")
    return record


def check(kind: str, record: Mapping[str, Any]) -> None:
    """Raises an error, for `naming`, if a record lacks a field that its kind needs."""
    for field, wanted in NEEDED.get(kind, {}).items():
        value = record[field]
        is_bool = isinstance(value, bool) and wanted is not bool
        if not isinstance(value, wanted) or is_bool:
            raise TypeError(f"{field} is {value!r}"[:80])
        if field in ("num_memory", "token_steps") and value < 1:
            raise ValueError(f"{field} is {value}")
        if field == "memory" and value not in WAYS:
            raise ValueError(f"memory is {value!r}")


@contextlib.contextmanager
def naming(place: Place) -> Iterator[None]:
    """Context that turns errors about a record into an `InputError` with its place."""
    try:
        yield
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        where = f"{place.path}, byte {place.offset}"
        raise InputError(f"{where}: no record of memcomp ({error!r})") from error


def read_config(path: str) -> dict[str, Any]:
    """Reads config.json of a run.

    Raises:
      InputError: it is not of a run of memcomp.
    """
    try:
        with open(path, "rb") as file:
            about = json.loads(file.read())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not of a run of memcomp ({error!r})") from error
    if not isinstance(about, dict) or not isinstance(about.get("config"), dict):
        raise InputError(f"{path} is not of a run of memcomp; it has no config")
    _check_entries(path, about, {"lm": dict, "texts": dict, "devices": list})
    _check_entries(path, about["config"], {"cram": dict})
    return about


def check_lm(path: str, about: Mapping[str, Any]) -> None:
    """Raises `InputError` if config.json does not describe the LM of the run."""
    lm = about.get("lm") or {}
    if missing := sorted(LM.keys() - lm.keys()):
        raise InputError(
            f"{path} is not of a run of memcomp; its lm has no {', '.join(missing)}"
        )
    _check_entries(path, lm, LM)


def _check_entries(
    path: str, entries: Mapping[str, Any], wanted: Mapping[str, type]
) -> None:
    for name, kind in wanted.items():
        value = entries.get(name)
        if value is not None and not isinstance(value, kind):
            raise InputError(
                f"{path} is not of a run of memcomp; its {name} is {value!r}, wanted "
                f"{NAMES[kind]}"
            )


def lines(path: str) -> Iterator[tuple[Place, Record]]:
    """Yields records of a file that may still grow; an incomplete last line is ignored.

    Raises:
      InputError: the file cannot be read, or a line is not a JSON object.
    """
    offset = 0
    try:
        with open(path, "rb", buffering=1 << 20) as file:  # lines are longer than 8 KiB
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    return
                if line.strip():
                    yield Place(path, offset), parsed(line, f"{path}, line {number}")
                offset += len(line)
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
