"""Configs and recipes: ranges, names, and no field that nobody reads."""

import ast
import dataclasses
import pathlib

import pytest

import memcomp
from memcomp.cram.config import CramConfig
from memcomp.cram.recipe import RECIPES, Recipe
from memcomp.errors import InputError

SOURCES = pathlib.Path(memcomp.__file__).parent.rglob("*.py")


@pytest.mark.parametrize(
    "field, value",
    [
        ("num_memory", 0),
        ("batch_size", 0),
        ("steps_per_chunk", -1),
        ("vocab_chunk", 0),
        ("max_steps", -5),
        ("patience", 0),
        ("margin", -0.1),
        ("recipe", "defualt"),
        ("protocol", "strickt"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(field, value):
    with pytest.raises(InputError, match=field):
        CramConfig(**{field: value})


@pytest.mark.parametrize(
    "field, value",
    [("learning_rate", 0.0), ("warmup_steps", -1), ("schedule", "step"), ("init", "zeros")],
)
def test_a_recipe_out_of_range_is_refused_by_name(field, value):
    with pytest.raises(InputError, match=field):
        dataclasses.replace(RECIPES["default"], **{field: value})


def test_a_memory_of_coordinates_cannot_begin_again():
    with pytest.raises(InputError, match="set stuck_after to 0"):
        dataclasses.replace(RECIPES["default"], parametrisation="low_dim")


def test_reference_is_the_papers_to_the_letter():
    assert RECIPES["reference"] == Recipe(
        learning_rate=1e-2,
        b1=0.9,
        b2=0.9,
        eps=1e-8,
        weight_decay=0.01,
        schedule="constant",
        warmup_steps=0,
        init="normal",
        init_scale=1.0,
        max_steps=5000,
        patience=2000,
        margin=0.0,
    )


def test_a_config_overrides_its_recipe():
    cfg = CramConfig(recipe="reference", max_steps=7, margin=0.5)
    assert cfg.resolved_recipe() == dataclasses.replace(
        RECIPES["reference"], max_steps=7, margin=0.5
    )


def test_a_target_is_as_far_ahead_as_asked_for_if_it_grows():
    cfg = CramConfig(num_memory=8, ahead=16)
    assert cfg.resolved_recipe() == dataclasses.replace(RECIPES["default"], ahead=16)
    assert cfg.program().resolved_recipe().ahead == 16
    with pytest.raises(InputError, match="ahead is 16, but .* does not grow"):
        CramConfig(recipe="full", ahead=16)
    with pytest.raises(InputError, match="ahead is -1"):
        CramConfig(ahead=-1)


def test_every_field_is_read():
    read = {
        node.attr
        for source in SOURCES
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    # Read by name, when the config's own values are put into the recipe.
    read |= {"max_steps", "patience", "margin"}
    for config in (CramConfig, Recipe):
        assert not {f.name for f in dataclasses.fields(config)} - read
