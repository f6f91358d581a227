"""One tensor of a file, in whatever format the file is."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Tensor(NamedTuple):
    """One tensor of a file, not yet read.

    Attributes:
      shape: as the header says; it fits the size of the file.
      dtype: the word of safetensors, such as "BF16".
      read: gives the array.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]
