"""What config.json may say, whatever the family: checked before anything is made of it."""

import dataclasses
import math
import types
import typing
from typing import Any

from memcomp.errors import InputError

# transformers makes lists as long as these say, while it reads the config.
COUNTS = ("num_hidden_layers", "num_layers", "n_layer", "num_labels", "attention_types")
LARGEST = 2**31


def check_counts(entries: Any, most: int, name: str = "") -> None:
    """Refuses config.json if it asks for more layers or labels than `most`.

    Args:
      entries: config.json, or a value in it.
      most: how many tensors the files have.
      name: key of `entries` where it is a value.

    Raises:
      InputError: by name.
    """
    if isinstance(entries, dict):
        for key, value in entries.items():
            check_counts(value, most, key)
    elif isinstance(entries, list):
        for value in entries:
            check_counts(value, most, name)
    elif name in COUNTS and isinstance(entries, int) and entries > most:
        raise InputError(f"{name} {entries} is more than the {most} tensors of the files")


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
        if type(value) is int and not least <= value <= LARGEST:
            raise InputError(f"{field.name} is {value}; wanted {least} to {LARGEST}")
        if type(value) is float and not 0 < value < math.inf:
            raise InputError(f"{field.name} is {value}; wanted a positive number")
