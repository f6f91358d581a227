"""The context compressors by name, and their files."""

import os
import typing
from typing import Any

from memcomp.compressors import files
from memcomp.compressors.compress import TrainedCompressor
from memcomp.compressors.icae.config import ICAEConfig
from memcomp.compressors.icae.model import ICAE
from memcomp.compressors.icformer.config import ICFormerConfig
from memcomp.compressors.icformer.model import ICFormer
from memcomp.compressors.protocol import Compressor
from memcomp.errors import InputError
from memcomp.lm.protocol import CausalLM, LanguageModel

COMPRESSORS: dict[str, tuple[Any, Any]] = {
    "icformer": (ICFormer, ICFormerConfig),
    "icae": (ICAE, ICAEConfig),
}


def make_compressor(kind: str, lm_module: CausalLM, entries: dict[str, Any]) -> Compressor:
    """A compressor without weights.

    Args:
      kind: a key of `COMPRESSORS`.
      lm_module: of the language model that it is for.
      entries: of its config.

    Raises:
      InputError: no such kind, or an entry that its config does not have.
    """
    if kind not in COMPRESSORS:
        raise InputError(f"compressor {kind!r} is not one of {', '.join(COMPRESSORS)}")
    compressor, config = COMPRESSORS[kind]
    _check_entries(config, entries)
    return compressor(lm_module, config(**entries))


def _check_entries(config: Any, entries: dict[str, Any]) -> None:
    """Raises `InputError` for an entry that the config lacks, or of another type."""
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
    """Writes a safetensors file that says which LM it is for; see `load_compressor`."""
    made: Any = trained.compressor
    files.save_compressor(path, trained, kind_of(made), made.config)


def kind_of(compressor: Compressor) -> str:
    """The key of `COMPRESSORS` that makes such a compressor."""
    kinds = COMPRESSORS.items()
    return next(name for name, (type_, _) in kinds if isinstance(compressor, type_))


def load_compressor(path: str | os.PathLike, lm: LanguageModel) -> TrainedCompressor:
    """A trained compressor from a file that `save_compressor` wrote.

    Raises:
      InputError: not such a file, damaged, or trained with another LM than `lm`.
    """
    return files.load_compressor(path, lm, make_compressor)
