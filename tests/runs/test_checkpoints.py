import dataclasses
import errno
import functools
from typing import Any, NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from memcomp.errors import InputError
from memcomp.runs.checkpoints import Checkpoints


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    params: Any
    opt_state: Any
    step: Any
    key: Any


class Pair(NamedTuple):
    a: Any
    b: Any


def make(seed=0):
    params = {
        "w": jnp.full((3, 4), seed, jnp.float32),
        "b": Pair(jnp.ones(2), jnp.ones(())),
    }
    opt_state = optax.adamw(1e-3).init(params)
    return State(params, opt_state, jnp.asarray(seed, jnp.int32), jax.random.key(seed))


def assert_same(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


def numbers():
    return iter(grain.MapDataset.range(10).to_iter_dataset())


def test_a_state_comes_back_with_its_structure_and_keys(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, make(7))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() == 5
        assert_same(checkpoints.restore(make()), make(7))


def test_the_iterator_goes_on_where_it_was(tmp_path):
    iterator = numbers()
    assert [next(iterator) for _ in range(4)] == [0, 1, 2, 3]
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(4, make(), iterator)
        next(iterator)
    other = numbers()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.restore(make(), other)
    assert list(other) == [4, 5, 6, 7, 8, 9]


def test_a_save_is_of_its_step_though_the_next_donates_the_buffers(tmp_path):
    @functools.partial(jax.jit, donate_argnums=0)
    def step(x):
        return x + 1

    # Several MB, so that writing takes longer than the steps that follow.
    x = step(jnp.zeros((1024, 2048)))
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        for i in range(3):
            checkpoints.save(i, {"x": x})
            for _ in range(5):
                x = step(x)
    with Checkpoints(tmp_path) as checkpoints:
        got = checkpoints.restore({"x": x})["x"]
    np.testing.assert_array_equal(got, jnp.full((1024, 2048), 11.0))


def test_the_last_ones_are_kept(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for i in range(5):
            checkpoints.save(i, make(i))
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.isdigit()) == ["3", "4"]


def test_what_was_not_written_whole_is_passed_over(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make(1))
    torn = tmp_path / "2.orbax-checkpoint-tmp"
    torn.mkdir()
    (torn / "state").mkdir()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() == 1
        assert_same(checkpoints.restore(make()), make(1))
        checkpoints.save(2, make(2))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() == 2


def test_nothing_to_restore_is_said(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() is None
        with pytest.raises(InputError, match="has no checkpoint"):
            checkpoints.restore(make())


@pytest.mark.parametrize("like", [{"w": jnp.zeros((2, 4))}, {"v": jnp.zeros((3, 4))}])
def test_a_checkpoint_of_another_model_is_refused(tmp_path, like):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"w": jnp.zeros((3, 4))})
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(InputError, match="cannot be restored"):
            checkpoints.restore(like)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        ValueError("RESOURCE_EXHAUSTED: Failed writing: full [os_error_code='28']"),
    ],
)
@pytest.mark.parametrize("where", ["save", "close"])
def test_a_full_disk_is_one_sentence_with_the_folder(tmp_path, monkeypatch, error, where):
    """As orbax raises it, measured on a tmpfs of 4 KB and of 40 KB."""
    checkpoints = Checkpoints(tmp_path / "run")
    checkpoints.save(1, {"a": jnp.arange(4)})

    def fail(*args, **kwargs):
        raise error

    close = checkpoints._manager.close
    monkeypatch.setattr(checkpoints._manager, where, fail)
    with pytest.raises(InputError, match=f"{tmp_path}/run cannot be written .No space"):
        checkpoints.save(2, {"a": jnp.arange(4)})
        checkpoints.close()
    close()


def test_an_error_that_is_not_of_a_disk_is_none_of_the_users(tmp_path, monkeypatch):
    with Checkpoints(tmp_path) as checkpoints:

        def fail(*args, **kwargs):
            raise ValueError("a defect")

        monkeypatch.setattr(checkpoints._manager, "save", fail)
        with pytest.raises(ValueError, match="^a defect$") as caught:
            checkpoints.save(1, {"a": jnp.arange(4)})
        assert not isinstance(caught.value, InputError)
