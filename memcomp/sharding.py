"""Where arrays lie on several devices: one mesh, one table of rules.

Parameters name their axes where they are made (`memcomp.nn.parameters`); the table says
which axes of the mesh cut them. A batch is cut over `data` and `fsdp`, weights over
`fsdp` and `tensor`.
"""

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from memcomp.errors import InputError

MESH_AXES = ("data", "fsdp", "tensor")
BATCH = ("data", "fsdp")  # both cut the examples

# fmt: off
# Logical axis -> axis of the mesh; None: whole on every device.
RULES = {
    "layers":   None,      # the scanned axis: every device has a part of every layer
    "embed":    "fsdp",
    "heads":    "tensor",
    "kv_heads": "tensor",
    "mlp":      "tensor",
    "head_dim": None,
    "vocab":    None,      # its size is rarely a multiple of the mesh
    "vector":   None,      # OPT's narrower input vectors
}
# fmt: on


def make_mesh(
    data: int = 1, fsdp: int = 1, tensor: int = 1, devices: Sequence[Any] | None = None
) -> Mesh:
    """A mesh of data x fsdp x tensor devices; one of the three may be -1, for the rest.

    Raises:
      InputError: another number of devices than there are, where all three are given.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = [data, fsdp, tensor]
    if sizes.count(-1) == 1:
        known = math.prod(size for size in sizes if size != -1)
        sizes[sizes.index(-1)] = len(devices) // max(known, 1)
    if min(sizes) < 1 or math.prod(sizes) != len(devices):
        raise InputError(
            f"a mesh of data {data}, fsdp {fsdp} and tensor {tensor} does not use the "
            f"{len(devices)} devices that there are; give sizes with that product, or -1 "
            "for one of them"
        )
    # Auto: the compiler lays out what is not said; make_mesh's default is Explicit.
    auto = (AxisType.Auto,) * len(MESH_AXES)
    return jax.make_mesh(tuple(sizes), MESH_AXES, axis_types=auto, devices=devices)


def param_shardings(abstract: Any, mesh: Mesh) -> Any:
    """One `NamedSharding` for each leaf of a tree, by its logical axes.

    Args:
      abstract: tree of arrays or `jax.ShapeDtypeStruct`, boxed with their logical axes;
        a leaf without a box is whole on every device.
      mesh: of `make_mesh`.

    Raises:
      KeyError: an axis without a rule, which Flax would silently leave whole.
      InputError: an axis that cannot be cut into so many equal parts.
    """

    def sharding(path, leaf):
        if not isinstance(leaf, nn.LogicallyPartitioned):
            return NamedSharding(mesh, PartitionSpec())
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        shape = leaf.value.shape
        return NamedSharding(mesh, _spec(name, shape, leaf.names, mesh))

    return jax.tree_util.tree_map_with_path(sharding, abstract, is_leaf=_is_box)


def _is_box(x: Any) -> bool:
    return isinstance(x, nn.LogicallyPartitioned)


def _spec(name, shape, axes, mesh: Mesh) -> PartitionSpec:
    if unknown := set(axes) - {None} - RULES.keys():
        raise KeyError(f"no sharding rule for the axes {sorted(unknown)} of {name}")
    cuts = [None if axis is None else RULES[axis] for axis in axes]
    for axis, size, cut in zip(axes, shape, cuts, strict=True):
        if cut is not None and size % mesh.shape[cut]:
            raise InputError(
                f"{name} has {size} in its axis {axis!r}, which mesh.{cut} = "
                f"{mesh.shape[cut]} does not divide; give a mesh whose {cut} divides it"
            )
    return PartitionSpec(*cuts)


def placer(abstract: Any, mesh: Mesh) -> Callable[[str, np.ndarray], jax.Array]:
    """`place` of `memcomp.convert.engine.from_hf` for the boxed parameters of a module.

    A device gets its own part only.
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(param_shardings(abstract, mesh))
    by_path = {
        jax.tree_util.keystr(path, simple=True, separator="/"): sharding
        for path, sharding in flat
    }
    return lambda path, array: put_whole(array, by_path[path])


def put_whole(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """An array that every process holds whole: each gives its devices their parts."""
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    # device_put would first send the array around, to see that all hold the same.
    return jax.make_array_from_callback(array.shape, sharding, lambda at: array[at])


def batch_sharding(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Sharding of arrays whose dimension `axis` counts examples."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, BATCH))


def row_multiple(mesh: Mesh | None) -> int:
    """Into how many equal parts the mesh cuts examples."""
    return 1 if mesh is None else math.prod(mesh.shape[axis] for axis in BATCH)


def row_owners(num_rows: int, mesh: Mesh | None) -> list[int]:
    """The process that each row of a batch belongs to: the first that has it.

    Args:
      num_rows: a multiple of `row_multiple`.
      mesh: of `make_mesh`; None for one device.
    """
    if mesh is None:
        return [0] * num_rows
    parts = mesh.devices.reshape(row_multiple(mesh), -1)
    first = [min(device.process_index for device in part) for part in parts]
    return [int(process) for process in np.repeat(first, num_rows // len(parts))]


def put_rows(rows: Any, mesh: Mesh | None) -> Any:
    """Arrays whose dimension 0 counts examples, each part of them on its devices.

    Args:
      rows: tree of numpy arrays, the same in every process.
      mesh: of `make_mesh`; None for the default device.
    """
    if mesh is None:
        return jax.tree.map(jnp.array, rows)
    return jax.tree.map(lambda x: put_whole(np.asarray(x), batch_sharding(mesh)), rows)


def fetch(tree: Any) -> Any:
    """Host copies of arrays, whole in every process, wherever their parts are.

    Every process must call it for the same arrays, in the same order.
    """

    def copy(x: Any) -> np.ndarray:
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            x = multihost_utils.process_allgather(x, tiled=True)
        # Not a view: on a CPU that is the buffer, which may be donated next.
        return np.array(x, copy=True)

    return jax.tree.map(copy, tree)


def on_mesh(mesh: Mesh | None) -> contextlib.AbstractContextManager:
    """In which programs are traced for the mesh; nothing without one."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def put_batch(batch: Any, mesh: Mesh, axis: int = 0) -> Any:
    """Arrays of the whole mesh from the part of a batch that this process has read.

    Args:
      batch: tree of numpy arrays.
      mesh: of `make_mesh`.
      axis: the dimension that counts examples.

    Raises:
      InputError: a number of examples that the mesh does not divide.
    """
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    examples = jax.tree.leaves(batch)[0].shape[axis] * jax.process_count()
    if examples % parts:
        raise InputError(
            f"a batch of {examples} cannot be divided by mesh.data x mesh.fsdp = {parts}; "
            "give a multiple of it"
        )
    sharding = batch_sharding(mesh, axis)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, x), batch
    )


def constrain_batch(tree: Any) -> Any:
    """Says to the compiler that dimension 0 counts examples; nothing without a mesh.

    With weights and activations cut over the same axis of the mesh it might else gather
    the activations, which are the larger part.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    cut = PartitionSpec(BATCH)
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, cut), tree)


def constrain_example(x: jax.Array) -> jax.Array:
    """Says that all of `x` lies where its example does; nothing without a mesh.

    For what is written for one example and batched by `jax.vmap` with
    `spmd_axis_name=BATCH`, which adds the batch's axes to what is said here.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec())
