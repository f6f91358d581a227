"""Header of a GGUF file: its metadata and its tensors, checked against the file's size.

A wrong header can neither make the reader read past the end of the file, nor allocate more
than the size of the file.

Source: the description of the format, docs/gguf.md of github.com/ggml-org/ggml.
"""

import math
import mmap
import pathlib
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

from memcomp.errors import InputError

MAGIC = b"GGUF"
VERSIONS = (2, 3)  # version 1 is not supported; its lengths have 32 bits
# Type number of a metadata value -> letter of `struct`.
SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
STRING, ARRAY = 8, 9
ALIGNMENT = "general.alignment"
MAX_DIMENSIONS = 4


class StoredTensor(NamedTuple):
    """Entry of a tensor in the header.

    Attributes:
      shape: shape with the fastest axis last, as in numpy.
      kind: type number of its values in the file.
      offset: offset in bytes from the end of the header.
    """

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


class Header(NamedTuple):
    """Header of a GGUF file.

    Attributes:
      metadata: values by key; arrays of strings are replaced by their length.
      tensors: entries of all tensors, in the order of the file.
      start: offset in bytes at which the values of tensors begin.
      file_size: size of the file in bytes.
    """

    metadata: dict[str, Any]
    tensors: tuple[StoredTensor, ...]
    start: int
    file_size: int


def read_header(path: pathlib.Path) -> Header:
    """Reads the header of a GGUF file.

    Raises:
      InputError: the file does not exist, is not GGUF or of an unknown version, or its
        header is cut off or damaged.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise InputError(f"{path} is not a GGUF file; give a file NAME.gguf")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Reader(data).header()
    except _Damaged as error:
        raise InputError(
            f"{path} is cut off or damaged ({error}); get the file again"
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error}); give a GGUF file") from error


def check_tensors(
    path: pathlib.Path, header: Header, sizes: Mapping[int, tuple[int, int]]
) -> int:
    """Checks that all tensors are in the file; returns how many bytes they take.

    Args:
      path: path of the file, for messages.
      header: header of the file.
      sizes: for each type number, the number of values in a block and its bytes.

    Raises:
      InputError: a tensor is not completely in the file, or its type is unknown.
    """
    total = 0
    for tensor in header.tensors:
        if tensor.kind not in sizes:
            raise InputError(
                f"{path}: {tensor.name} is of type {tensor.kind}, which the installed gguf "
                "does not know; install a newer one"
            )
        block, num_bytes = sizes[tensor.kind]
        count = math.prod(tensor.shape)
        if tensor.shape[-1] % block:
            raise InputError(
                f"{path} is damaged ({tensor.name} is {tensor.shape[-1]} wide, in blocks "
                f"of {block}); get the file again"
            )
        end = header.start + tensor.offset + count // block * num_bytes
        if end > header.file_size:
            raise InputError(
                f"{path} is cut off or damaged ({tensor.name} ends at byte {end} of "
                f"{header.file_size}); get the file again"
            )
        total += count // block * num_bytes
    if total > header.file_size:
        raise InputError(f"{path} is damaged (tensors overlap); get the file again")
    return total


class _Damaged(Exception):
    pass


class _Reader:
    """Reader of a file from its beginning, which never reads past its end."""

    def __init__(self, data: mmap.mmap):
        self._data = data
        self._at = len(MAGIC)

    def header(self) -> Header:
        version = self._number("I")
        if version not in VERSIONS:
            known = " and ".join(map(str, VERSIONS))
            raise _Damaged(f"it is of version {version}, and {known} are known")
        num_tensors, num_keys = self._number("Q"), self._number("Q")
        metadata: dict[str, Any] = {}
        for _ in range(num_keys):
            key = self._string()
            if key in metadata:
                raise _Damaged(f"{key} is there twice")
            metadata[key] = self._value(self._number("I"))
        tensors = tuple(self._tensor() for _ in range(num_tensors))
        if len({tensor.name for tensor in tensors}) < num_tensors:
            raise _Damaged("two tensors have the same name")
        alignment = metadata.get(ALIGNMENT, 32)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            raise _Damaged(f"{ALIGNMENT} is {alignment!r}, which is no power of two")
        start = -(-self._at // alignment) * alignment
        return Header(metadata, tensors, start, len(self._data))

    def _take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise _Damaged(f"its header goes on after its last byte {len(self._data)}")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def _numbers(self, letter: str, count: int) -> tuple[Any, ...]:
        size = struct.calcsize(f"<{letter}")
        taken = self._take(count * size)
        return struct.unpack(f"<{count}{letter}", taken)

    def _number(self, letter: str) -> Any:
        return self._numbers(letter, 1)[0]

    def _string(self) -> str:
        try:
            return self._take(self._number("Q")).decode()
        except UnicodeDecodeError as error:
            raise _Damaged("a name or text in its header is not UTF-8") from error

    def _value(self, kind: int) -> Any:
        if kind in SCALARS:
            return self._number(SCALARS[kind])
        if kind == STRING:
            return self._string()
        if kind != ARRAY:
            raise _Damaged(f"its metadata has a value of type {kind}")
        kind, count = self._number("I"), self._number("Q")
        if kind in SCALARS:
            return self._numbers(SCALARS[kind], count)
        if kind != STRING:
            raise _Damaged(f"its metadata has an array of type {kind}")
        for _ in range(count):
            self._take(self._number("Q"))
        return count

    def _tensor(self) -> StoredTensor:
        name, num_dimensions = self._string(), self._number("I")
        if not 1 <= num_dimensions <= MAX_DIMENSIONS:
            raise _Damaged(f"{name} has {num_dimensions} axes")
        shape = self._numbers("Q", num_dimensions)[::-1]
        return StoredTensor(name, shape, self._number("I"), self._number("Q"))
