"""FLOPs, bytes and collectives of a compiled program, counted in its optimised HLO.

XLA's own `cost_analysis` counts the body of a loop once. Here it counts as often as the
loop runs, which is known for the loops of `lax.scan`.
"""

import collections
import functools
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from memcomp.cost.hlo import Array, Instruction, numbers, parse

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)
# Opcodes that move no bytes themselves: names, views, and calls, whose parts are counted.
_FREE = frozenset(
    "parameter constant tuple get-tuple-element bitcast while conditional call after-all "
    "opt-barrier partition-id replica-id iota broadcast async-start async-update".split()
)
_FREE_CALLS = ("AllocateBuffer", "ConcatBitcast", "AssumeGatherIndicesInBound")
_SLICES = ("dynamic-slice", "slice", "gather")
_VIEWS = ("bitcast", "reshape", "convert", "copy")


class Memory(NamedTuple):
    """Memory of a program on one device, in bytes.

    Attributes:
      arguments: arguments, such as parameters.
      temporary: peak of all arrays other than arguments and results.
      results: results.
      aliased: results that reuse the memory of arguments.
    """

    arguments: int
    temporary: int
    results: int
    aliased: int

    @property
    def total(self) -> int:
        """Bytes of arguments, temporary arrays and results together."""
        return self.arguments + self.temporary + self.results - self.aliased


def memory_of(compiled: Any) -> Memory:
    """Reads the compiler's memory plan of a `jax.stages.Compiled`."""
    plan = compiled.memory_analysis()
    return Memory(
        plan.argument_size_in_bytes,
        plan.temp_size_in_bytes,
        plan.output_size_in_bytes,
        plan.alias_size_in_bytes,
    )


class Collective(NamedTuple):
    """Totals of all collectives of one kind.

    Attributes:
      count: number of runs.
      num_bytes: bytes on one device, summed over runs; a collective counts the larger of
        its inputs and outputs.
      largest: bytes of the largest one.
    """

    count: int
    num_bytes: int
    largest: int


class Work(NamedTuple):
    """Work of one device in one call of a program.

    Attributes:
      flops: FLOPs of matrix products, two for a multiplication and its addition.
      num_bytes: bytes read from and written to main memory, fusion by fusion.
      collectives: totals of the collectives by kind.
      unknown_loops: number of loops of unknown length, whose bodies are counted once.
      custom_kernels: number of calls of custom kernels (Pallas), of which only the bytes
        are counted.
    """

    flops: int
    num_bytes: int
    collectives: dict[str, Collective]
    unknown_loops: int
    custom_kernels: int


class Buffer(NamedTuple):
    """Large array that a program makes."""

    num_bytes: int
    shape: str
    made_by: str


class Program:
    """Optimised HLO module.

    Args:
      text: text of the module, from `compiled.as_text()`.
    """

    def __init__(self, text: str):
        self.computations, entry = parse(text)
        self.unknown_loops = 0
        self.fused: set[str] = set()  # computations that a fusion runs as one kernel
        self.times: collections.Counter[str] = collections.Counter()
        self._count(entry, 1)

    def work(self) -> Work:
        """Counts the work of one call."""
        flops = num_bytes = kernels = 0
        for instruction, times, where in self._all():
            flops += times * self._flops(instruction, where)
            if where not in self.fused:
                num_bytes += times * self._bytes(instruction, where)
                kernels += times * ("tpu_custom_call" in instruction.rest)
        return Work(flops, num_bytes, self._collectives(), self.unknown_loops, kernels)

    def largest(self, number: int) -> list[Buffer]:
        """Largest arrays in main memory, other than the arguments."""
        found: dict[tuple[str, str], Buffer] = {}
        for instruction, _, where in self._all():
            if where in self.fused or instruction.opcode in _FREE:
                continue
            if not (name := _short(instruction.op_name)):
                continue  # made by the compiler; what is written into it has a name
            for array in instruction.arrays:
                if array.far:
                    buffer = Buffer(array.num_bytes, str(array), name)
                    found.setdefault((buffer.shape, buffer.made_by), buffer)
        return sorted(found.values(), reverse=True)[:number]

    def _all(self) -> Iterator[tuple[Instruction, int, str]]:
        for where, times in self.times.items():
            for instruction in self.computations[where].values():
                yield instruction, times, where

    def _count(self, computation: str, times: int) -> None:
        """Adds `times` runs of a computation and of all computations that it calls."""
        self.times[computation] += times
        for instruction in self.computations[computation].values():
            runs, opcode = times, instruction.opcode
            if opcode == "while":
                trips = self._trips(instruction, computation)
                self.unknown_loops += trips is None
                runs *= trips or 1
                self._count(str(instruction.called("body")), runs)
            elif opcode == "conditional":  # all branches count, which is an upper bound
                for branch in re.findall(r"%([\w.\-]+)", _branches(instruction.rest)):
                    self._count(branch, runs)
            elif opcode in ("fusion", "call", "async-start"):
                called = instruction.called("calls") or instruction.called("to_apply")
                if called is not None:
                    if opcode == "fusion":
                        self.fused.add(called)
                    self._count(called, runs)

    def _trips(self, loop: Instruction, where: str) -> int | None:
        """Number of iterations of a loop; None if it is unknown.

        It is known for loops that count from one constant to another in equal steps. Those
        of `lax.scan` do, and those in which a TPU multiplies shards of a parameter as they
        arrive from other chips, two at a time.
        """
        if known := re.search(r'known_trip_count":\{"n":"(\d+)"', loop.rest):
            return int(known[1])
        condition = self.computations[str(loop.called("condition"))]
        body = self.computations[str(loop.called("body"))]
        (test,) = (one for one in condition.values() if one.is_root)
        (after,) = (one for one in body.values() if one.is_root)
        if test.opcode != "compare" or "direction=LT" not in test.rest:
            return None
        counter, limit = (condition[name] for name in test.operands)
        if counter.opcode != "get-tuple-element" or after.opcode != "tuple":
            return None
        at = re.search(r"index=(\d+)", counter.rest)
        assert at
        added = body[after.operands[int(at[1])]]
        steps = [_constant(body[name]) for name in added.operands]
        step = next((number for number in steps if number), None)
        begin = self._entering(loop, where, int(at[1]))
        end = _constant(limit)
        if added.opcode != "add" or step is None or begin is None or end is None:
            return None
        return -(-(end - begin) // step)

    def _entering(self, loop: Instruction, where: str, index: int) -> int | None:
        """Initial value of a loop's variable `index`, if it is a constant; else None."""
        inside = self.computations[where]
        given = inside[loop.operands[0]]
        if given.opcode != "tuple":
            return None
        first = inside[given.operands[index]]
        while first.opcode in _VIEWS:
            first = inside[first.operands[0]]
        return _constant(first)

    def _arrays(self, name: str, where: str) -> tuple[Array, ...]:
        found = self.computations[where].get(name)
        return found.arrays if found else ()

    def _flops(self, instruction: Instruction, where: str) -> int:
        if instruction.opcode not in ("dot", "convolution"):
            return 0
        left, right = (self._arrays(name, where)[0] for name in instruction.operands[:2])
        if instruction.opcode == "convolution":
            return _convolution_flops(instruction, left.dims, right.dims)
        found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.rest)
        summed = [left.dims[i] for i in numbers(found[1] if found else "")]
        return 2 * math.prod(instruction.arrays[0].dims) * math.prod(summed)

    def _bytes(self, instruction: Instruction, where: str) -> int:
        opcode = instruction.opcode
        if opcode in _FREE or opcode.endswith("-done"):
            return 0
        if any(name in instruction.rest for name in _FREE_CALLS):
            return 0
        if opcode == "copy-start":
            return sum(a.num_bytes for a in instruction.arrays[:2] if a.far)
        if opcode == "slice-start":
            moved = instruction.arrays[1]
            return moved.num_bytes * (1 + moved.far)
        if opcode == "fusion":
            return self._fusion_bytes(instruction, where)
        if opcode in _SLICES:
            return 2 * instruction.num_bytes
        operands = [self._arrays(name, where) for name in instruction.operands]
        if opcode == "dynamic-update-slice":
            return 2 * sum(array.num_bytes for array in operands[1])
        read = sum(a.num_bytes for arrays in operands for a in arrays if a.far)
        return read + instruction.num_bytes

    def _fusion_bytes(self, fusion: Instruction, where: str) -> int:
        """Bytes of operands and results; slices and in-place updates count only a part."""
        called, total = str(fusion.called("calls")), 0
        for number, operand in enumerate(fusion.operands):
            arrays = self._arrays(operand, where)
            if all(array.far for array in arrays):
                whole = sum(array.num_bytes for array in arrays)
                read = self._read(called, number)
                total += whole if read is None else min(whole, read)
        (root,) = (i for i in self.computations[called].values() if i.is_root)
        names = root.operands if root.opcode == "tuple" else (root.name,)
        for name, array in zip(names, fusion.arrays, strict=False):
            update = self._update(called, name)
            if array.far:
                total += array.num_bytes if update is None else update
        return total

    def _read(self, where: str, number: int) -> int | None:
        """Bytes of parameter `number` that a fused computation reads; None for all."""
        inside = self.computations[where]
        (parameter,) = (
            one
            for one in inside.values()
            if one.opcode == "parameter" and one.rest.startswith(f"{number})")
        )
        names, total = {parameter.name}, 0
        for user in inside.values():  # a user comes after what it uses
            at = [i for i, name in enumerate(user.operands) if name in names]
            if not at:
                continue
            if user.opcode in _VIEWS and not user.is_root:
                names.add(user.name)
            elif user.opcode in _SLICES and at == [0]:
                total += sum(array.num_bytes for array in user.arrays)
            elif user.opcode == "fusion":
                parts = [self._read(str(user.called("calls")), i) for i in at]
                if None in parts:
                    return None
                total += sum(part or 0 for part in parts)
            elif not (user.opcode == "dynamic-update-slice" and at == [0]):
                return None
        return total

    def _update(self, where: str, name: str) -> int | None:
        """Bytes of the update, if a result is a buffer updated in place; else None."""
        inside = self.computations[where]
        made = inside[name]
        while made.opcode in _VIEWS:
            made = inside[made.operands[0]]
        if made.opcode == "fusion" and len(made.arrays) == 1:
            called = str(made.called("calls"))
            (root,) = (i for i in self.computations[called].values() if i.is_root)
            return self._update(called, root.name)
        if made.opcode != "dynamic-update-slice":
            return None
        return sum(array.num_bytes for array in inside[made.operands[1]].arrays)

    def _collectives(self) -> dict[str, Collective]:
        seen: dict[tuple[str, str], tuple[str, int, int]] = {}
        for instruction, times, where in self._all():
            kind = instruction.opcode.removesuffix("-start")
            if kind not in COLLECTIVES:
                continue
            operands = [self._arrays(name, where) for name in instruction.operands]
            read = sum(a.num_bytes for arrays in operands for a in arrays)
            written = sum(a.num_bytes for a in instruction.arrays)
            if instruction.opcode.endswith("-start") and kind != "all-reduce":
                written -= read  # the result is a tuple of inputs and outputs
            if "all-reduce-scatter" in where:  # TPU's name of a fused reduce-scatter
                kind = "reduce-scatter"
            # A collective that overlaps with other work is in several fusions of a channel.
            channel = re.search(r"channel_id=(\d+)", instruction.rest)
            key = (channel[1], str(times)) if channel else (instruction.name, "")
            seen.setdefault(key, (kind, times, max(read, written)))
        found: dict[str, Collective] = {}
        for kind, times, size in seen.values():
            before = found.get(kind, Collective(0, 0, 0))
            found[kind] = Collective(
                before.count + times,
                before.num_bytes + times * size,
                max(before.largest, size),
            )
        return dict(sorted(found.items()))


def _constant(instruction: Instruction) -> int | None:
    found = re.match(r"(\d+)\)", instruction.rest)
    return int(found[1]) if instruction.opcode == "constant" and found else None


def _branches(rest: str) -> str:
    found = re.search(r"branch_computations=\{([^}]*)\}", rest)
    if found:
        return found[1]
    return " ".join(re.findall(r"(?:true|false)_computation=(%[\w.\-]+)", rest))


def _short(op_name: str) -> str:
    """Last informative parts of an op name."""
    noise = ("while", "body", "closed_call", "cond", "checkpoint")
    parts = op_name.split("/")
    said = [p for p in parts if p not in noise and not p.startswith("jit(")]
    return "/".join(said[-4:])


def _convolution_flops(convolution: Instruction, left, right) -> int:
    """FLOPs as XLA counts them: window positions on padding or dilation gaps do not count.

    On a TPU, matrix products with batch axes are such convolutions.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", convolution.rest)
    assert labels
    window = dict(re.findall(r"(\w+)=([\dx_\-]+)", _window(convolution.rest)))
    groups = re.search(r"batch_group_count=(\d+)", convolution.rest)
    out = convolution.arrays[0].dims
    total = 2 * right[labels[2].index("i")] * out[labels[3].index("f")]
    total *= left[labels[1].index("b")] // (int(groups[1]) if groups else 1)
    for i in range(len(labels[1]) - 2):
        sizes = left[labels[1].index(str(i))], out[labels[3].index(str(i))]
        options = {name: value.split("x")[i] for name, value in window.items()}
        total *= _positions(*sizes, **options)
    return total


def _window(rest: str) -> str:
    found = re.search(r"window=\{([^}]*)\}", rest)
    return found[1] if found else ""


@functools.lru_cache(maxsize=4096)
def _positions(
    size_in: int,
    size_out: int,
    size: str = "1",
    stride: str = "1",
    pad: str = "0_0",
    lhs_dilate: str = "1",
    rhs_dilate: str = "1",
    rhs_reversal: str = "0",
) -> int:
    """Number of pairs (output, window position) that meet an input, along one axis."""
    outputs = np.arange(size_out)[:, None] * int(stride) - int(pad.split("_")[0])
    places = outputs + np.arange(int(size))[None] * int(rhs_dilate)
    at, gap = np.divmod(places, int(lhs_dilate))
    return int(np.sum((gap == 0) & (at >= 0) & (at < size_in)))
