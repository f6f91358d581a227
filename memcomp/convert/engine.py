"""Conversion engine: reads a family's table forwards to load and backwards to export."""

import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import einops
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from memcomp.errors import InputError

Params = dict[str, Any]

# Letter of the patterns -> attribute of the family's config.
LETTERS = {
    "v": "vocab_size",
    "d": "d_model",
    "n": "num_heads",
    "k": "num_kv_heads",
    "h": "head_dim",
    "f": "d_mlp",
    "p": "num_position_rows",
    "u": "d_residual",
    "e": "d_inner",
    "z": "d_state",
    "r": "dt_rank",
    "w": "d_conv",
    "s": "d_selection",
}
# "c": queries, keys and values in one kernel; "g": gated values and their gate.
CONSTANTS = {"c": 3, "g": 2, "1": 1}
# Bytes of a stack of layers up to which the host holds it whole: a program that writes its
# layers takes longer to compile than such a stack to copy.
SMALL_STACK = 2**23
MOST_LISTED = 4  # largest number of names of one kind in a message


@dataclasses.dataclass(frozen=True)
class Row:
    """Entry of a table: one parameter in both layouts, and how its axes are rearranged.

    Attributes:
      hf: name in the Hugging Face file; `{i}` stands for the layer number.
      ours: path in our tree; parameters with `{i}` are stacked over layers.
      axes: einops pattern from their layout to ours; the export reads it backwards.
    """

    hf: str
    ours: str
    axes: str

    @property
    def stacked(self) -> bool:
        """Whether our array has a leading axis of layers."""
        return "{i}" in self.hf

    def names(self, num_layers: int) -> list[str]:
        """Names in the file, in the order of the layers."""
        if not self.stacked:
            return [self.hf]
        return [self.hf.format(i=i) for i in range(num_layers)]

    def hf_shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Shape that every tensor of this entry has in the file."""
        left = self.axes.split("->")[0]
        groups = re.findall(r"\(([^)]*)\)|(\S+)", left)
        letters = [(group or single).split() for group, single in groups]
        return tuple(math.prod(sizes[c] for c in group) for group in letters)


@dataclasses.dataclass(frozen=True)
class Family:
    """Model family: its Flax module, and how its checkpoints are read and written.

    Attributes:
      model: class of the Flax module; `model(config)` is a `CausalLM` (see
        `memcomp.lm.protocol`).
      config: class of our config, a frozen dataclass.
      model_type: the entry of config.json that names the family.
      architecture: name of the transformers class, also an entry of config.json.
      table: entries of all parameters.
      names: entry of config.json for each field of our config that it gives as it is.
      read: function that makes the other fields from a transformers config; it raises
        `InputError` for settings that our module does not support.
      write: function that makes the other entries of config.json from our config.
      checkpoints: Hub ids of checkpoints of this family.
      special: what sets the family apart, in a few words.
      memory_enters: where memory vectors enter the model.
      ignored: regular expressions of names that may be in a file and are not read.
      renames: pairs of a regular expression and its replacement, for names in files that
        differ from those of the table.
    """

    model: type
    config: type
    model_type: str
    architecture: str
    table: Sequence[Row]
    names: Mapping[str, str]
    checkpoints: Sequence[str]
    read: Callable[[Any], dict[str, Any]] = lambda hf: {}
    write: Callable[[Any], dict[str, Any]] = lambda config: {}
    special: str = ""
    memory_enters: str = "before the first layer"
    ignored: Sequence[str] = ()
    renames: Sequence[tuple[str, str]] = ()

    def config_from_hf(self, hf: Any) -> Any:
        """Makes our config from a transformers config.

        Raises:
          InputError: it has settings that our module does not support.
        """
        text = hf.get_text_config()  # all of `hf`, unless the model also sees pictures
        found = {ours: getattr(text, theirs) for ours, theirs in self.names.items()}
        return self.config(**found | self.read(hf))

    def config_to_hf(self, config: Any) -> dict[str, Any]:
        """Makes the entries of config.json; the inverse of `config_from_hf`."""
        return {
            "architectures": [self.architecture],
            "model_type": self.model_type,
            **{theirs: getattr(config, ours) for ours, theirs in self.names.items()},
            **self.write(config),
        }

    def skipped(self, config: Any) -> tuple[str, ...]:
        """Regular expressions of `ignored` names and of a head that is tied."""
        head = next(re.escape(row.hf) for row in self.table if row.ours == "head")
        return (*self.ignored, head) if config.tied_embeddings else tuple(self.ignored)


def fields_from_hf(hf: Any, names: Mapping[str, str]) -> dict[str, Any]:
    """Fields of our config by name, from a transformers config.

    Args:
      hf: the transformers config.
      names: entry of config.json for each field.
    """
    return {ours: getattr(hf, theirs) for ours, theirs in names.items()}


def fields_to_hf(config: Any, names: Mapping[str, str]) -> dict[str, Any]:
    """Makes the entries of config.json; the inverse of `fields_from_hf`."""
    return {theirs: getattr(config, ours) for ours, theirs in names.items()}


def sizes_of(config: Any) -> dict[str, int]:
    """Sizes of all letters that the config has, and the number of layers."""
    sizes = {c: getattr(config, name, None) for c, name in LETTERS.items()}
    known = {c: size for c, size in sizes.items() if size is not None}
    return {"layers": config.num_layers, **CONSTANTS, **known}


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


@runtime_checkable  # the tests check annotations
class Tensors(Protocol):
    """Named tensors that are read one at a time, such as an open safetensors file."""

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of every tensor by its name."""
        ...

    def read(self, name: str) -> np.ndarray:
        """Reads one tensor, in the dtype of the file."""
        ...


def from_hf(
    tensors: Tensors,
    table: Sequence[Row],
    sizes: Mapping[str, int],
    expected: Params,
    *,
    dtype: Any,
    ignored: Iterable[str] = (),
    place: Callable[[str, np.ndarray], jax.Array],
) -> Params:
    """Loads our parameters from a Hugging Face file, one tensor at a time.

    Host memory holds only this tensor, in the dtypes of the file and of the result, what
    `place` keeps, and a stack of layers of up to `SMALL_STACK` bytes.

    Args:
      tensors: tensors of the file.
      table: table of the family; entries whose `ours` is not in `expected` are switched off
        by the config and must not be in the file either.
      sizes: size of every letter of the patterns, and `layers`.
      expected: tree of `jax.ShapeDtypeStruct` of the result.
      dtype: dtype of the result.
      ignored: regular expressions of names that may be in the file and are not read.
      place: function that puts an array on the devices, called with our path and the array
        in `dtype`. Parameters that are stacked over layers come as [L ...], or layer by
        layer as [1 ...].

    Raises:
      InputError: names are missing from the file or the table, or shapes differ, all in one
        message; or `dtype` cannot hold a value.
    """
    wanted: dict[str, Any] = flax.traverse_util.flatten_dict(expected, sep="/")
    rows = [row for row in table if row.ours in wanted]
    _check(tensors.shapes(), rows, sizes, wanted, ignored)
    params = {}
    for row in rows:
        names = row.names(sizes["layers"])
        moved = ((_rearrange(tensors.read(name), row.axes, sizes), name) for name in names)
        arrays = (_cast(tensor, dtype, name) for tensor, name in moved)
        if row.stacked:
            placed = functools.partial(place, row.ours)
            params[row.ours] = _stack(arrays, len(names), placed)
        else:
            params[row.ours] = jax.block_until_ready(place(row.ours, next(arrays)))
    return flax.traverse_util.unflatten_dict(params, sep="/")


def to_hf(
    params: Params, table: Sequence[Row], sizes: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """Makes the tensors of a Hugging Face file by name; the inverse of `from_hf`."""
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    tensors = {}
    for row in table:
        if row.ours not in flat:
            continue
        ours = np.asarray(flat[row.ours])
        left, right = row.axes.split("->")
        backwards = f"{right} -> {left}"
        for i, name in enumerate(row.names(sizes["layers"])):
            tensor = _rearrange(ours[i] if row.stacked else ours, backwards, sizes)
            tensors[name] = np.ascontiguousarray(tensor)
    return tensors


def _stack(
    layers: Iterator[np.ndarray],
    num_layers: int,
    place: Callable[[np.ndarray], jax.Array],
) -> jax.Array:
    """Stacks layers [...] to [L ...] on devices; the host holds one, or a small stack."""
    first = next(layers)
    if first.nbytes * num_layers <= SMALL_STACK:
        return jax.block_until_ready(place(np.stack([first, *layers])))
    placed = (place(layer[None]) for layer in itertools.chain([first], layers))
    begin = next(placed)
    shape = (num_layers, *first.shape)
    stack = jnp.zeros(shape, first.dtype, device=begin.sharding)
    write = _writer(begin.sharding)
    for i, layer in enumerate(itertools.chain([begin], placed)):
        # Wait, because unfinished copies keep their host arrays, which would add up.
        stack = jax.block_until_ready(write(stack, layer, i))
    return stack


@functools.lru_cache
def _writer(sharding: jax.sharding.Sharding) -> Callable[..., jax.Array]:
    """Returns a function that writes a layer [1 ...] into a stack [L ...], donating it."""

    def write(stack, layer, i):
        return jax.lax.dynamic_update_slice_in_dim(stack, layer, i, axis=0)

    return jax.jit(write, donate_argnums=0, out_shardings=sharding)


def _rearrange(tensor: np.ndarray, pattern: str, sizes: Mapping[str, int]) -> np.ndarray:
    letters = {c: sizes[c] for c in re.findall(r"[a-z]", pattern)}
    return einops.rearrange(tensor, pattern, **letters)


def _cast(tensor: np.ndarray, dtype: Any, name: str) -> np.ndarray:
    if tensor.dtype == dtype:
        return tensor
    with np.errstate(over="ignore"):
        cast = tensor.astype(dtype)
    if not np.isfinite(cast).all():
        raise InputError(
            f"{name} has values up to {np.abs(tensor).max():.3g}, too large for "
            f"{np.dtype(dtype)}; load the model in another dtype"
        )
    return cast


def _check(found, rows, sizes, wanted, ignored) -> None:
    problems = []
    shapes = {
        name: row.hf_shape(sizes) for row in rows for name in row.names(sizes["layers"])
    }
    if missing := [name for name in shapes if name not in found]:
        problems.append(f"missing from the file: {_listed(missing)}")
    skip = [re.compile(pattern) for pattern in ignored]
    extra = [
        name
        for name in found
        if name not in shapes and not any(p.fullmatch(name) for p in skip)
    ]
    if extra:
        problems.append(f"not a weight of this model: {_listed(extra)}")
    if lost := sorted(set(wanted) - {row.ours for row in rows}):
        problems.append(f"without a row in the table: {', '.join(lost)}")
    misfits = [
        f"{name} is {list(found[name])}, expected {list(shape)}"
        for name, shape in shapes.items()
        if name in found and tuple(found[name]) != shape
    ]
    if misfits:
        problems.append(_listed(misfits))
    if problems:
        raise InputError(
            "the weights do not fit the model that config.json describes; "
            f"check that both are of the same checkpoint ({'; '.join(problems)})"
        )


def _listed(names: Sequence[str]) -> str:
    """Lists the first names, as the wrong checkpoint may differ in thousands."""
    more = len(names) - MOST_LISTED
    rest = f" and {more} more" if more > 0 else ""
    return ", ".join(names[:MOST_LISTED]) + rest
