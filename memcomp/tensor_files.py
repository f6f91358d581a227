"""Reader of safetensors files that people share, with checks of types and values."""

import json
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from memcomp.errors import InputError

FLOATS = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
}
INTEGERS = {f"I{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)}
DTYPES = {name: np.dtype(dtype) for name, dtype in (FLOATS | INTEGERS).items()}


def parse_tensors(data: bytes, name: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Parses the bytes of the file `name` to tensors and metadata; floats become float32.

    Raises:
      InputError: the file is no safetensors file, or a tensor has another type, is empty,
        or is not finite.
    """
    try:
        found = safetensors.deserialize(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (safetensors.SafetensorError, ValueError, RecursionError) as error:
        raise InputError(f"{name} is not a whole safetensors file ({error})") from error
    tensors = {key: _array(entry, f"{name}: tensor {key!r}") for key, entry in found}
    return tensors, header.get("__metadata__") or {}


def _array(entry: dict[str, Any], what: str) -> np.ndarray:
    if entry["dtype"] not in DTYPES:
        raise InputError(
            f"{what} is of type {entry['dtype']}; wanted one of {', '.join(DTYPES)}"
        )
    flat = np.frombuffer(entry["data"], DTYPES[entry["dtype"]])
    if entry["dtype"] in FLOATS:
        flat = flat.astype(np.float32)
    if not flat.size:
        raise InputError(f"{what} is empty; make the file again")
    if not np.isfinite(flat).all():
        raise InputError(f"{what} has values that are not finite; make the file again")
    return flat.reshape(entry["shape"])
