"""Parser that reads the text of an optimised HLO module into instructions."""

import dataclasses
import functools
import math
import re
from typing import NamedTuple

# Bits of an element of each dtype; other types are no arrays (token, opaque).
BITS = {"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "f16": 16}
BITS |= {"bf16": 16, "s32": 32, "u32": 32, "f32": 32, "s64": 64, "u64": 64, "f64": 64}
BITS |= {"c64": 64, "c128": 128, "f8e4m3fn": 8, "f8e5m2": 8}
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_NAME = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](\{[^{}]*\})?")


class Array(NamedTuple):
    """One array of an instruction's result.

    Attributes:
      dtype: dtype as HLO writes it.
      dims: dimensions of its shape.
      far: whether it is in the device's main memory, not in its cache (TPU's VMEM).
    """

    dtype: str
    dims: tuple[int, ...]
    far: bool = True

    @property
    def num_bytes(self) -> int:
        """Bytes of the array without padding."""
        return math.prod(self.dims) * BITS.get(self.dtype, 0) // 8

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a program.

    Attributes:
      name: name that is unique in the program.
      opcode: operation, such as "fusion".
      arrays: arrays of the result; those of a tuple one after the other.
      operands: names of the operands.
      rest: attributes, as written.
      is_root: whether its result is the result of its computation.
    """

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    rest: str
    is_root: bool

    @property
    def num_bytes(self) -> int:
        """Bytes of the arrays of the result that are in main memory."""
        return sum(array.num_bytes for array in self.arrays if array.far)

    @property
    def op_name(self) -> str:
        """Its origin in the Python program; empty if the compiler added it."""
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found[1] if found else ""

    def called(self, what: str) -> str | None:
        """Name of the computation in the attribute `what`; None without the attribute."""
        found = re.search(rf"{what}=%?([\w.\-]+)", self.rest)
        return found[1] if found else None


Computation = dict[str, Instruction]


def parse(text: str) -> tuple[dict[str, Computation], str]:
    """Parses `compiled.as_text()`; returns computations by name, and the entry's name."""
    computations: dict[str, Computation] = {}
    entry, current = "", {}
    for line in text.splitlines():
        if head := _HEAD.match(line):
            current = computations.setdefault(head[2], {})
            entry = head[2] if head[1] else entry
        elif name := _NAME.match(line):
            made = _instruction(name, line[name.end() :])
            current[made.name] = made
    return computations, entry


def _instruction(name: re.Match[str], text: str) -> Instruction:
    text = re.sub(r"/\*.*?\*/", "", text)
    shape, text = _split(text)
    opcode, _, text = text.lstrip().partition("(")
    inside, rest = _closed(text)
    operands = tuple(re.findall(r"%([\w.\-]+)", inside))
    if opcode in ("constant", "parameter"):
        rest = f"{inside}){rest}"
    return Instruction(name[2], opcode, _arrays_of(shape), operands, rest, bool(name[1]))


def _split(text: str) -> tuple[str, str]:
    """Splits a text after the shape with which it begins."""
    if not text.startswith("("):
        shape, _, rest = text.partition(" ")
        return shape, rest
    inside, rest = _closed(text[1:])
    return inside, rest


def _closed(text: str) -> tuple[str, str]:
    """Splits a text at the bracket that closes one opened before the text."""
    depth = 1
    for found in re.finditer(r"[()]", text):
        depth += 1 if found[0] == "(" else -1
        if not depth:
            return text[: found.start()], text[found.end() :]
    return text, ""


@functools.lru_cache(maxsize=4096)
def _arrays_of(shape: str) -> tuple[Array, ...]:
    return tuple(
        Array(dtype, tuple(numbers(dims)), not re.search(r"S\([1-9]", layout))
        for dtype, dims, layout in _ARRAY.findall(shape)
    )


def numbers(text: str) -> list[int]:
    """Parses a list of numbers such as "2,1,0"."""
    return [int(number) for number in text.split(",") if number]
