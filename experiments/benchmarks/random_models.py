"""Models with random weights, which are as fast as trained ones."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from launch import Config

from memcomp.convert.families import FAMILIES
from memcomp.lm.load import DTYPES, export_lm
from memcomp.ranges import check_choice


def random_weights(abstract: Any, dtype: Any) -> Any:
    """Draws normal weights in the shapes of a tree; their values do not matter."""
    leaves, tree = jax.tree.flatten(nn.unbox(abstract))
    keys = jax.random.split(jax.random.key(0), len(leaves))
    draw = jax.jit(
        lambda key, shape: 0.02 * jax.random.normal(key, shape, dtype), static_argnums=1
    )
    drawn = [draw(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, drawn)


def module_of(entries: dict[str, Any]) -> Any:
    """Makes the Flax module of the entries of a config.json.

    Raises:
      InputError: the entries are of no family.
    """
    import transformers  # imported late, as without torch it prints a line

    check_choice("model_type", entries["model_type"], FAMILIES)
    family = FAMILIES[entries["model_type"]]
    hf = transformers.AutoConfig.for_model(**entries)
    return family.model(family.config_from_hf(hf))


def random_module(section: Config, remat: str = "none") -> Any:
    """Makes the Flax module of `section.shape`, which is a config.json."""
    module = module_of(section.shape.to_dict())
    return module.clone(config=dataclasses.replace(module.config, remat=remat))


def random_folder(section: Config, folder: pathlib.Path) -> pathlib.Path:
    """Writes a folder with random weights of `section.shape`, which both sides load."""
    module = random_module(section)
    x = jnp.zeros((1, 2, module.config.d_model))
    params = nn.unbox(jax.jit(module.init)(jax.random.key(0), x)["params"])
    dtype = DTYPES[section.dtype]
    export_lm(folder, module, jax.tree.map(lambda leaf: leaf.astype(dtype), params))
    return folder
