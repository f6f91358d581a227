"""Rounds memory to number formats with fewer bits, and counts the bits."""

import ml_dtypes
import numpy as np
from jaxtyping import Float

from memcomp.ranges import check_choice

FLOATS = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}
SCALE_BITS = 32  # bits of the float32 scale that an integer kind stores per vector
# Bits of one number, from fine to coarse; intN is uniform with a scale per vector.
BITS = {"float32": 32, "bfloat16": 16} | {f"int{n}": n for n in range(8, 1, -1)}


def round_memory(
    memory: Float[np.ndarray, "*B M D"], kind: str
) -> Float[np.ndarray, "*B M D"]:
    """Rounds `memory` to the number format `kind`, and returns it in float32.

    "intN" stores each number as an integer from -L to L, L = 2**(N - 1) - 1, and a scale
    for each vector: its largest absolute value divided by L. Ties are rounded to even.

    Args:
      memory: memory, all finite.
      kind: a key of `BITS`.

    Raises:
      InputError: there is no such kind.
    """
    _check(kind)
    if kind in FLOATS:
        return memory.astype(FLOATS[kind]).astype(np.float32)
    levels = 2 ** (BITS[kind] - 1) - 1
    largest = np.max(np.abs(memory), axis=-1, keepdims=True)
    # A vector of zeros stays zero with any scale.
    scale = (np.where(largest > 0, largest, 1.0) / levels).astype(np.float32)
    return (np.rint(memory / scale) * scale).astype(np.float32)


def stored_bits(memory: Float[np.ndarray, "*B M D"], kind: str) -> int:
    """Number of bits of `memory` when it is stored as `kind`, with the scales.

    Raises:
      InputError: there is no such kind.
    """
    _check(kind)
    scales = 0 if kind in FLOATS else memory.size // memory.shape[-1]
    return memory.size * BITS[kind] + scales * SCALE_BITS


def _check(kind: str) -> None:
    check_choice("kind", kind, BITS)
