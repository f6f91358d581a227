import pathlib
import re
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec as P

from memcomp import sharding
from memcomp.errors import InputError
from memcomp.lm.load import abstract_params, load_lm

GOLDEN = pathlib.Path(__file__).parent / "golden"


def box(shape, *axes):
    return nn.LogicallyPartitioned(jax.ShapeDtypeStruct(shape, jnp.float32), axes)


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh(2, 2, 2)


def test_a_mesh_takes_all_devices(mesh):
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    # Flax's constraints, and those of the batch, need Auto; Explicit is the default.
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}
    assert sharding.make_mesh(-1, 2).shape["data"] == 4


@pytest.mark.parametrize("sizes", [(3, 1, 1), (-1, 3, 1), (-1, -1, 2), (0, 8, 1), (-1, 16)])
def test_a_mesh_of_other_devices_is_refused(sizes):
    with pytest.raises(InputError, match="does not use the 8 devices"):
        sharding.make_mesh(*sizes)


def test_axes_are_cut_by_the_table(mesh):
    tree = {
        "q": box((3, 8, 4, 5), "layers", "embed", "heads", "head_dim"),
        "table": box((7, 8), "vocab", "embed"),
        "step": jax.ShapeDtypeStruct((), jnp.int32),
    }
    found = sharding.param_shardings(tree, mesh)
    assert found["q"].spec == P(None, "fsdp", "tensor", None)
    assert found["table"].spec == P(None, "fsdp")
    assert found["step"].spec == P()


def test_an_axis_without_a_rule_is_an_error(mesh):
    with pytest.raises(KeyError, match=r"no sharding rule .*\['experts'\] of a/kernel"):
        sharding.param_shardings({"a": {"kernel": box((8, 8), "embed", "experts")}}, mesh)


def test_an_axis_that_cannot_be_cut_is_refused(mesh):
    with pytest.raises(InputError, match="k has 3 in its axis 'kv_heads', .*tensor"):
        sharding.param_shardings({"k": box((8, 3), "embed", "kv_heads")}, mesh)


def test_every_axis_of_every_family_has_a_rule():
    # What a family names is in its source, switches on or off.
    root = pathlib.Path(sharding.__file__).parent
    for path in [*root.glob("models/*.py"), *root.glob("nn/*.py")]:
        for group in re.findall(r"axes(?:: [^=]*)? = \(([^)]*)\)", path.read_text()):
            named = set(re.findall(r'"(\w+)"', group))
            assert named <= sharding.RULES.keys(), path


def test_a_language_model_is_loaded_where_it_belongs(mesh):
    folder = str(GOLDEN / "llama")
    lm = load_lm(folder, mesh=mesh)
    want = sharding.param_shardings(abstract_params(lm.module), mesh)
    for array, where in zip(jax.tree.leaves(lm.params), jax.tree.leaves(want), strict=True):
        assert array.sharding.is_equivalent_to(where, array.ndim)
    V, D = lm.params["embedding"].shape
    assert lm.params["embedding"].addressable_shards[0].data.shape == (V, D // 2)
    alone = load_lm(folder)
    for a, b in zip(jax.tree.leaves(lm.params), jax.tree.leaves(alone.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_batch_is_cut_over_data_and_fsdp(mesh):
    batch = {"a": np.arange(16).reshape(2, 8), "b": np.zeros((2, 8, 3))}
    put = sharding.put_batch(batch, mesh, axis=1)
    assert put["a"].sharding.spec == P(None, ("data", "fsdp"))
    assert put["b"].addressable_shards[0].data.shape == (2, 2, 3)
    np.testing.assert_array_equal(put["a"], batch["a"])
    with pytest.raises(InputError, match="batch of 6 cannot be divided .* = 4"):
        sharding.put_batch({"a": np.zeros(6)}, mesh)


def test_rows_stay_on_their_devices_inside_a_program(mesh):
    x = jnp.ones((8, 4))
    assert sharding.constrain_batch(x) is x  # without a mesh
    with jax.set_mesh(mesh):
        y = jax.jit(lambda x: sharding.constrain_batch(x * 2))(x)
    assert y.sharding.spec == P(("data", "fsdp"))


def test_rows_belong_to_the_first_process_that_has_them():
    processes = np.array([[[1, 0]], [[1, 2]]])  # data x fsdp x tensor
    devices = np.vectorize(lambda p: mock.Mock(process_index=p))(processes)
    shape = {"data": 2, "fsdp": 1, "tensor": 2}
    mesh = mock.Mock(spec=jax.sharding.Mesh, shape=shape, devices=devices)
    assert sharding.row_owners(6, mesh) == [0, 0, 0, 1, 1, 1]
    assert sharding.row_owners(3, None) == [0, 0, 0]


def test_rows_are_put_in_parts_and_come_back_as_copies(mesh):
    rows = {"a": np.arange(8), "b": np.arange(24.0).reshape(8, 3)}
    put = sharding.put_rows(rows, mesh)
    assert put["b"].addressable_shards[0].data.shape == (2, 3)
    back = sharding.fetch(put)
    for name, array in rows.items():
        np.testing.assert_array_equal(back[name], array)
    back["a"][0] = 99
    assert put["a"][0] == 0
