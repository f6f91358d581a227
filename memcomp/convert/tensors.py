"""Tensors of files in any format, before they are read."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Tensor(NamedTuple):
    """Tensor of a file that has not been read yet.

    Attributes:
      shape: shape according to the header, which fits the size of the file.
      dtype: dtype as safetensors names it, such as "BF16".
      read: function that reads the array.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]
