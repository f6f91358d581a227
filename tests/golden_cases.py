"""The tiny checkpoints of tests/golden, and which of them the default tests read."""

import json
import pathlib

from selection import one_of_each_here

GOLDEN = pathlib.Path(__file__).parent / "golden"
CASES = sorted(folder.parent.name for folder in GOLDEN.glob("*/expected.npz"))


def model_type(case):
    return json.loads((GOLDEN / case / "config.json").read_text())["model_type"]


def one_a_family(cases=CASES):
    """The cases, of which all but the first of each model_type are for .ci/run alone."""
    return one_of_each_here(cases, model_type)
