"""What is the content's fault is a sentence; what is ours keeps its traceback."""

import dataclasses
import json

import pytest

from memcomp.convert.families import FAMILIES
from memcomp.errors import InputError, refusing
from memcomp.lm import load as lm_module
from memcomp.lm.load import load_lm
from memcomp.ranges import check_count


def ours(error):
    """A function of memcomp, as far as its traceback says, that raises."""
    scope = {"__name__": "memcomp.defect", "error": error}
    exec("def function(*args, **kwargs):\n    raise error", scope)
    return scope["function"]


@pytest.mark.parametrize("kind", [AttributeError, TypeError, KeyError, NameError])
def test_a_defect_of_ours_keeps_its_traceback(kind):
    with pytest.raises(kind, match="a defect") as caught, refusing("a file"):
        ours(kind("a defect"))()
    assert not isinstance(caught.value, InputError)


def test_what_a_library_raises_for_content_is_a_sentence():
    with pytest.raises(InputError, match="a file cannot be used: Expecting value"):
        with refusing("a file"):
            json.loads("x")
    with pytest.raises(InputError, match="a file cannot be used: n is 0; it must be"):
        with refusing("a file"):
            check_count("n", 0)


def test_a_control_tells_content_from_a_defect():
    fails = ours(TypeError("float() of None"))
    with pytest.raises(InputError, match="a file cannot be used: float"):
        with refusing("a file", control=lambda: None):
            fails()
    with pytest.raises(TypeError, match="^float"), refusing("a file", control=fails):
        fails()
    refused = ours(InputError("no such setting"))  # of the control: nothing is known
    with pytest.raises(InputError, match="a file cannot"):
        with refusing("a file", control=refused):
            fails()


@pytest.mark.parametrize("kind", [AttributeError, TypeError, ZeroDivisionError])
def test_a_defect_in_a_family_is_no_fault_of_config_json(monkeypatch, kind):
    broken = dataclasses.replace(FAMILIES["llama"], read=ours(kind("defect")))
    monkeypatch.setitem(lm_module.FAMILIES, "llama", broken)
    with pytest.raises(kind, match="^defect$"):
        load_lm("builtin")
