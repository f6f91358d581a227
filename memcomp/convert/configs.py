"""Checks of config.json for all families, before anything is made from it."""

import dataclasses
import math
import types
import typing
from typing import Any

from memcomp.errors import InputError

# Entries that give the length of lists, which transformers makes while it reads the config.
COUNTS = ("num_hidden_layers", "num_layers", "n_layer", "num_labels", "attention_types")
# Rotary settings, which transformers does not check; "4" and true are no numbers.
NUMBERS = ("rope_theta", "rotary_emb_base", "rotary_pct", "partial_rotary_factor")
NUMBERS += ("factor", "low_freq_factor", "high_freq_factor", "rope_local_base_freq")
LARGEST = 2**31
# Entries that transformers obeys in every family, with the value that memcomp supports.
COMPUTED = {"is_causal": True, "per_layer_config": None, "configuration_files": None}


def check_entries(entries: Any, most: int, name: str = "") -> None:
    """Checks that config.json asks for nothing that memcomp does not compute.

    That is another model, more layers than tensors, or rotary settings that are no numbers.

    Args:
      entries: config.json, or a value in it.
      most: number of tensors in the files.
      name: key of `entries`, if it is a value.

    Raises:
      InputError: an entry is refused; the message names it.
    """
    if name in COMPUTED and entries != COMPUTED[name]:
        raise InputError(
            f"{name} is {entries!r}; wanted {COMPUTED[name]!r}, or no such entry"
        )
    if isinstance(entries, dict):
        for key, value in entries.items():
            check_entries(value, most, key)
    elif isinstance(entries, list):
        for value in entries:
            check_entries(value, most, name)
    elif name in COUNTS and isinstance(entries, int) and entries > most:
        raise InputError(f"{name} {entries} is more than the {most} tensors of the files")
    elif name in NUMBERS and type(entries) not in (int, float, type(None)):
        raise InputError(f"{name} is {entries!r}; wanted a number")


def check_values(config: Any, least: int = 1) -> None:
    """Checks that a model can have the values of one of our configs.

    Every field must have the type that its class declares. Integers must be from `least` to
    2**31, and floats finite and above 0.

    Raises:
      InputError: a value is refused; the message names its field.
    """
    for field in dataclasses.fields(config):
        value, hint = getattr(config, field.name), field.type
        if dataclasses.is_dataclass(value):
            check_values(value, least=0)  # there 0 stands for a setting that is not used
            continue
        union = isinstance(hint, types.UnionType)
        kinds = typing.get_args(hint) if union else (typing.get_origin(hint) or hint,)
        number = type(value) in (int, float)
        if type(value) not in kinds and not (number and float in kinds):
            raise InputError(f"{field.name} is {value!r}; wanted {hint}")
        for part in value if isinstance(value, tuple) else (value,):
            _check_number(field.name, part, least)


def _check_number(name: str, value: Any, least: int) -> None:
    if type(value) is int and not least <= value <= LARGEST:
        raise InputError(f"{name} is {value}; wanted {least} to {LARGEST}")
    if type(value) is float and not 0 < value < math.inf:
        raise InputError(f"{name} is {value}; wanted a positive number")
