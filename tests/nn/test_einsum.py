"""Linear maps whose kernels name their axes."""

import jax
import jax.numpy as jnp
import numpy as np

from memcomp.nn.einsum import Einsum

EQUATION, SHAPE, AXES = (
    "btd,dcnh->btcnh",
    (3, 2, 4, 5),
    ("embed", None, "heads", "head_dim"),
)


def random_params(bias_shape):
    rng = np.random.default_rng(0)
    return {
        "kernel": jnp.asarray(rng.standard_normal(SHAPE), jnp.float32),
        "bias": jnp.asarray(rng.standard_normal(bias_shape), jnp.float32),
    }


def test_output_is_the_product_plus_the_bias_of_the_last_dimensions():
    x = np.random.default_rng(1).standard_normal((2, 7, 3)).astype(np.float32)
    for bias_ndim in 1, 2, 3:
        params = random_params(SHAPE[-bias_ndim:])
        module = Einsum(EQUATION, SHAPE, AXES, bias_ndim)
        got = module.apply({"params": params}, jnp.asarray(x))
        want = np.tensordot(x, np.asarray(params["kernel"]), 1) + np.asarray(params["bias"])
        np.testing.assert_allclose(got, want, atol=2e-6)


def test_every_parameter_names_its_axes():
    module = Einsum(EQUATION, SHAPE, AXES, 3)
    params = module.init(jax.random.key(0), jnp.ones((1, 1, 3)))["params"]
    assert params["kernel"].names == AXES
    assert params["bias"].names == AXES[1:]
    assert params["bias"].value.shape == SHAPE[1:]


def test_without_bias_there_is_only_a_kernel():
    params = Einsum(EQUATION, SHAPE, AXES).init(jax.random.key(0), jnp.ones((1, 1, 3)))
    assert params["params"].keys() == {"kernel"}


def test_new_kernels_have_the_asked_for_deviation():
    module = Einsum("btd,df->btf", (100, 200), ("embed", "mlp"), init_std=0.5)
    kernel = module.init(jax.random.key(0), jnp.ones((1, 1, 100)))["params"]["kernel"].value
    assert abs(float(kernel.std()) - 0.5) < 0.01
