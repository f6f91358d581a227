"""Paths as users write them, and files that are written whole or not at all."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

from etils import epath

from memcomp.errors import InputError


def path_of(name: str | os.PathLike) -> epath.Path:
    """The path of a name that a user gave: `~` is expanded; it may be a gs:// path."""
    return epath.Path(os.path.expanduser(name))


def local_path(name: str | os.PathLike) -> pathlib.Path:
    """The path of a name that a user gave for what is only ever on a disk."""
    return pathlib.Path(
        os.path.expanduser(name)
    )  # an unknown user's `~` stays, as in a shell


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Turns what a disk refuses within into one sentence that names the file or folder.

    Raises:
      InputError: in place of an OSError, such as for a full or a read-only disk.
    """
    try:
        yield
    except OSError as error:
        raise InputError(unwritable(path, error)) from error


def unwritable(path: str | os.PathLike, error: OSError) -> str:
    """The sentence for a file or folder that a disk did not take."""
    reason = error.strerror or error
    return (
        f"{os.fspath(path)} cannot be written ({reason}); make room there, or give another "
        "folder"
    )


def make_folder(path: epath.Path) -> None:
    """Makes a folder and those above it where they are not there.

    Raises:
      InputError: it cannot be made.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def write_whole(path: epath.Path, data: str | bytes) -> None:
    """Writes a file that is there whole or not at all, whenever the process is killed.

    Raises:
      InputError: it cannot be written; what was there stays.
    """
    partial = path.with_name(path.name + ".partial")
    with writing(path):
        try:
            partial.write_bytes(data.encode() if isinstance(data, str) else data)
            partial.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
