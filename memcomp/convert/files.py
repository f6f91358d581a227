"""Safetensors checkpoints on disk: one file or shards with an index, hashed as read."""

import hashlib
import json
import pathlib
from collections.abc import Mapping

import ml_dtypes  # noqa: F401  numpy learns the name of bfloat16
import numpy as np
import safetensors
import safetensors.numpy

from memcomp.errors import InputError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}


class Checkpoint:
    """The tensors of a Hugging Face folder, read one at a time (see `engine.Tensors`).

    Files are memory-mapped: what is held is the tensor that was asked for.

    Raises:
      InputError: no safetensors in the folder, a shard that is missing or outside the
        folder, a damaged file; on reading, a dtype that is no float, or values that are
        not finite.
    """

    def __init__(self, folder: pathlib.Path):
        self._digests: dict[str, str] = {}
        self._files = {}
        for path in _paths(folder):
            with _clear_errors(path):
                file = safetensors.safe_open(path, "np")
                self._files.update({name: (path, file) for name in file.keys()})

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of every tensor by its name."""
        return {
            name: tuple(file.get_slice(name).get_shape())
            for name, (_, file) in self._files.items()
        }

    def read(self, name: str) -> np.ndarray:
        """One tensor, in the dtype of the file."""
        path, file = self._files[name]
        dtype = file.get_slice(name).get_dtype()
        if dtype not in DTYPES:
            raise InputError(
                f"{path}: {name} is {dtype}; weights must be one of {', '.join(DTYPES)}"
            )
        with _clear_errors(path):
            tensor = file.get_tensor(name)
        if not np.isfinite(tensor).all():
            raise InputError(
                f"{path}: {name} has values that are not finite; get the file again"
            )
        raw = np.ascontiguousarray(tensor).reshape(-1).view(np.uint8)
        digest = hashlib.sha256(raw.data)
        self._digests[name] = f"{name} {dtype} {list(tensor.shape)} {digest.hexdigest()}"
        return tensor

    def fingerprint(self) -> str:
        """SHA-256 over all tensors that were read: names, dtypes, shapes and bytes.

        It does not depend on the order of reading or on how the file is cut in shards.
        """
        lines = "\n".join(self._digests[name] for name in sorted(self._digests))
        return hashlib.sha256(lines.encode()).hexdigest()


class _clear_errors:
    """Turns what safetensors raises for a damaged file into an `InputError`."""

    def __init__(self, path: pathlib.Path):
        self.path = path

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if isinstance(error, safetensors.SafetensorError | OSError):
            raise InputError(
                f"{self.path} is not a whole safetensors file ({error}); get it again"
            ) from error


def _paths(folder: pathlib.Path) -> list[pathlib.Path]:
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if not (folder / INDEX).is_file():
        if (folder / "pytorch_model.bin").is_file():
            raise InputError(
                f"{folder} has only pytorch_model.bin; convert it with transformers: "
                f"AutoModelForCausalLM.from_pretrained({str(folder)!r})"
                f".save_pretrained({str(folder)!r})"
            )
        raise InputError(f"{folder} has neither {SINGLE} nor {INDEX}")
    try:
        names = set(json.loads((folder / INDEX).read_text())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / INDEX} is not an index of shards: {error}") from error
    if not names:
        raise InputError(f"{folder / INDEX} is not an index of shards: it names none")
    for name in names:
        if not isinstance(name, str) or not name or pathlib.PurePath(name).name != name:
            raise InputError(f"{folder / INDEX} names {name!r}, which is not in the folder")
        if not (folder / name).is_file():
            raise InputError(f"{folder / INDEX} names {name}, which is missing")
    return [folder / name for name in sorted(names)]


def save_checkpoint(
    folder: pathlib.Path,
    tensors: Mapping[str, np.ndarray],
    config: Mapping[str, object],
) -> None:
    """Writes model.safetensors and config.json, for `Checkpoint` and transformers."""
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(dict(tensors), folder / SINGLE, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
