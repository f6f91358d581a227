"""Which cases of a parametrised test the README's command runs; .ci/run runs all."""

import pytest


def one_of_each_here(cases, kind):
    """The cases, of which all but the first of each `kind(case)` are for .ci/run alone."""
    seen, found = set(), []
    for case in cases:
        values = case if isinstance(case, tuple) else (case,)
        marks = [pytest.mark.ci] if kind(case) in seen else []
        found.append(pytest.param(*values, marks=marks))
        seen.add(kind(case))
    return found


def first_here(cases):
    """The cases, of which all but the first are for .ci/run alone."""
    return one_of_each_here(cases, lambda case: None)
