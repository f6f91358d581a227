"""The tiny checkpoints of tests/golden, and which of them the default tests read."""

import json
import pathlib

import pytest

GOLDEN = pathlib.Path(__file__).parent / "golden"
CASES = sorted(folder.parent.name for folder in GOLDEN.glob("*/expected.npz"))


def one_a_family(cases=CASES):
    """The cases, of which all but the first of each model_type are for .ci/run alone."""
    seen, found = set(), []
    for case in cases:
        kind = json.loads((GOLDEN / case / "config.json").read_text())["model_type"]
        found.append(pytest.param(case, marks=[pytest.mark.ci] if kind in seen else []))
        seen.add(kind)
    return found
