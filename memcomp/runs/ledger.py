"""Records of a run that several processes write: one part each, merged into one file."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence

import jax
from etils import epath

from memcomp import distributed
from memcomp.disk import make_folder
from memcomp.errors import InputError
from memcomp.runs.files import Record, append_records, read_records, write_whole

PARTS = "parts"


class Ledger:
    """Records of finished texts, known to every process.

    They are the same in every process, except for fields that each process measures.
    Each process appends to its own file, so that no lock is needed: one process appends to
    the run's file itself, several to files under parts/. The first process merges the
    parts when a run begins and when it ends.

    Attributes:
      records: the records by `seed_id`.
    """

    def __init__(self, path: epath.Path):
        """Reads the records of earlier starts of the run, by any number of processes.

        Args:
          path: file of records, in an existing folder that all processes can read.
        """
        self._path, self._part = path, path
        self.merge()
        if jax.process_count() > 1:
            make_folder(path.parent / PARTS)
            name = f"{path.stem}.{jax.process_index()}{path.suffix}"
            self._part = path.parent / PARTS / name

    def add(self, records: Sequence[Record], owners: Mapping[int, int]) -> None:
        """Adds records; when this returns, all processes have theirs on disk.

        Args:
          records: records of the same texts in every process.
          owners: process that writes the record, by `seed_id`.
        """
        me = jax.process_index()
        append_records(self._part, [r for r in records if owners[r["seed_id"]] == me])
        self.records |= {r["seed_id"]: r for r in records}
        distributed.barrier()

    def drop(self, seed_ids: Collection[int]) -> None:
        """Removes the records of some texts; every process must give the same."""
        self.records = {i: r for i, r in self.records.items() if i not in seed_ids}
        if seed_ids and distributed.is_first():
            write_whole(self._path, _lines(self.records.values()))
        distributed.barrier()

    def merge(self) -> None:
        """Merges the parts into the run's file, and reads it in all processes."""
        distributed.barrier()
        lines = _merged(self._path) if distributed.is_first() else b""
        lines = distributed.from_first(lines)
        found = [json.loads(line) for line in lines.splitlines()]
        self.records = _by_seed_id(found, self._path)


def _merged(path: epath.Path) -> bytes:
    records = read_records(path)
    folder = path.parent / PARTS
    parts = sorted(folder.glob(f"{path.stem}.*{path.suffix}")) if folder.exists() else []
    if parts:
        # A kill before the parts are removed leaves the same records in both.
        lines = [r for part in [path, *parts] for r in read_records(part)]
        found = _by_seed_id(lines, path)
        records = [found[i] for i in sorted(found)]
        write_whole(path, _lines(records))
        for part in parts:
            part.unlink()
    return _lines(records).encode()


def _by_seed_id(records: Iterable[Record], path: epath.Path) -> dict[int, Record]:
    """Orders by `seed_id`; raises `InputError` for an old run whose records have none."""
    try:
        return {r["seed_id"]: r for r in records}
    except KeyError as error:
        raise InputError(
            f"{path} has records without {error}, of an older memcomp; give another workdir"
        ) from error


def _lines(records: Iterable[Record]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)
