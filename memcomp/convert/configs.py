"""What config.json may say, whatever the family: checked before anything is made of it."""

import dataclasses
import math
import types
import typing
from typing import Any

from memcomp.errors import InputError

# transformers makes lists as long as these say, while it reads the config.
COUNTS = ("num_hidden_layers", "num_layers", "n_layer", "num_labels", "attention_types")
# Rotary settings, which transformers takes as they are: "4" and true are no numbers.
NUMBERS = ("rope_theta", "rotary_emb_base", "rotary_pct", "partial_rotary_factor")
NUMBERS += ("factor", "low_freq_factor", "high_freq_factor", "rope_local_base_freq")
LARGEST = 2**31
# Entries that transformers heeds in every family, with the value that memcomp computes.
COMPUTED = {"is_causal": True, "per_layer_config": None, "configuration_files": None}


def check_entries(entries: Any, most: int, name: str = "") -> None:
    """Refuses config.json if it asks for what memcomp does not compute.

    That is another model, too many layers, or angles in words.

    Args:
      entries: config.json, or a value in it.
      most: how many tensors the files have.
      name: key of `entries` where it is a value.

    Raises:
      InputError: by name.
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
    """Refuses values of one of our configs that no model can have.

    Every field has the type that its class says; integers are from `least` to 2**31,
    and floats are finite and above 0.

    Raises:
      InputError: by name.
    """
    for field in dataclasses.fields(config):
        value, hint = getattr(config, field.name), field.type
        if dataclasses.is_dataclass(value):
            check_values(value, least=0)  # where 0 stands for a setting that is not used
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
