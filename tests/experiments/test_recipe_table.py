"""The table of recipes: what is asked, and that it is asked once."""

import pathlib
import runpy
import types

import numpy as np
import pytest
import recipe_table
from etils import epath
from ml_collections import config_dict

from memcomp.cram.config import CramConfig
from memcomp.cram.horizon import Trial
from memcomp.cram.pool import Flying
from memcomp.cram.result import CramResult
from memcomp.data.texts import Text
from memcomp.errors import InputError
from memcomp.runs.files import append_records
from memcomp.studies import recipe_costs

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"

CFG = CramConfig(num_tokens=None, num_memory=4, batch_size=2, steps_per_chunk=20)


def load_config(name, what):
    return runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"](what)


def some_texts():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 23, (2, 4)).astype(np.int32)
    return [Text(i, "test", row) for i, row in enumerate(tokens)]


@pytest.mark.slow
def test_horizons_and_the_cost_of_coming_to_them(tiny_lm, tmp_path):
    lm, texts = tiny_lm, some_texts()
    found = recipe_costs.horizon(lm, texts, CFG)
    assert found["held"] == len(texts) == found["kept"]["float32"]
    assert set(found["kept"]) == {"float32", "bfloat16", "int8"}
    for held, cost, whole in zip(
        found["horizon"], found["token_steps"], found["token_steps_in_all"], strict=True
    ):
        assert 0 < held <= 4 and 0 < cost <= whole
        # What is spent after the last exact target is no part of the cost.
        assert held < 4 or cost == whole
    path = epath.Path(tmp_path / "records.jsonl")
    append_records(path, [about("other"), about("horizon") | found])
    to = recipe_costs.to_horizons(lm, texts, CFG, path, about("horizon"))
    assert to["exact"] == [True, True]
    assert to["their_token_steps"] == found["token_steps"]
    # A text that holds nothing is left out on both sides.
    append_records(path, [about("second") | found | {"horizon": [0, found["horizon"][1]]}])
    to = recipe_costs.to_horizons(lm, texts, CFG, path, about("second"))
    assert to["exact"] == [True] and to["their_token_steps"] == found["token_steps"][1:]


def test_the_cost_of_a_horizon_ends_where_its_prefix_was_found(tiny_lm, monkeypatch):
    """After the first of three chunks: the last two find no more."""
    text = some_texts()[0]
    width = tiny_lm.module.config.d_model
    ended = Trial(
        text, exact=2, failed=3, token_steps=30, memory=np.zeros((1, width), np.float32)
    )

    def chunks(*_):
        for moved, spent in (([], [10]), ([], [20]), ([ended], [])):
            flying = [Flying(text.seed_id, 4, 2, 9, n) for n in spent]
            yield moved, types.SimpleNamespace(flying=lambda flying=flying: flying)

    monkeypatch.setattr(recipe_costs, "horizons", chunks)
    found = recipe_costs.horizon(tiny_lm, [text], CFG)
    assert (found["token_steps"], found["token_steps_in_all"]) == ([10], [30])


def test_a_text_that_is_not_exact_has_further_starts(tiny_lm, monkeypatch):
    """Only what failed is crammed again; the best counts, and every start is paid for."""
    calls = []

    def fake(lm, texts, cfg):
        calls.append((len(texts), cfg.seed))
        further = [0.25, 1.0, 0.75, 0.25, 0.75, 0.5]  # of each text in turn
        accuracies = [1.0, 0.5, 0.5] if len(calls) == 1 else further
        return [result(t, a) for t, a in zip(texts, accuracies, strict=True)]

    monkeypatch.setattr(recipe_costs, "cram", fake)
    texts = [*some_texts(), some_texts()[0]]
    found = recipe_costs.at_length(tiny_lm, texts, CFG, 4, starts=4)
    assert calls == [(3, 0), (6, 1)]
    assert found["exact"] == [True, True, False]
    assert found["accuracy"] == [1.0, 1.0, 0.75]
    assert found["steps"] == [7, 4 * 7, 4 * 7]
    assert found["token_steps"] == [28, 4 * 28, 4 * 28]
    assert found["exact_starts"] == [1, 1, 0]


@pytest.mark.parametrize("field", ["horizons", "at_lengths", "compared"])
def test_a_recipe_that_is_not_there_is_refused_before_anything_is_written(tmp_path, field):
    config = load_config("recipe_table", "table")
    config.lms.nano.texts, config[field] = "nowhere", ("defualt",)
    with pytest.raises(InputError, match=f"{field} 'defualt' is not one of "):
        recipe_table.main(config, str(tmp_path / "run"))
    config = load_config("recipe_table", "table")
    config.lms.nano.texts, config.recipes.default.base = "nowhere", "defualt"
    with pytest.raises(InputError, match="the base of 'default' 'defualt' is not one of "):
        recipe_table.main(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_slice_of_the_passages_is_taken(monkeypatch):
    """Held-out texts are every second passage; the slices of one order do not overlap."""
    monkeypatch.setattr(recipe_table, "read_texts", lambda *args, **read: list(range(40)))
    monkeypatch.setattr(recipe_table, "tokenize", lambda tokenizer, texts, **cut: texts)
    lm = types.SimpleNamespace(tokenizer=None)
    one = config_dict.create(texts="f", read=dict(passages=4), most=8)
    config = config_dict.create(texts_seed=0, held_out=True, first_text=0, num_texts=20)
    assert sorted(recipe_table.choose_texts(lm, one, config)) == list(range(1, 40, 2))
    config.update(held_out=False, first_text=0)
    first = recipe_table.choose_texts(lm, one, config)
    config.first_text = 20
    assert sorted(first + recipe_table.choose_texts(lm, one, config)) == list(range(40))
    config.first_text = 21
    with pytest.raises(InputError, match="gives 40 texts .*; wanted 41: ask for more"):
        recipe_table.choose_texts(lm, one, config)


def test_no_start_is_refused_before_anything_is_written(tmp_path):
    config = load_config("recipe_table", "starts")
    config.lms.nano.texts, config.starts = "nowhere", 0
    with pytest.raises(InputError, match="starts is 0; give each text 1 or more"):
        recipe_table.main(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def result(tokens, accuracy):
    """A `CramResult` of which only the tokens, the accuracy and the steps matter."""
    nothing = np.zeros(0, np.float32)
    whole = dict(text_id=0, restart=0, seed_id=0, source="test", memory=nothing)
    whole |= dict(prefix=0, loss_nats=0.0, num_parameters=0)
    whole |= dict(
        min_loss_nats=0.0, margin=0.0, protocol="strict", num_given=0, way="vectors"
    )
    whole |= dict(lm_name="", lm_fingerprint="", seconds=0.0, loss_curve=nothing)
    whole |= dict(accuracy_curve=nothing, first_right_steps=nothing)
    whole |= dict(steps=7, token_steps=7 * len(tokens))
    return CramResult(tokens=tokens, accuracy=accuracy, **whole)


def about(question, **changes):
    """The beginning of a record."""
    record = dict(lm="nano", lm_sha256="0", texts_sha256="1", num_memory=1, seed=0)
    record |= dict(question=question, recipe="a", settings=dict(growth=[1, 2.0], ahead=4))
    return record | changes


@pytest.mark.parametrize(
    "changes, asked_again",
    [
        (dict(), False),
        (dict(recipe="the same by another name"), False),
        (dict(num_memory=2), True),
        (dict(seed=1), True),
        (dict(lm_sha256="2"), True),
        (dict(texts_sha256="2"), True),
        (dict(settings=dict(growth=[1, 2.0], ahead=5)), True),
    ],
)
def test_a_question_is_asked_once(tmp_path, changes, asked_again):
    asked = []

    def answer():
        asked.append(1)
        return {"token_steps": [1, 3], "horizon": [2, 4]}

    path = epath.Path(tmp_path / "records.jsonl")
    for begins in (about("horizon"), about("horizon", **changes)):
        question = recipe_costs.Question(begins, answer)
        recipe_costs.ask(path, [question], lambda record: None)
    assert len(asked) == 1 + asked_again
    rows = recipe_table.table(recipe_table.read_records(path)).splitlines()
    assert rows[2].startswith("| nano | 1 | horizon | a | 2 | 3.00 ± 1.00 |")
    assert len(rows) == 3 + asked_again


def test_all_questions_of_a_table_differ(tiny_lm, tmp_path):
    numbers = {"table": 3 + 2 + 2 * 2, "ablation": 1 + 1 + 6 + 6 + 4 + 5, "real": 2 * 24}
    for what, number in numbers.items():
        config = load_config("recipe_table", what)
        one = config_dict.create(lengths=(2, 3))
        path = epath.Path(tmp_path / "records.jsonl")
        named = recipe_table.recipes_of(config)
        about = tiny_lm, "nano", some_texts(), one, config, named, path
        asked = recipe_table.questions(*about)
        known = {recipe_costs.identity(q.about) for q in asked}
        assert len(known) == len(asked) == number
