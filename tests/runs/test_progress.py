"""Progress as a user sees it: a bar on a terminal, a line now and then elsewhere."""

import types

import pytest

from memcomp.runs import progress as shown
from memcomp.runs.progress import bar_of


def report_of(num_done, times, monkeypatch):
    """Reports progress at these times on the clock; returns the number of chunks told."""
    told = []
    with bar_of(4, lambda p: {"exact": p.num_done}, lambda: told.append(1)) as report:
        for time in times:
            monkeypatch.setattr(shown.time, "monotonic", lambda time=time: time)
            report(types.SimpleNamespace(num_done=num_done))
    return len(told)


def test_a_log_has_a_line_now_and_then(monkeypatch, capsys):
    assert report_of(3, [0.0, 1.0, 9.0, 10.0, 15.0, 21.0], monkeypatch) == 6
    assert capsys.readouterr().err.splitlines() == ["3 of 4 texts, exact=3"] * 3


def test_a_terminal_has_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(shown.sys.stderr, "isatty", lambda: True, raising=False)
    assert report_of(3, [0.0, 20.0], monkeypatch) == 2
    said = capsys.readouterr().err
    assert "0/4" in said and "3 of 4 texts" not in said


@pytest.mark.parametrize("is_terminal", [False, True])
def test_only_the_first_process_says_it(monkeypatch, capsys, is_terminal):
    monkeypatch.setattr(shown.sys.stderr, "isatty", lambda: is_terminal, raising=False)
    monkeypatch.setattr("jax.process_index", lambda: 1)
    assert report_of(3, [0.0, 20.0], monkeypatch) == 2
    assert not capsys.readouterr().err
