"""Paths as users write them, and writing of files whole or not at all."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

from etils import epath

from memcomp.errors import InputError


def path_of(name: str | os.PathLike) -> epath.Path:
    """Path of a name that a user gives, with `~` expanded; it may be a gs:// path."""
    return epath.Path(os.path.expanduser(name))


def local_path(name: str | os.PathLike) -> pathlib.Path:
    """Path of a name that a user gives for a file or folder on a local disk."""
    # Path.expanduser would raise for an unknown user; os.path keeps the `~`, as shells do.
    return pathlib.Path(os.path.expanduser(name))


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Context that turns errors of a disk into one sentence with the file or folder.

    Raises:
      InputError: in place of an OSError, such as that of a full or a read-only disk.
    """
    try:
        yield
    except OSError as error:
        raise InputError(unwritable(path, error)) from error


def unwritable(path: str | os.PathLike, error: OSError) -> str:
    """Message for a file or folder that cannot be written."""
    reason = error.strerror or error
    return (
        f"{os.fspath(path)} cannot be written ({reason}); make room there, or give another "
        "folder"
    )


def walk(folder: pathlib.Path) -> Iterator[tuple[pathlib.Path, list[str]]]:
    """Yields folders at and below `folder` in order, each once, with names of their files.

    Links to folders are followed.

    Raises:
      InputError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}") from error

    seen = set()
    for name, below, files in os.walk(folder, followlinks=True, onerror=refuse):
        below.sort()
        if (real := os.path.realpath(name)) in seen:  # links may lead back to a folder
            below.clear()
            continue
        seen.add(real)
        yield pathlib.Path(name), sorted(files)


def find_files(folder: pathlib.Path, suffix: str) -> list[pathlib.Path]:
    """Returns the files at and below a folder with a suffix in any case, sorted by path.

    Raises:
      InputError: a folder cannot be read; or a link that may be to such a file, or to a
        folder of them, leads nowhere.
    """
    found = []
    for where, names in walk(folder):
        for path in (where / name for name in names):
            if path.is_symlink() and not path.exists() and path.suffix in (suffix, ""):
                raise InputError(
                    f"{path} is a link to {os.readlink(path)}, which is not there; remove "
                    "the link, or put there what it leads to"
                )
            if path.suffix.lower() == suffix and path.is_file():
                found.append(path)
    return sorted(found)


def make_folder(path: epath.Path) -> None:
    """Makes a folder and its parents if they do not exist.

    Raises:
      InputError: the folder cannot be made.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def write_whole(path: epath.Path, data: str | bytes) -> None:
    """Writes a file such that it exists whole or not at all, even if the process is killed.

    Raises:
      InputError: the file cannot be written; an existing one stays as it is.
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
