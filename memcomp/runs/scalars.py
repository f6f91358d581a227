"""TensorBoard scalars of a run, in a folder or in a bucket."""

import os
import time

from etils import epath
from tensorboardX import event_file_writer, record_writer, summary
from tensorboardX.proto import event_pb2

from memcomp.disk import writing

BUCKETS = ("gs", "s3")
FLUSH_SECONDS = 120  # a kill loses at most these; in a bucket each flush writes the whole


def scalar_writer(folder: epath.Path, purge_step: int | None = None) -> "ScalarWriter":
    """Returns a writer of TensorBoard events into `folder`.

    Args:
      folder: the folder, which is made if it does not exist.
      purge_step: TensorBoard hides the events of earlier files from this step on.
    """
    return ScalarWriter(folder, purge_step)


class ScalarWriter:
    """Writes scalars in the thread that calls it.

    A full disk then raises an `InputError` in that thread. The thread that tensorboardX
    uses would die instead, and the run would wait for it forever.
    """

    def __init__(self, folder: epath.Path, purge_step: int | None):
        self._folder, self._flushed = folder, time.monotonic()
        with writing(folder):
            record_writer.directory_check(os.fspath(folder))
            path = os.path.join(os.fspath(folder), "events")
            self._events = event_file_writer.EventsWriter(path)
        if purge_step is not None:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(event_pb2.Event(step=purge_step, file_version="brain.Event:2"))
            self._write(event_pb2.Event(step=purge_step, session_log=start))

    def __enter__(self) -> "ScalarWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def add_scalar(self, name: str, value: float | int, step: int) -> None:
        """Adds the value of `name` after a step."""
        said = summary.scalar(name, value)
        self._write(event_pb2.Event(summary=said, step=step, wall_time=time.time()))

    def close(self) -> None:
        """Writes all events that are not on the disk yet."""
        with writing(self._folder):
            self._events.close()

    def _write(self, event: event_pb2.Event) -> None:
        with writing(self._folder):
            self._events.write_event(event)
            if time.monotonic() - self._flushed > FLUSH_SECONDS:
                self._events.flush()
                self._flushed = time.monotonic()


class _Object:
    """A file of events that is written as a whole whenever it is flushed."""

    def __init__(self, path: str):
        self._path, self._data = epath.Path(path), bytearray()

    def write(self, data: bytes) -> None:
        self._data += data

    def flush(self) -> None:
        self._path.write_bytes(bytes(self._data))

    def close(self) -> None:
        self.flush()


class _Bucket:
    """A bucket for tensorboardX, whose own need boto3 or google-cloud-storage."""

    open = staticmethod(_Object)

    @staticmethod
    def directory_check(path: str) -> None:
        """Does nothing, because a bucket has no folders to make."""


for scheme in BUCKETS:
    record_writer.register_writer_factory(scheme, _Bucket)
