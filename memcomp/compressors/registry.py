"""Makes, saves and loads context compressors by name."""

import dataclasses
import hashlib
import os
import pathlib
import typing
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import numpy as np

from memcomp.compressors import files
from memcomp.compressors.compress import TrainedCompressor, check_lm
from memcomp.compressors.gradmem import GradMem, GradMemConfig
from memcomp.compressors.icae import ICAE, ICAEConfig
from memcomp.compressors.icformer.checkpoint_file import BESIDE, load_published
from memcomp.compressors.icformer.config import ICFormerConfig
from memcomp.compressors.icformer.model import ICFormer
from memcomp.compressors.layout import SPECIAL
from memcomp.compressors.objectives import Task
from memcomp.compressors.pooling import Pooling, PoolingConfig
from memcomp.compressors.protocol import Compressor
from memcomp.compressors.training import init_params
from memcomp.disk import path_of
from memcomp.errors import InputError
from memcomp.lm.protocol import CausalLM, LanguageModel
from memcomp.ranges import check_choice
from memcomp.sharding import fetch

FORMAT = "memcomp-compressor-1"
COMPRESSOR = "compressor.safetensors"  # name of the file in the folder of a run
COMPRESSORS: dict[str, tuple[Any, Any]] = {
    "icformer": (ICFormer, ICFormerConfig),
    "icae": (ICAE, ICAEConfig),
    "pooling": (Pooling, PoolingConfig),
    "gradmem": (GradMem, GradMemConfig),
}


def make_compressor(kind: str, lm_module: CausalLM, entries: dict[str, Any]) -> Compressor:
    """Makes a compressor without weights.

    Args:
      kind: a key of `COMPRESSORS`.
      lm_module: Flax module of the language model that it is for.
      entries: fields of its config.

    Raises:
      InputError: there is no such kind, or an entry does not fit its config.
    """
    check_choice("compressor", kind, COMPRESSORS)
    compressor, config = COMPRESSORS[kind]
    _check_entries(config, entries)
    return compressor(lm_module, config(**entries))


def _check_entries(config: Any, entries: dict[str, Any]) -> None:
    """Raises `InputError` for an entry that the config lacks or has with another type."""
    wanted = typing.get_type_hints(config)
    for name, value in entries.items():
        if name not in wanted:
            raise InputError(
                f"{config.__name__} has no field {name!r}; its fields are "
                f"{', '.join(wanted)}"
            )
        kinds = set(typing.get_args(wanted[name]) or [wanted[name]])
        kinds |= {int} if float in kinds else set()
        if type(value) not in kinds:
            raise InputError(
                f"{name} of {config.__name__} is {value!r}; give "
                f"{' or '.join(sorted(kind.__name__ for kind in kinds))}"
            )


def save_compressor(path: str | os.PathLike, trained: TrainedCompressor) -> None:
    """Writes a safetensors file that says which LM it is for; see `load_compressor`.

    It has the weights in float32, and what is needed to make the network again. All
    processes must call it; the first one writes.
    """
    made: Any = trained.compressor
    flat = flax.traverse_util.flatten_dict(fetch(trained.params), sep="/")
    tensors = {name: value.astype(np.float32) for name, value in flat.items()}
    metadata = {"kind": kind_of(made), "config": dataclasses.asdict(made.config)}
    files.write(path, tensors, FORMAT, metadata, trained)


def kind_of(compressor: Compressor) -> str:
    """Returns the compressor's key in `COMPRESSORS`."""
    kinds = COMPRESSORS.items()
    return next(name for name, (type_, _) in kinds if isinstance(compressor, type_))


def load_compressor(path: str | os.PathLike, lm: LanguageModel) -> TrainedCompressor:
    """Loads a trained compressor from a file that `save_compressor` wrote.

    Raises:
      InputError: the file is not such a file, is damaged, was trained with another LM, or
        has weights that do not fit its config.
    """
    tensors, metadata = files.read(path, FORMAT, "save_compressor")
    kind, config = metadata.get("kind"), metadata.get("config")
    if not isinstance(kind, str) or not isinstance(config, dict):
        raise InputError(
            f"{path} does not say what it holds (a kind {kind!r} with the config "
            f"{config!r}); it is damaged, make it again"
        )
    try:
        made = make_compressor(kind, lm.module, config)
    except InputError as error:
        raise InputError(f"{path} cannot be used: {error}") from error
    params = flax.traverse_util.unflatten_dict(tensors, sep="/")
    lm_name, fingerprint = metadata["lm_name"], metadata["lm_fingerprint"]
    trained = TrainedCompressor(made, params, lm_name, fingerprint)
    check_lm(f"{path} was trained", trained, lm)
    _check_shapes(path, tensors, Task(lm.module, made))
    return trained


def _check_shapes(path: Any, tensors: dict[str, np.ndarray], task: Task) -> None:
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


def load_trained(name: str, lm: LanguageModel) -> TrainedCompressor:
    """Loads a compressor that memcomp or the authors of IC-Former have saved.

    If the authors' files lack AE or FT, it is 0.

    Args:
      name: folder of a run, file of a compressor, or folder of the authors' files.
      lm: the language model.

    Raises:
      InputError: there is no compressor, or it is for another LM.
    """
    path = path_of(name)
    if path.is_dir() and (path / BESIDE).exists():
        compressor, params = load_published(pathlib.Path(path), lm.module)
        zeros = {name: np.zeros(lm.config.d_model, np.float32) for name in SPECIAL}
        return TrainedCompressor(compressor, zeros | params, lm.name, lm.fingerprint)
    return load_compressor(path / COMPRESSOR if path.is_dir() else path, lm)


def load_alike(name: str, lm: LanguageModel, wanted: Compressor) -> TrainedCompressor:
    """Calls `load_trained` for a compressor of the kind and the sizes of `wanted`.

    Raises:
      InputError: there is no compressor, or it is for another LM or of other sizes.
    """
    trained, config = load_trained(name, lm), typing.cast(Any, wanted).config
    if _written_out(trained.compressor) != _written_out(wanted):
        raise InputError(
            f"{name} holds a compressor with {trained.compressor.config}, but the "
            f"config says {config}; give the same --config.compressor and sizes"
        )
    return trained


def _written_out(compressor: Any) -> tuple[type, Any]:
    """Returns its type and config, with all sizes that the config takes from the LM."""
    config = compressor.config
    if isinstance(config, ICFormerConfig):
        sizes = config.sizes(compressor.lm_module.config)._asdict()
        del sizes["d_model"]
        # The initialisation of the digests does not matter after training, and the
        # authors' files do not say it.
        config = dataclasses.replace(config, **sizes, digest_init="zeros")
    return type(compressor), config


def trained_sha256(names: Sequence[str]) -> str | None:
    """SHA-256 of the files that `load_trained` reads for all names; None for no name."""
    digest = hashlib.sha256()
    for path in map(path_of, names):
        if not path.is_dir():
            read = [path]
        elif (path / BESIDE).exists():
            read = sorted(file for file in path.iterdir() if file.is_file())
        else:
            read = [path / COMPRESSOR]
        for file in read:
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest() if names else None
