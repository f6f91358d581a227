"""Files of compressors and soft prompts: safetensors that name the LM they are for."""

import dataclasses
import json
import os
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import numpy as np
import safetensors.numpy

from memcomp import distributed
from memcomp.compressors.compress import SoftPrompts, TrainedCompressor, check_lm
from memcomp.compressors.layout import SPECIAL
from memcomp.compressors.objectives import Task
from memcomp.compressors.protocol import Compressor
from memcomp.compressors.training import init_params
from memcomp.disk import path_of, write_whole
from memcomp.errors import InputError
from memcomp.lm.protocol import LanguageModel
from memcomp.sharding import fetch
from memcomp.tensor_files import parse_tensors

COMPRESSOR = "memcomp-compressor-1"
SOFT_PROMPTS = "memcomp-soft-prompts-1"
_ABOUT = "memcomp"  # name of our entry in a file's metadata

# Makes a compressor from its kind, an LM's module and the entries of its config.
Maker = Callable[[str, Any, dict[str, Any]], Compressor]
Tensors = dict[str, np.ndarray]


def save_compressor(
    path: str | os.PathLike, trained: TrainedCompressor, kind: str, config: Any
) -> None:
    """Writes the weights in float32, and what is needed to make the network again.

    All processes must call it; the first one writes.

    Args:
      path: path of the file, which appears whole or not at all.
      trained: the compressor.
      kind: name of the kind of compressor, for the `make` of `load_compressor`.
      config: its frozen config, of numbers and strings.
    """
    flat = flax.traverse_util.flatten_dict(fetch(trained.params), sep="/")
    tensors = {name: value.astype(np.float32) for name, value in flat.items()}
    metadata = {"kind": kind, "config": dataclasses.asdict(config)}
    _write(path, tensors, COMPRESSOR, metadata, trained)


def load_compressor(
    path: str | os.PathLike, lm: LanguageModel, make: Maker
) -> TrainedCompressor:
    """Loads a compressor for `lm` from a file that `save_compressor` wrote.

    Args:
      path: path of the file.
      lm: the language model that it was trained with.
      make: makes the compressor; raises `InputError` for an unknown kind or config.

    Raises:
      InputError: the file is not such a file, of an unknown kind, for another LM, or has
        weights that do not fit its config.
    """
    tensors, metadata = _read(path, COMPRESSOR, "save_compressor")
    kind, config = metadata.get("kind"), metadata.get("config")
    if not isinstance(kind, str) or not isinstance(config, dict):
        raise InputError(
            f"{path} does not say what it holds (a kind {kind!r} with the config "
            f"{config!r}); it is damaged, make it again"
        )
    try:
        made = make(kind, lm.module, config)
    except InputError as error:
        raise InputError(f"{path} cannot be used: {error}") from error
    trained = TrainedCompressor(made, {}, metadata["lm_name"], metadata["lm_fingerprint"])
    check_lm(f"{path} was trained", trained, lm)
    _check_shapes(path, tensors, Task(lm.module, made))
    params = flax.traverse_util.unflatten_dict(tensors, sep="/")
    return dataclasses.replace(trained, params=params)


def _check_shapes(path: str | os.PathLike, tensors: Tensors, task: Task) -> None:
    wanted = nn.unbox(jax.eval_shape(lambda key: init_params(key, task), jax.random.key(0)))
    wanted = flax.traverse_util.flatten_dict(wanted, sep="/")
    shapes = {name: value.shape for name, value in wanted.items()}
    found = {name: value.shape for name, value in tensors.items()}
    differ = [n for n in sorted(shapes.keys() | found) if shapes.get(n) != found.get(n)]
    if differ:
        raise InputError(
            f"{path} does not fit its config: {differ[0]} is {found.get(differ[0])}, "
            f"wanted {shapes.get(differ[0])}; it is damaged, make it again"
        )


def save_soft_prompts(path: str | os.PathLike, prompts: SoftPrompts) -> None:
    """Writes soft prompts; the file appears whole or not at all."""
    tensors = {
        "vectors": prompts.vectors,
        "counts": prompts.counts.astype(np.int32),
        "special": prompts.special,
    }
    _write(path, tensors, SOFT_PROMPTS, {}, prompts)


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
    tensors, metadata = _read(path, SOFT_PROMPTS, "save_soft_prompts")
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


def _write(path, tensors: Tensors, form: str, metadata: dict[str, Any], made) -> None:
    if not distributed.is_first():
        return
    metadata |= {"format": form, "lm_name": made.lm_name}
    metadata["lm_fingerprint"] = made.lm_fingerprint
    # One entry: safetensors writes several in any order, and equal content shall give
    # equal files.
    data = safetensors.numpy.save(tensors, {_ABOUT: json.dumps(metadata)})
    write_whole(path_of(path), data)


def _read(path, form: str, writer: str) -> tuple[Tensors, dict[str, Any]]:
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
