"""Checks of the names, and of the ranges of numbers, that users give."""

import math
import numbers
from collections.abc import Iterable
from typing import Any

import numpy as np

from memcomp.errors import InputError

# Largest values that JAX takes in 32 bits: of a seed, and of a size or number of steps.
MOST_SEED = 2**32 - 1
MOST_COUNT = 2**31 - 1


def check_choice(name: str, value: Any, known: Iterable[str]) -> None:
    """Raises `InputError` unless `value` is one of the known names."""
    names = list(known)
    if value not in names:
        raise InputError(f"{name} {value!r} is not one of {', '.join(names)}")


def check_count(name: str, value: Any, least: int = 1, most: int = MOST_COUNT) -> None:
    """Raises `InputError` unless `value` is a whole number from `least` to `most`."""
    if not isinstance(value, int | np.integer):
        raise InputError(f"{name} is {value!r}; give a whole number")
    if value < least:
        raise InputError(f"{name} is {value}; it must be {least} or more")
    if value > most:
        raise InputError(f"{name} is {value}; it must be {most} or less")


def check_seed(name: str, value: Any) -> None:
    """Raises `InputError` unless `value` can be a seed."""
    check_count(name, value, least=0, most=MOST_SEED)


def check_number(name: str, value: Any, *, above: int | None = None) -> None:
    """Raises `InputError` unless `value` is finite and above `above`; None: 0 or more."""
    if not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise InputError(f"{name} is {value!r}; give a finite number")
    if above is not None and value <= above:
        raise InputError(f"{name} is {value}; it must be above {above}")
    if above is None and value < 0:
        raise InputError(f"{name} is {value}; it must be 0 or more")
