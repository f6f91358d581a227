"""The records of a run that several processes write: a part each, merged into one file."""

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
    """What is done, by `seed_id`; the same in every process but for what is measured there.

    A process appends to a file of its own, so that there is nothing to lock: with one
    process the run's file itself, else one under parts/. The first merges the parts when
    a run begins or ends.

    Attributes:
      records: by `seed_id`.
    """

    def __init__(self, path: epath.Path):
        """Reads what earlier starts of the run have left, by however many processes.

        Args:
          path: of the file of records, which all processes see; its folder is there.
        """
        self._path, self._part = path, path
        self.merge()
        if jax.process_count() > 1:
            make_folder(path.parent / PARTS)
            name = f"{path.stem}.{jax.process_index()}{path.suffix}"
            self._part = path.parent / PARTS / name

    def add(self, records: Sequence[Record], owners: Mapping[int, int]) -> None:
        """Adds records, which are on disk in all processes when this returns.

        Args:
          records: the same texts in every process.
          owners: by `seed_id`, the process that writes its record.
        """
        me = jax.process_index()
        append_records(self._part, [r for r in records if owners[r["seed_id"]] == me])
        self.records |= {r["seed_id"]: r for r in records}
        distributed.barrier()

    def drop(self, seed_ids: Collection[int]) -> None:
        """Removes the records of some texts, alike in every process."""
        self.records = {i: r for i, r in self.records.items() if i not in seed_ids}
        if seed_ids and distributed.is_first():
            write_whole(self._path, _lines(self.records.values()))
        distributed.barrier()

    def merge(self) -> None:
        """Makes one file of it and of all parts; reads it in all processes."""
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
        # A kill before the parts are gone leaves lines in both.
        lines = [r for part in [path, *parts] for r in read_records(part)]
        found = _by_seed_id(lines, path)
        records = [found[i] for i in sorted(found)]
        write_whole(path, _lines(records))
        for part in parts:
            part.unlink()
    return _lines(records).encode()


def _by_seed_id(records: Iterable[Record], path: epath.Path) -> dict[int, Record]:
    """Raises `InputError` for a run of a version whose records had no `seed_id`."""
    try:
        return {r["seed_id"]: r for r in records}
    except KeyError as error:
        raise InputError(
            f"{path} has records without {error}, of an older memcomp; give another workdir"
        ) from error


def _lines(records: Iterable[Record]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)
