"""Reader of pytorch_model.bin by torch, without running any code in the pickle."""

import functools
import importlib
import pathlib
import shlex
import zipfile
from typing import Any

import ml_dtypes
import numpy as np

from memcomp.convert.engine import Tensor
from memcomp.errors import InputError

# Before 2.6, a file could run code despite `weights_only` (CVE-2025-32434).
OLDEST_TORCH = (2, 6)
DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}


def open_pickle(path: pathlib.Path) -> dict[str, Tensor]:
    """Opens the tensors of a `torch.save` file by name, memory-mapped if it is a zip.

    Files of torch before 1.6, which are no zips, are read as a whole.

    Raises:
      InputError: torch is not installed or too old; the file is damaged, compressed, or
        more than a flat dict of tensors.
    """
    torch = _torch(path)
    try:
        zipped = zipfile.is_zipfile(path)
        if zipped:
            _check_zip(path)
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
        _check_tensors(torch, found, path.stat().st_size)
    except Exception as error:  # a damaged file may raise anything in torch or zipfile
        raise InputError(
            f"{path} is damaged or holds more than weights, and what else it holds is "
            "never run; get the file again, or model.safetensors in its place"
        ) from error
    return {name: _tensor(torch, value) for name, value in found.items()}


def _torch(path: pathlib.Path) -> Any:
    try:
        torch: Any = importlib.import_module("torch")  # late: it is optional
    except ImportError as error:
        folder = str(path.parent)
        program = (
            "from transformers import AutoModelForCausalLM as A; "
            f"A.from_pretrained({folder!r}).save_pretrained({folder!r})"
        )
        command = shlex.join(["python", "-c", program])
        raise InputError(
            f"{folder} has weights in {path.name} alone, which takes torch to read: "
            f"install torch, or where it is installed run {command}"
        ) from error
    if tuple(int(n) for n in torch.__version__.split(".")[:2]) < OLDEST_TORCH:
        raise InputError(
            f"torch {torch.__version__} cannot read {path} safely; install 2.6 or newer"
        )
    return torch


def _check_zip(path: pathlib.Path) -> None:
    """Refuses a zip that would take more memory than the file has bytes."""
    with zipfile.ZipFile(path) as file:
        entries = file.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("compressed")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise ValueError("entries overlap")


def _check_tensors(torch: Any, found: Any, file_size: int) -> None:
    kinds = (torch.Tensor, torch.nn.Parameter)
    for name, tensor in found.items():
        if not isinstance(name, str) or type(tensor) not in kinds:
            raise ValueError(f"{name!r} is a {type(tensor).__name__}")
        if tensor.layout is not torch.strided or tensor.device.type != "cpu":
            raise ValueError(f"{name} is {tensor.layout} on {tensor.device}")
    # A stride of zero makes a tensor of any shape from one number, and several tensors may
    # share memory. A head may be tied to the embedding, hence twice the size of the file.
    if sum(tensor.nbytes for tensor in found.values()) > 2 * file_size:
        raise ValueError("tensors have more elements than the file has")


def _tensor(torch: Any, tensor: Any) -> Tensor:
    name = str(tensor.dtype).removeprefix("torch.")
    read = functools.partial(_numpy, torch, tensor.detach())
    return Tensor(tuple(tensor.shape), DTYPES.get(name, name), read)


def _numpy(torch: Any, tensor: Any) -> np.ndarray:
    tensor = tensor.clone(memory_format=torch.contiguous_format)  # not the mapped file
    if tensor.dtype == torch.bfloat16:  # numpy has no such dtype, so the bits are passed
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
