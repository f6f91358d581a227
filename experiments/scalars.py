"""TensorBoard scalars of a run, in a folder or in a bucket."""

import os
from typing import Any

import tensorboardX
from etils import epath
from tensorboardX import record_writer

BUCKETS = ("gs", "s3")


def scalar_writer(folder: epath.Path, **options: Any) -> tensorboardX.SummaryWriter:
    """TensorboardX's writer, with `options` of its own."""
    return tensorboardX.SummaryWriter(os.fspath(folder), **options)


class _Object:
    """A file of events that is written whole whenever it is flushed."""

    def __init__(self, path: str):
        self._path, self._data = epath.Path(path), bytearray()

    def write(self, data: bytes) -> None:
        self._data += data

    def flush(self) -> None:
        self._path.write_bytes(bytes(self._data))

    def close(self) -> None:
        self.flush()


class _Bucket:
    """What tensorboardX asks for; its own need boto3 or google-cloud-storage."""

    open = staticmethod(_Object)

    @staticmethod
    def directory_check(path: str) -> None:
        """A bucket has no folders to make."""


for scheme in BUCKETS:
    record_writer.register_writer_factory(scheme, _Bucket)
