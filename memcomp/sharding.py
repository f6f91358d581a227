"""Sharding of arrays over devices: one mesh, one table of rules.

Parameters name their logical axes where they are made (`memcomp.nn.parameters`). The table
maps these to axes of the mesh. A batch is sharded over `data` and `fsdp`, parameters over
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
BATCH = ("data", "fsdp")  # the axes over which a batch is sharded

# fmt: off
# Logical axis -> axis of the mesh; None: replicated on every device.
RULES = {
    "layers":   None,      # the scanned axis; each device has a shard of every layer
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
    """Makes a mesh of data x fsdp x tensor devices; one may be -1 for all that remain.

    Raises:
      InputError: the sizes do not use exactly the devices that there are.
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
    # Auto: the compiler chooses shardings that are not given; the default is Explicit.
    auto = (AxisType.Auto,) * len(MESH_AXES)
    return jax.make_mesh(tuple(sizes), MESH_AXES, axis_types=auto, devices=devices)


def param_shardings(abstract: Any, mesh: Mesh) -> Any:
    """Returns a `NamedSharding` for each leaf of a tree, by its logical axes.

    Args:
      abstract: tree of arrays or `jax.ShapeDtypeStruct`, boxed with their logical axes;
        a leaf without a box is replicated on every device.
      mesh: mesh of `make_mesh`.

    Raises:
      KeyError: an axis has no rule; Flax would silently replicate it.
      InputError: the mesh does not divide an axis into equal parts.
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
    """Makes `place` of `memcomp.convert.engine.from_hf` for boxed abstract parameters.

    Each device gets only its shard.
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(param_shardings(abstract, mesh))
    by_path = {
        jax.tree_util.keystr(path, simple=True, separator="/"): sharding
        for path, sharding in flat
    }
    return lambda path, array: put_whole(array, by_path[path])


def put_whole(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Shards an array that every process holds whole; each fills its own devices."""
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    # device_put would first compare the arrays of all processes, which sends them around.
    return jax.make_array_from_callback(array.shape, sharding, lambda at: array[at])


def batch_sharding(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Sharding of arrays whose dimension `axis` counts examples."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, BATCH))


def row_multiple(mesh: Mesh | None) -> int:
    """Number of equal parts into which the mesh shards a batch."""
    return 1 if mesh is None else math.prod(mesh.shape[axis] for axis in BATCH)


def row_owners(num_rows: int, mesh: Mesh | None) -> list[int]:
    """Process that owns each example of a batch: the first one that holds it.

    Args:
      num_rows: size of the batch, a multiple of `row_multiple`.
      mesh: mesh of `make_mesh`; None for one device.
    """
    if mesh is None:
        return [0] * num_rows
    parts = mesh.devices.reshape(row_multiple(mesh), -1)
    first = [min(device.process_index for device in part) for part in parts]
    return [int(process) for process in np.repeat(first, num_rows // len(parts))]


def put_rows(rows: Any, mesh: Mesh | None) -> Any:
    """Shards arrays, whose dimension 0 counts examples, over the mesh.

    Args:
      rows: tree of numpy arrays, the same in every process.
      mesh: mesh of `make_mesh`; None for the default device.
    """
    if mesh is None:
        return jax.tree.map(jnp.array, rows)
    return jax.tree.map(lambda x: put_whole(np.asarray(x), batch_sharding(mesh)), rows)


def fetch(tree: Any) -> Any:
    """Copies whole arrays to the host of every process, wherever their shards are.

    Every process must call it for the same arrays, in the same order.
    """

    def copy(x: Any) -> np.ndarray:
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            x = multihost_utils.process_allgather(x, tiled=True)
        # Copy, because on a CPU a view would share the buffer, which may be donated next.
        return np.array(x, copy=True)

    return jax.tree.map(copy, tree)


def on_mesh(mesh: Mesh | None) -> contextlib.AbstractContextManager:
    """Returns the context in which programs are traced for the mesh; no-op without one."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def put_batch(batch: Any, mesh: Mesh, axis: int = 0) -> Any:
    """Makes arrays of the whole mesh from this process's part of a batch.

    Args:
      batch: tree of numpy arrays.
      mesh: mesh of `make_mesh`.
      axis: dimension that counts examples.

    Raises:
      InputError: the mesh does not divide the number of examples.
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
    """Tells the compiler that dimension 0 counts examples; no-op without a mesh.

    Where parameters and activations are sharded over the same axis of the mesh, it might
    otherwise gather the activations, which are larger.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    cut = PartitionSpec(BATCH)
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, cut), tree)


def constrain_example(x: jax.Array) -> jax.Array:
    """Tells the compiler that all of `x` is where its example is; no-op without a mesh.

    It is for code that is written for one example and batched by `jax.vmap` with
    `spmd_axis_name=BATCH`, which adds the axes of the batch to this constraint.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec())
