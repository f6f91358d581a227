"""Horizons on disk: a run stopped anywhere ends with the records of one never stopped."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import safetensors.numpy
from etils import epath
from selection import first_here

from memcomp.cram.config import CramConfig
from memcomp.cram.horizon import Growth, Trial
from memcomp.cram.pool import Pool
from memcomp.cram.recipe import Recipe
from memcomp.cram.ways.table import memory_scores
from memcomp.data.texts import Text
from memcomp.runs import growth, ledger
from memcomp.runs import horizons as horizon_runs
from memcomp.runs.horizons import run_horizons

RECIPE = Recipe(learning_rate=0.5, max_steps=40, patience=40, margin=0.05, b2=0.99)
CFG = CramConfig(
    recipe=RECIPE, num_memory=6, steps_per_chunk=10, batch_size=2, vocab_chunk=7
)
GROWTH = Growth(2, 2.0)
WHOLE, GROWN, UNSTOPPED = [], [], []


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
        GROWN.extend(lines(folder, "growth.jsonl"))
    return WHOLE


def lines(folder, name="horizons.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text().split("\n")[:-1]]


def test_records_say_what_was_found(whole):
    assert [record["text_id"] for record in whole] == [0, 1, 2]
    for record, text in zip(whole, some_texts(), strict=True):
        assert record["num_tokens"] == len(text.tokens) >= record["horizon"] > 0
        assert record["exact_greedy"] == (record["horizon_teacher_forced"] > 0)
        assert record["horizon_bits"] == pytest.approx(record["horizon_nats"] / np.log(2))
        # Uniform over 23 ids for the first token, which has nothing before it.
        assert record["horizon_nats"] > np.log(23)


def test_the_gain_is_the_surprise_less_what_memory_leaves(whole, tiny_lm_float64, tmp_path):
    lm, texts = tiny_lm_float64, some_texts()
    run_horizons(lm, texts, CFG, GROWTH, epath.Path(tmp_path))
    score = jax.jit(memory_scores, static_argnames=("module", "vocab_chunk"))
    for record, text in zip(whole, texts, strict=True):
        path = tmp_path / record["memory_file"]
        memory = safetensors.numpy.load_file(path)["memory"]
        prefix = text.tokens[: record["horizon"]]
        scores = score(memory, prefix, lm.params, module=lm.module, vocab_chunk=7)
        gain = record["horizon_nats"] - float(np.sum(scores.loss))
        assert 0 < record["information_gain_nats"] == pytest.approx(gain, rel=1e-5)


def test_a_horizon_is_what_the_stored_vector_decodes_to(tiny_lm_float64, tmp_path):
    """Not what the optimiser saw: by hand, trials that say more or less than is there."""
    lm, (text, *_) = tiny_lm_float64, some_texts()
    (found,) = run_horizons(lm, [text], CFG, GROWTH, epath.Path(tmp_path))
    trial = horizon_runs._load_trial(epath.Path(tmp_path), text, CFG)
    held, whole = found["horizon"], len(text.tokens)
    assert 1 < held < whole
    for claimed in (1, held, whole):
        of = dataclasses.replace(trial, exact=claimed)
        (record,) = horizon_runs._records(lm, [of], CFG)
        assert record["horizon"] == held and record["horizon_teacher_forced"] == claimed
        assert record["horizon_nats"] == found["horizon_nats"]
        assert record["exact_greedy"] == (claimed <= held)
    nothing = dataclasses.replace(trial, exact=0, memory=None)
    (record,) = horizon_runs._records(lm, [nothing], CFG)
    assert record["horizon"] == record["horizon_nats"] == 0
    assert not record["exact_greedy"] and not record["exact_greedy_bfloat16"]


def test_growth_says_what_each_text_held_at_what_cost(whole):
    for record in whole:
        own = [line for line in GROWN if line["seed_id"] == record["seed_id"]]
        prefixes = [line["prefix"] for line in own]
        assert len(own) > 1 and prefixes == sorted(prefixes)
        assert prefixes[-1] == record["horizon_teacher_forced"]
        costs = [line["token_steps"] for line in own]
        assert costs == sorted(set(costs)) and costs[0] > 0
        # A text without progress has a line for each tenth that its cost grows.
        assert costs[-1] <= record["token_steps"] <= 1.1 * costs[-1]
        assert own[-1]["steps"] <= record["steps"]
        assert all(own[0][name] == record[name] for name in ("text_id", "num_memory"))


@pytest.mark.parametrize(
    ("module", "where"),
    [
        *((horizon_runs, name) for name in ("_save_trial", "_records", "write_flight")),
        *((of, "append_records") for of in (ledger, growth)),
    ],
)
@pytest.mark.parametrize("times", first_here([2, 1, 5]))
def test_a_stop_at_any_write_changes_no_record(
    module, where, times, whole, tiny_lm_float64, tmp_path, monkeypatch
):
    folder = epath.Path(tmp_path)
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
    # A stop may change in which order texts take their turns, but not what they do.
    assert sorted(map(str, lines(folder, "growth.jsonl"))) == sorted(map(str, GROWN))


# One target takes many chunks: all of each text at once.
LONG = dataclasses.replace(CFG, num_memory=1, steps_per_chunk=2)
AT_ONCE = Growth(10, 2.0)


def chunks_of(lm, folder, growth=AT_ONCE, stop_after=None, cfg=LONG):
    """Runs to the end, or to a stop after so many chunks; progress after each chunk."""
    seen = []

    def report(progress):
        seen.append(progress)
        if len(seen) == stop_after:
            raise Stopped

    records = run_horizons(lm, some_texts(), cfg, growth, epath.Path(folder), report)
    return seen, records


@pytest.fixture
def long(tiny_lm_float64, tmp_path_factory):
    """Progress and records of a run of long targets that was never stopped; made once."""
    if not UNSTOPPED:
        folder = tmp_path_factory.mktemp("long")
        UNSTOPPED.extend(chunks_of(tiny_lm_float64, folder))
    return UNSTOPPED


@pytest.mark.ci
@pytest.mark.parametrize("chunks", [1, 7, 15, 24])
def test_a_stop_after_a_chunk_of_a_long_target_loses_nothing(
    chunks, long, tiny_lm_float64, tmp_path
):
    seen, want = long
    assert len(seen) > 24  # 40 steps of the first two texts, 2 a chunk, then the third
    with pytest.raises(Stopped):
        chunks_of(tiny_lm_float64, tmp_path, stop_after=chunks)
    rest, got = chunks_of(tiny_lm_float64, tmp_path)
    assert got == want and len(rest) == len(seen) - chunks
    assert rest[0].longest == seen[chunks].longest
    assert not (tmp_path / horizon_runs.FLIGHT).exists()


@pytest.mark.ci
def test_a_stop_loses_nothing_of_a_recipe_that_grows(tiny_lm_float64, tmp_path):
    """Its only target is the whole text, whatever the rule of growth."""
    recipe = dataclasses.replace(RECIPE, grows=True, max_steps=80)
    options = {"growth": GROWTH, "cfg": dataclasses.replace(LONG, recipe=recipe)}
    seen, want = chunks_of(tiny_lm_float64, tmp_path / "whole", **options)
    assert [record["num_targets"] for record in want] == [1, 1, 1]
    folder = tmp_path / "stopped"
    with pytest.raises(Stopped):
        chunks_of(tiny_lm_float64, folder, stop_after=12, **options)
    rest, got = chunks_of(tiny_lm_float64, folder, **options)
    assert got == want and len(rest) == len(seen) - 12 > 10


@pytest.mark.ci
@pytest.mark.parametrize("chunks", [1, 7, 24])
def test_a_kill_within_a_chunk_of_a_long_target_loses_that_chunk(
    chunks, long, tiny_lm_float64, tmp_path, monkeypatch
):
    seen, want = long
    real, calls = Pool.advance, 0

    def dying(pool):
        nonlocal calls
        calls += 1
        if calls > chunks:
            raise Stopped
        return real(pool)

    with monkeypatch.context() as patch:
        patch.setattr(Pool, "advance", dying)
        with pytest.raises(Stopped):
            chunks_of(tiny_lm_float64, tmp_path)
    rest, got = chunks_of(tiny_lm_float64, tmp_path)
    assert got == want and len(rest) == len(seen) - chunks


@pytest.mark.ci
@pytest.mark.parametrize("chunks", [1, 7, 24])
def test_what_is_held_so_far_is_decoded_from_what_was_saved(
    chunks, long, tiny_lm_float64, tmp_path
):
    seen, whole = long
    with pytest.raises(Stopped):
        chunks_of(tiny_lm_float64, tmp_path, stop_after=chunks)
    folder = epath.Path(tmp_path)
    got = horizon_runs.horizons_so_far(tiny_lm_float64, some_texts(), LONG, folder)
    held = [record["horizon_teacher_forced"] for record in got]
    assert np.mean(held) == pytest.approx(seen[chunks - 1].mean_exact)
    for record, end in zip(got, whole, strict=True):
        assert record["horizon"] >= record["horizon_teacher_forced"]
        assert record["failed"] in (None, end["failed"])
        assert record["token_steps"] <= end["token_steps"]
    assert any(record["token_steps"] for record in got)


@pytest.mark.ci
def test_what_has_ended_since_the_flight_was_saved_does_not_count_twice(
    tiny_lm_float64, tmp_path
):
    with pytest.raises(Stopped):
        chunks_of(tiny_lm_float64, tmp_path, stop_after=3)
    flight = horizon_runs.read_flight(epath.Path(tmp_path))
    trials = {text.text_id: Trial(text) for text in some_texts()}
    flying = horizon_runs._as_trials(flight, trials)
    assert flying and all(trial.steps == 6 for trial in flying.values())
    ended = {i: dataclasses.replace(t, num_targets=1) for i, t in trials.items()}
    assert horizon_runs._as_trials(flight, ended) == {}


@pytest.mark.ci
def test_a_target_that_is_no_longer_asked_for_is_begun_anew(tiny_lm_float64, tmp_path):
    """In flight at 10 and 4 tokens, resumed with targets of 3 at the most."""
    with pytest.raises(Stopped):
        chunks_of(tiny_lm_float64, tmp_path, stop_after=3)
    _, got = chunks_of(tiny_lm_float64, tmp_path, growth=Growth(10, 2.0, most=3))
    folder = tmp_path / "never stopped"
    _, want = chunks_of(tiny_lm_float64, folder, growth=Growth(10, 2.0, most=3))
    assert [r["horizon"] for r in got] == [r["horizon"] for r in want]
    assert [r["steps"] for r in got] == [r["steps"] for r in want]


@pytest.mark.ci
def test_progress_is_of_the_texts_in_flight(long):
    seen, records = long
    first, last = seen[0], seen[-1]
    assert (first.num_texts, first.num_done, last.num_done) == (3, 0, 3)
    assert all(progress.token_steps_per_second > 0 for progress in seen)
    # Nothing is known of the patience of texts that are not in flight.
    assert first.seconds_left > 0 and last.seconds_left == 0
    assert last.longest == 0 < max(progress.longest for progress in seen) <= 10
    assert last.mean_exact == np.mean([r["horizon"] for r in records])


@pytest.mark.ci
def test_longer_texts_go_on_from_the_horizons_of_the_shorter(
    whole, tiny_lm_float64, tmp_path
):
    folder, texts = epath.Path(tmp_path), some_texts()
    short = [dataclasses.replace(text, tokens=text.tokens[:2]) for text in texts]
    first = run_horizons(tiny_lm_float64, short, CFG, GROWTH, folder)
    assert [r["horizon"] for r in first] == [2, 2, 2]
    got = run_horizons(tiny_lm_float64, texts, CFG, GROWTH, folder)
    assert sorted(lines(folder), key=lambda r: r["text_id"]) == got
    for record, before, of_whole in zip(got, first, whole, strict=True):
        assert record["num_tokens"] == of_whole["num_tokens"]
        assert record["text_sha256"] == of_whole["text_sha256"]
        assert record["horizon"] >= 2 and record["exact_greedy"]
        assert record["steps"] > before["steps"]
    # And a start with nothing new changes nothing.
    assert run_horizons(tiny_lm_float64, texts, CFG, GROWTH, folder) == got


def test_more_texts_redo_none(whole, tiny_lm_float64, tmp_path):
    folder, texts = epath.Path(tmp_path), some_texts()
    run_horizons(tiny_lm_float64, texts[:2], CFG, GROWTH, folder)
    first = lines(folder)
    got = run_horizons(tiny_lm_float64, texts, CFG, GROWTH, folder)
    assert lines(folder)[: len(first)] == first and got == whole
    assert len(lines(folder)) == len(texts)
