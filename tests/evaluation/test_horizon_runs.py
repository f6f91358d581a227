"""Horizons on disk: a run stopped anywhere ends with the records of one never stopped."""

import json

import numpy as np
import pytest
from etils import epath

from memcomp.cram.config import CramConfig
from memcomp.cram.horizon import Growth
from memcomp.cram.recipe import Recipe
from memcomp.data.texts import Text
from memcomp.evaluation import horizon_runs, ledger
from memcomp.evaluation.horizon_runs import run_horizons

RECIPE = Recipe(learning_rate=0.5, max_steps=40, patience=40, margin=0.05, b2=0.99)
CFG = CramConfig(
    recipe=RECIPE, num_memory=6, steps_per_chunk=10, batch_size=2, vocab_chunk=7
)
GROWTH = Growth(2, 2.0)
WHOLE = []


class Stopped(Exception):
    pass


def some_texts():
    rng = np.random.default_rng(6)
    lengths = (10, 4, 9)
    return [
        Text(i, "test", rng.integers(0, 23, length).astype(np.int32))
        for i, length in enumerate(lengths)
    ]


@pytest.fixture
def whole(tiny_lm_float64, tmp_path_factory):
    """The records of a run that was never stopped; made once."""
    if not WHOLE:
        folder = epath.Path(tmp_path_factory.mktemp("whole"))
        WHOLE.extend(run_horizons(tiny_lm_float64, some_texts(), CFG, GROWTH, folder))
    return WHOLE


def lines(folder):
    return [
        json.loads(line)
        for line in (folder / "horizons.jsonl").read_text().split("\n")[:-1]
    ]


def test_records_say_what_was_found(whole):
    assert [record["text_id"] for record in whole] == [0, 1, 2]
    for record, text in zip(whole, some_texts(), strict=True):
        assert record["num_tokens"] == len(text.tokens) >= record["horizon"] > 0
        assert record["exact_greedy"]
        assert record["horizon_bits"] == pytest.approx(record["horizon_nats"] / np.log(2))
        # Uniform over 23 ids for the first token, which has nothing before it.
        assert record["horizon_nats"] > np.log(23)


@pytest.mark.parametrize("where", ["_save_trial", "append_records", "_records"])
@pytest.mark.parametrize("times", [1, 2, 5])
def test_a_stop_at_any_write_changes_no_record(
    where, times, whole, tiny_lm_float64, tmp_path, monkeypatch
):
    folder = epath.Path(tmp_path)
    module = ledger if where == "append_records" else horizon_runs
    real, calls = getattr(module, where), 0

    def stopping(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls > times:
            raise Stopped
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(module, where, stopping)
        with pytest.raises(Stopped):
            run_horizons(tiny_lm_float64, some_texts(), CFG, GROWTH, folder)
    got = run_horizons(tiny_lm_float64, some_texts(), CFG, GROWTH, folder)
    assert got == whole
    assert sorted(lines(folder), key=lambda r: r["text_id"]) == whole


def test_more_texts_redo_none(whole, tiny_lm_float64, tmp_path):
    folder, texts = epath.Path(tmp_path), some_texts()
    run_horizons(tiny_lm_float64, texts[:2], CFG, GROWTH, folder)
    first = lines(folder)
    got = run_horizons(tiny_lm_float64, texts, CFG, GROWTH, folder)
    assert lines(folder)[: len(first)] == first and got == whole
    assert len(lines(folder)) == len(texts)
