"""The layout that design and pyproject.toml prescribe, checked by import-linter."""

import ast
import fnmatch
import pathlib
import tomllib

from importlinter import cli

import memcomp
from memcomp.lm.load import FAMILIES

ROOT = pathlib.Path(__file__).parent.parent


def contracts():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return {c["type"]: c for c in settings["tool"]["importlinter"]["contracts"]}


def test_each_level_imports_only_from_those_below_it():
    config = str(ROOT / "pyproject.toml")
    assert (
        cli.lint_imports(config_filename=config, no_cache=True) == cli.EXIT_STATUS_SUCCESS
    )


def test_every_module_has_its_level():
    levels = " | ".join(contracts()["layers"]["layers"]).replace("(", "").replace(")", "")
    named = {level.strip().removeprefix("memcomp.") for level in levels.split("|")}
    package = pathlib.Path(memcomp.__file__).parent
    there = {p.parent.name for p in package.glob("*/__init__.py")}
    there |= {p.stem for p in package.glob("*.py")} - {"__init__"}
    assert there <= named


def test_every_family_is_under_the_rule_that_none_imports_another():
    rules = contracts()["independence"]["modules"]
    for family in FAMILIES.values():
        assert any(fnmatch.fnmatch(family.model.__module__, rule) for rule in rules)


def test_experiments_are_commands_none_of_which_imports_another():
    folder = ROOT / "experiments"
    commands = {path.stem for path in folder.glob("*.py")} - {"launch"}
    for path in folder.rglob("*.py"):
        tree = ast.parse(path.read_text())
        if path.parent == folder and path.stem != "launch":
            assert any(ast.unparse(x).startswith("if __name__") for x in tree.body), path
        named = {x.module for x in ast.walk(tree) if isinstance(x, ast.ImportFrom)}
        for line in (x for x in ast.walk(tree) if isinstance(x, ast.Import)):
            named |= {alias.name for alias in line.names}
        assert not named & commands, path


def test_a_config_dict_stops_at_the_commands():
    package = pathlib.Path(memcomp.__file__).parent
    for path in package.rglob("*.py"):
        assert "ml_collections" not in path.read_text(), path
