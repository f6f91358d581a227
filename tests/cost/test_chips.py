"""Slices by name, and the least time of a step counted by hand."""

import importlib.util

import pytest

from memcomp.cost.chips import CHIPS, parse_slice, roofline, slice_devices
from memcomp.cost.work import Collective, Work
from memcomp.errors import InputError


@pytest.mark.parametrize(
    "name, chips", [("v5e:1x1", 1), ("v5e:2x4", 8), ("v5p:2x2x2", 8), ("v6e:8x8", 64)]
)
def test_a_slice_by_its_name(name, chips):
    part = parse_slice(name)
    assert (str(part), part.num_chips, part.chip) == (name, chips, CHIPS[name[:3]])


@pytest.mark.parametrize("name", ["v5e-8", "v5e:8", "h100:2x4", "v5e:2x4x", "", "v5e:2,4"])
def test_other_names_are_refused(name):
    with pytest.raises(InputError, match=r'give one such as "v5e:2x4"'):
        parse_slice(name)


def test_without_libtpu_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'memcomp\[aot\]'"):
        slice_devices(parse_slice("v5e:2x4"))


def test_a_step_takes_as_long_as_its_longest_part():
    sent = {"all-reduce": Collective(2, 100, 50), "all-gather": Collective(1, 200, 200)}
    work = Work(197 * 10**9, 819 * 10**7, sent, 0, 0)
    times = roofline(work, CHIPS["v5e"])
    # A sum over devices is sent twice: scattered, then gathered.
    assert times == pytest.approx((1e-3, 1e-2, 400 / 0.2e12))
    assert (times.seconds, times.bound) == (pytest.approx(1e-2), "memory")
