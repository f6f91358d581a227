"""Parameter counts of every checkpoint at its full size; no weight is allocated.

configs/full_size.json has, by Hub id:

  parameters: distinct ones, a tied head once; what transformers builds.
  published: a count that others made public, exact, or rounded and then a string.
  source: where.
  also_counted: what `published` counts that is not a parameter of ours.
  config: the entries of its config.json that matter.
"""

import copy
import json
import math
import pathlib

import jax
import pytest
import transformers
from flax import linen as nn
from selection import one_of_each_here

from memcomp.lm.load import FAMILIES, abstract_params

ROOT = pathlib.Path(__file__).parents[2]
ROWS = json.loads((ROOT / "configs/full_size.json").read_text())
# Of the families that are there; `test_every_family_is_there` wants all.
LOADABLE = [name for name, row in ROWS.items() if row["config"]["model_type"] in FAMILIES]
ONE_A_FAMILY = one_of_each_here(LOADABLE, lambda name: ROWS[name]["config"]["model_type"])


def hf_config(name):
    return transformers.AutoConfig.for_model(**copy.deepcopy(ROWS[name]["config"]))


def test_every_family_is_there():
    assert {row["config"]["model_type"] for row in ROWS.values()} <= FAMILIES.keys()


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_family_names_its_checkpoints(model_type):
    family = FAMILIES[model_type]  # more than one model_type may be read by it
    ids = [name for name in LOADABLE if family is FAMILIES[hf_config(name).model_type]]
    assert sorted(family.checkpoints) == sorted(ids)


@pytest.mark.parametrize("name", ONE_A_FAMILY)
def test_our_tree_has_as_many_parameters(name):
    hf = hf_config(name)
    family = FAMILIES[hf.model_type]
    params = nn.unbox(abstract_params(family.model(family.config_from_hf(hf))))
    total = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    assert total == ROWS[name]["parameters"]


@pytest.mark.parametrize("name", ROWS)
def test_the_published_count(name):
    row = ROWS[name]
    total = row["parameters"] + sum(row.get("also_counted", {}).values())
    published = row["published"]
    if isinstance(published, str):
        number, unit = published[:-1], {"M": 1e6, "B": 1e9}[published[-1]]
        decimals = len(number.partition(".")[2])
        assert f"{total / unit:.{decimals}f}" == number
    else:
        assert total == published


@pytest.mark.parity
@pytest.mark.parametrize("name", ROWS)
def test_transformers_builds_as_many_parameters(name):
    import torch

    text = hf_config(name).get_text_config()
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(text)
    assert model.num_parameters() == ROWS[name]["parameters"]


@pytest.mark.parity
def test_the_vision_tower_is_what_gemma_counts_beside():
    import torch

    row = ROWS["google/gemma-3-4b-pt"]
    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(
            hf_config("google/gemma-3-4b-pt")
        )
    beside = model.num_parameters() - row["parameters"]
    assert {"vision tower and projector": beside} == row["also_counted"]
