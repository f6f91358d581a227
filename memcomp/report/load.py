"""Reads run folders line by line into the few columns that a report needs."""

import collections
import dataclasses
import functools
import itertools
import json
import math
import os
import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from memcomp.cram.recipe import RECIPES
from memcomp.cram.ways.table import WAYS
from memcomp.disk import local_path, walk
from memcomp.errors import InputError
from memcomp.report.corpora import corpus_of, labels, last_part
from memcomp.report.published import PublishedModel, lm_name, published_model
from memcomp.report.records import (
    Place,
    check,
    check_lm,
    lines,
    naming,
    read_config,
)
from memcomp.runs.files import CONFIG, RECORDS, Record
from memcomp.runs.growth import GROWTH

STUDIES = ("geometry.jsonl", "use.jsonl")  # files whose records have a `kind`
HORIZONS = "horizons.jsonl"
READ = frozenset({RECORDS, HORIZONS, GROWTH, *STUDIES})  # the files with records
# Fields that are kept of each record, as float64; NaN for None in an OPTIONAL one.
COLUMNS = (
    "text_id",
    "num_tokens",
    "num_parameters",
    "accuracy",
    "exact_teacher_forced",
    "exact_greedy",
    "exact_greedy_bfloat16",
    "steps",
    "loss_nats",
    "baseline_loss_nats",
    "baseline_accuracy",
    "information_gain_nats",
    "token_gain",
    "num_bytes",
)
OPTIONAL = ("loss_nats", "num_bytes")


class Key(NamedTuple):
    """Fields that records must share to be averaged."""

    protocol: str
    lm: str
    revision: str
    dtype: str
    recipe: str
    source: str
    num_memory: int


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """All records of one key, from any number of run folders.

    Attributes:
      key: fields that the records share.
      about: the LM's entry of config.json.
      hardware: devices of the runs.
      columns: an array for each name of COLUMNS.
      places: file and offset of each record.
    """

    key: Key
    about: dict[str, Any]
    hardware: str
    columns: dict[str, np.ndarray]
    places: list[Place]

    @functools.cached_property
    def texts(self) -> np.ndarray:
        """`text_id` of each record; a text can have records at many lengths."""
        return self.columns["text_id"].astype(np.int64)

    @property
    def published(self) -> PublishedModel | None:
        """The model of the paper that this LM is; None if it is none."""
        return published_model(self.key.lm)

    @property
    def label(self) -> str:
        """Name of the LM in figures."""
        return lm_name(self.key.lm)


@dataclasses.dataclass(frozen=True, eq=False)
class Runs:
    """All records of the runs, in the form that a report needs.

    Attributes:
      groups: groups of cramming records, ordered by key.
      compression: records of classical compression, with the LM's name as `lm`.
      studies: records of the files in STUDIES by kind, each with the LM's name as `lm` and
        that of the run's texts as `texts`; an empty list for a kind without records.
      horizons: records of horizons.jsonl, with their `key` and `hardware`.
      growth: lines of growth.jsonl, the same.
      configs: config.json of each folder.
      passed_over: folders with runs that no table or figure uses.
    """

    groups: list[Group]
    compression: list[Record]
    studies: collections.defaultdict[str, list[Record]]
    horizons: list[Record]
    growth: list[Record]
    configs: dict[str, Any]
    passed_over: list[str]


def find_runs(folders: Iterable[str | os.PathLike]) -> list[str]:
    """Finds the folders at or below `folders` that hold a run, in order, each once.

    Raises:
      InputError: a folder does not exist, or none holds a run.
    """
    found = {}
    for name in folders:
        top = local_path(name)
        if not os.fspath(name) or not os.path.isdir(top):
            raise InputError(f"{top} is no folder; give folders of runs")
        for folder, files in walk(top):
            if CONFIG in files and READ & set(files):
                found.setdefault(os.path.realpath(folder), str(folder))
    if not found:
        raise InputError(
            f"there is no run (a folder with {CONFIG} and {RECORDS}) in "
            f"{', '.join(map(str, folders)) or 'no folder'}; make one with "
            "experiments/cram.py or experiments/capacity.py"
        )
    return list(found.values())


def read_runs(folders: Iterable[str | os.PathLike]) -> Runs:
    """Reads all runs below `folders`; nothing there is changed.

    Raises:
      InputError: there is no run that a report uses, or a line is not a record of one.
    """
    building: dict[Key, _Building] = {}
    runs = Runs([], [], collections.defaultdict(list), [], [], {}, [])
    found = {path: read_config(os.path.join(path, CONFIG)) for path in find_runs(folders)}
    corpora = {folder: corpus_of(about) for folder, about in found.items()}
    names = labels(corpora.values())
    for folder, about in found.items():
        if _is_other_kind(folder):
            runs.passed_over.append(folder)
            continue
        runs.configs[folder] = about
        check_lm(folder, about)
        _read_run(folder, _Keys(about, names[corpora[folder]]), building, runs)
    if not runs.configs:
        raise InputError(
            f"{', '.join(runs.passed_over)}: runs of other kinds than a report is made of, "
            "which are cramming, horizons, compression, geometry and use"
        )
    runs.groups.extend(building[key].group(key) for key in sorted(building))
    return runs


def _is_other_kind(folder: str) -> bool:
    """Whether results.jsonl has records that no table or figure uses."""
    _, first = next(lines(os.path.join(folder, RECORDS)), (None, None))
    if first is None:
        return False
    return "protocol" not in first and first.get("kind") != "compression"


def _read_run(
    folder: str, keys: "_Keys", building: dict[Key, "_Building"], runs: Runs
) -> None:
    """Adds the records of one folder."""
    for place, record in lines(os.path.join(folder, RECORDS)):
        with naming(place):
            if record.get("kind") == "compression":
                check("compression", record)
                more = {"lm": keys.lm, "source": keys.told_apart(record["source"])}
                runs.compression.append(record | more)
                continue
            check("cramming", record)
            key = keys.of(record)
            building.setdefault(key, _Building()).add(place, record, keys.about)
    studies = [lines(os.path.join(folder, name)) for name in STUDIES]
    for place, record in itertools.chain(*studies):
        with naming(place):
            kind, more = str(record["kind"]), {"lm": keys.lm, "texts": keys.texts}
            check(kind, record)
            runs.studies[kind].append(record | more)
    for name, kind, found in (
        (HORIZONS, "horizon", runs.horizons),
        (GROWTH, "growth", runs.growth),
    ):
        for place, record in lines(os.path.join(folder, name)):
            with naming(place):
                check(kind, record)
                more = {"key": keys.of(record), "hardware": _hardware(keys.about)}
                found.append(record | more)


def read_records(places: Sequence[Place]) -> list[Record]:
    """Reads the complete records at some places."""
    records = []
    for path, offset in places:
        with open(path, "rb") as file:
            file.seek(offset)
            records.append(json.loads(file.readline()))
    return records


def _hardware(about: Mapping[str, Any]) -> str:
    """Names the devices of a run: "cpu", "4 x NVIDIA H100"."""
    counts = collections.Counter(map(str, about.get("devices") or ["?"]))
    return ", ".join(f"{n} x {name}" if n > 1 else name for name, n in counts.items())


class _Keys:
    """Makes the keys of one run's records, from the records and the run's config."""

    def __init__(self, about: Mapping[str, Any], label: str):
        self.about, self._label = about, label
        self.lm = about["lm"]["name"]
        self._name = corpus_of(about).name
        self.texts = label or "?"
        self._known: dict[tuple, Key] = {}

    def of(self, record: Mapping[str, Any]) -> Key:
        fields = ("protocol", "num_memory", "source", "memory")
        mark = protocol, num_memory, source, way = tuple(record[name] for name in fields)
        if mark not in self._known:
            config, lm = self.about["config"], self.about["lm"]
            cram = config.get("cram") or {}
            recipe = config.get("recipe", cram.get("recipe", "?"))
            self._known[mark] = Key(
                protocol=protocol,
                lm=self.lm,
                revision=_revision(lm),
                dtype=lm["dtype"],
                recipe=recipe_label(recipe, way, cram),
                source=self._label or last_part(source),
                num_memory=num_memory,
            )
        return self._known[mark]

    def told_apart(self, source: str) -> str:
        """Source of a record, with a mark if another corpus has the same name."""
        if self._label == self._name:
            return source
        return self._label if source == self._name else f"{source} [{self._label}]"


def _revision(lm: Mapping[str, Any]) -> str:
    """The LM's revision, a git commit shortened, or the first digits of its SHA-256."""
    if revision := lm.get("revision"):
        full = re.fullmatch("[0-9a-f]{40}", str(revision))
        return str(revision)[:8] if full else str(revision)
    return f"sha256 {lm['sha256'][:8]}"


def recipe_label(
    recipe: Any, way: str, config: Mapping[str, Any] = MappingProxyType({})
) -> str:
    """Name of a recipe, or of the most similar one, with the fields that differ.

    Args:
      recipe: a name, or all fields of a `Recipe`.
      way: the way of writing, which stands first unless it is "vectors".
      config: a config, whose max_steps, patience, margin and ahead override the recipe's.
    """
    changes = {k: config.get(k) for k in ("max_steps", "patience", "margin", "ahead")}
    changes = {k: v for k, v in changes.items() if v is not None}
    if isinstance(recipe, Mapping):
        own = WAYS[way].recipes if way in WAYS else {}
        differences = {
            name: {
                k: v
                for k, v in recipe.items()
                if v != own.get(name, {}).get(k, getattr(known, k, None))
            }
            for name, known in RECIPES.items()
        }
        recipe = min(differences, key=lambda name: len(differences[name]))
        changes = differences[recipe] | changes
    first = [] if way == "vectors" else [way]
    return ", ".join([*first, str(recipe), *(f"{k} {v}" for k, v in changes.items())])


class _Building:
    """A group to which records are added, in eight bytes per number."""

    def __init__(self):
        self._numbers = array("d")  # fields COLUMNS of one record after another
        self._places: list[Place] = []
        self._about: dict[str, Any] = {}
        self._hardware: dict[str, None] = {}

    def add(self, place: Place, record: Record, about: Mapping[str, Any]) -> None:
        self._about = about["lm"]
        self._hardware[_hardware(about)] = None
        absent = {name: math.nan for name in OPTIONAL if record[name] is None}
        self._numbers.extend([(record | absent)[name] for name in COLUMNS])
        self._places.append(place)

    def group(self, key: Key) -> Group:
        table = np.array(self._numbers).reshape(-1, len(COLUMNS))
        columns: dict[str, np.ndarray] = dict(zip(COLUMNS, table.T.copy(), strict=True))
        return Group(key, self._about, ", ".join(self._hardware), columns, self._places)
