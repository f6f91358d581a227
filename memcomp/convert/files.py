"""Checkpoints on disk: one file or shards with an index, hashed as they are read.

Folders of any origin are safe to read: they give arrays or an `InputError`. Nothing in them
is run, and no array is made before its size is checked against the bytes in the file.
"""

import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes  # noqa: F401  registers bfloat16 in numpy
import numpy as np
import safetensors
import safetensors.numpy

from memcomp.convert.engine import Tensor
from memcomp.convert.pickled import open_pickle
from memcomp.disk import local_path, writing
from memcomp.errors import InputError

SINGLE = "model.safetensors"
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
MAX_JSON_BYTES = 2**26  # 64 MB; indexes of the largest models have 1 or 2 MB
CHUNK = 2**24  # number of values that are checked at once


class Checkpoint:
    """Tensors of a Hugging Face folder, read one at a time (see `engine.Tensors`).

    Files are memory-mapped, so that memory holds only the tensor that is read. Safetensors
    are preferred to pytorch_model.bin, and a single file to shards. The index of the shards
    says in which shard each tensor is.

    Raises:
      InputError: the folder has no checkpoint, a shard is missing or outside the folder, or
        the index is wrong or a file damaged; on reading, the dtype is no float, or values
        are not finite.
    """

    def __init__(self, folder: pathlib.Path):
        self._digests: dict[str, str] = {}
        self._tensors = _open(folder)
        for name, (path, _) in self._tensors.items():
            if not name.isprintable():
                raise InputError(f"{path} has a tensor of the name {name!r}; get it again")

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of every tensor by its name."""
        return {name: tensor.shape for name, (_, tensor) in self._tensors.items()}

    def read(self, name: str) -> np.ndarray:
        """Reads one tensor, in the dtype of the file."""
        tensor, self._digests[name] = self._hashed(name)
        return tensor

    def same(self, first: str, second: str) -> bool:
        """Whether two tensors are equal bit by bit; memory holds one of them at a time."""
        return self._hashed(first)[1] == self._hashed(second)[1]

    def _hashed(self, name: str) -> tuple[np.ndarray, str]:
        """Reads a tensor; returns it with its dtype, shape and SHA-256."""
        path, (shape, dtype, read) = self._tensors[name]
        if dtype not in DTYPES:
            raise InputError(
                f"{path}: {name} is {dtype}; weights must be one of {', '.join(DTYPES)}"
            )
        tensor = read()
        flat = np.ascontiguousarray(tensor).reshape(-1)
        # Chunks keep the masks of `isfinite` small.
        chunks = (flat[i : i + CHUNK] for i in range(0, flat.size, CHUNK))
        if not all(np.isfinite(chunk).all() for chunk in chunks):
            raise InputError(
                f"{path}: {name} has values that are not finite; get the file again"
            )
        digest = hashlib.sha256(flat.view(np.uint8).data)
        return tensor, f"{dtype} {list(shape)} {digest.hexdigest()}"

    @property
    def digests(self) -> Mapping[str, str]:
        """Dtype, shape and SHA-256 of the bytes of every tensor read so far, by its name.

        They do not depend on the order of reading, on shards, or on the file's format.
        """
        return self._digests


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Reads the JSON object in a file.

    Raises:
      InputError: the file is not a JSON object, is nested too deeply, or exceeds 64 MB.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError("more than 64 MB")
        entries = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(entries, dict):
            raise ValueError(f"a {type(entries).__name__}")
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"{path} is not a JSON object: {error}") from error
    return entries


def open_safetensors(path: pathlib.Path) -> dict[str, Tensor]:
    """Opens the tensors of a safetensors file by name, memory-mapped.

    Raises:
      InputError: the header is incomplete, names a tensor twice, or does not fit the size
        of the file.
    """
    try:
        file = safetensors.safe_open(path, "np")
        _check_names(path)
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        raise InputError(
            f"{path} is not a whole safetensors file ({error}); get it again"
        ) from error
    slices = {name: file.get_slice(name) for name in file.keys()}
    return {
        name: Tensor(
            tuple(s.get_shape()), s.get_dtype(), functools.partial(file.get_tensor, name)
        )
        for name, s in slices.items()
    }


def _check_names(path: pathlib.Path) -> None:
    """Refuses a name that occurs twice, because readers differ in which one they use."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if len(names) != len(set(names)):
            raise ValueError("a name is there twice")
        return dict(pairs)

    with path.open("rb") as file:  # safetensors has checked the length of the header
        header = file.read(int.from_bytes(file.read(8), "little"))
    json.loads(header, object_pairs_hook=once)


# File formats in the order in which they are looked for.
FORMATS: tuple[tuple[str, Callable[[pathlib.Path], dict[str, Tensor]]], ...] = (
    (SINGLE, open_safetensors),
    ("pytorch_model.bin", open_pickle),
)


def _open(folder: pathlib.Path) -> dict[str, tuple[pathlib.Path, Tensor]]:
    """Opens each tensor; returns it with the path of its file."""
    for single, open_file in FORMATS:
        index = folder / f"{single}.index.json"
        if (folder / single).is_file():
            path = _inside(folder, single, folder)
            return {name: (path, tensor) for name, tensor in open_file(path).items()}
        if index.is_file():
            return _open_shards(folder, index, open_file)
    wanted = [name for single, _ in FORMATS for name in (single, f"{single}.index.json")]
    raise InputError(f"{folder} has no weights; wanted one of {', '.join(wanted)}")


def _open_shards(folder, index, open_file) -> dict[str, tuple[pathlib.Path, Tensor]]:
    shard_of = read_json(index).get("weight_map")
    if not isinstance(shard_of, dict) or not shard_of:
        raise InputError(f"{index} is not an index of shards: wanted a weight_map")
    for shard in shard_of.values():
        if not isinstance(shard, str) or not shard or pathlib.PurePath(shard).name != shard:
            raise InputError(f"{index} names {shard!r}, which is not in the folder")
    paths = {shard: _inside(folder, shard, index) for shard in sorted({*shard_of.values()})}
    found = {shard: open_file(path) for shard, path in paths.items()}
    for name, shard in shard_of.items():
        if name not in found[shard]:
            raise InputError(f"{index} says that {shard} has {name!r}, which it has not")
    return {name: (paths[shard], found[shard][name]) for name, shard in shard_of.items()}


def _inside(folder: pathlib.Path, name: str, namer: pathlib.Path) -> pathlib.Path:
    """Returns the path of a regular file, which may be a link within the folder."""
    path, root = folder / name, folder.resolve()
    if root.parent.name == "snapshots":  # the Hub's cache, with links to ../../blobs
        root = root.parent.parent
    if not path.is_file():
        raise InputError(f"{namer} names {name}, which is missing")
    if not path.resolve().is_relative_to(root):
        raise InputError(
            f"{path} is a link to {path.resolve()}, which is not in the folder; "
            "copy it there"
        )
    return path


def save_checkpoint(
    folder: pathlib.Path,
    tensors: Mapping[str, np.ndarray],
    config: Mapping[str, object],
) -> None:
    """Writes model.safetensors and config.json, for `Checkpoint` and transformers."""
    folder = local_path(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / SINGLE
        try:
            safetensors.numpy.save_file(dict(tensors), file, metadata={"format": "pt"})
        except safetensors.SafetensorError as error:  # safetensors raises it for OSError
            raise OSError(str(error)) from error
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
