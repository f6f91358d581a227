"""Files of soft prompts and compressors: safetensors that name the LM they are for."""

import json
import os
from typing import Any

import numpy as np
import safetensors.numpy

from memcomp import distributed
from memcomp.compressors.compress import SoftPrompts, TrainedCompressor, check_lm
from memcomp.compressors.layout import SPECIAL
from memcomp.disk import path_of, write_whole
from memcomp.errors import InputError
from memcomp.lm.protocol import LanguageModel
from memcomp.tensor_files import parse_tensors

SOFT_PROMPTS = "memcomp-soft-prompts-1"
_ABOUT = "memcomp"  # name of our entry in a file's metadata

Tensors = dict[str, np.ndarray]


def save_soft_prompts(path: str | os.PathLike, prompts: SoftPrompts) -> None:
    """Writes soft prompts without a cache; the file appears whole or not at all."""
    if prompts.cache is not None:
        raise InputError(
            "soft prompts with a cache have no file; save the memory with save_memory"
        )
    tensors = {
        "vectors": prompts.vectors,
        "counts": prompts.counts.astype(np.int32),
        "special": prompts.special,
    }
    write(path, tensors, SOFT_PROMPTS, {}, prompts)


def load_soft_prompts(
    path: str | os.PathLike, lm: LanguageModel | None = None
) -> SoftPrompts:
    """Loads soft prompts from a file that `save_soft_prompts` wrote.

    Args:
      path: path of the file.
      lm: the LM that they are meant for; None to read them without a check.

    Raises:
      InputError: the file is not such a file, or made for other weights than those of `lm`.
    """
    tensors, metadata = read(path, SOFT_PROMPTS, "save_soft_prompts")
    if not _whole(tensors):
        raise InputError(f"{path} holds no whole soft prompts; it is damaged, make it new")
    # If a user has cast the whole file to another dtype, the counts are floats too.
    tensors["counts"] = tensors["counts"].astype(np.int32)
    prompts = SoftPrompts(
        **tensors,
        lm_name=metadata["lm_name"],
        lm_fingerprint=metadata["lm_fingerprint"],
    )
    if lm is not None:
        check_lm(f"{path} was made", prompts, lm)
    return prompts


def _whole(tensors: Tensors) -> bool:
    """Whether these are the arrays of `SoftPrompts`, in shapes that fit each other."""
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    if set(shapes) != {"vectors", "counts", "special"} or len(shapes["vectors"]) != 3:
        return False
    B, P, D = shapes["vectors"]
    if (shapes["counts"], shapes["special"]) != ((B,), (len(SPECIAL), D)):
        return False
    counts = tensors["counts"]
    whole = counts == np.round(counts)
    return bool(np.all(whole & (counts >= 0) & (counts <= P)))


def write(
    path: str | os.PathLike,
    tensors: Tensors,
    form: str,
    metadata: dict[str, Any],
    made: TrainedCompressor | SoftPrompts,
) -> None:
    """Writes tensors, and metadata with the format `form` and the LM of `made`."""
    if not distributed.is_first():
        return
    metadata |= {"format": form, "lm_name": made.lm_name}
    metadata["lm_fingerprint"] = made.lm_fingerprint
    # One entry: safetensors writes several in any order, and equal content shall give
    # equal files.
    data = safetensors.numpy.save(tensors, {_ABOUT: json.dumps(metadata)})
    write_whole(path_of(path), data)


def read(path: str | os.PathLike, form: str, writer: str) -> tuple[Tensors, dict[str, Any]]:
    """Reads tensors and metadata of a file whose format is `form`.

    Raises:
      InputError: the file is not such a file.
    """
    try:
        data = path_of(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error})") from error
    tensors, about = parse_tensors(data, str(path))
    try:
        metadata = json.loads(about.get(_ABOUT, "{}"))
        found = [metadata.get(name) for name in ("format", "lm_name", "lm_fingerprint")]
    except (ValueError, AttributeError, RecursionError):
        found = [None]
    if found[0] != form:
        raise InputError(f"{path} is of another kind; memcomp.{writer} writes such files")
    if not all(isinstance(value, str) for value in found):
        raise InputError(f"{path} does not say which LM it is for; make it again")
    return tensors, metadata
