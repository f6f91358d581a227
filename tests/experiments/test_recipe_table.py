"""The table of recipes: what is asked, and that it is asked once."""

import numpy as np
import recipe_table
from etils import epath
from ml_collections import config_dict

from memcomp.cram.config import CramConfig
from memcomp.cram.horizon import Growth
from memcomp.data.texts import Text

CFG = CramConfig(num_tokens=None, num_memory=4, batch_size=2, steps_per_chunk=20)


def some_texts():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 23, (2, 4)).astype(np.int32)
    return [Text(i, "test", row) for i, row in enumerate(tokens)]


def test_horizons_and_the_cost_of_coming_to_them(tiny_lm):
    lm, texts = tiny_lm, some_texts()
    found = recipe_table.horizon(lm, texts, CFG, Growth(first=2, factor=2.0), {})
    assert found["held"] == len(texts) == found["kept"]["float32"]
    assert set(found["kept"]) == {"float32", "bfloat16", "int8"}
    for held, cost, whole in zip(
        found["horizon"], found["token_steps"], found["token_steps_in_all"], strict=True
    ):
        assert 0 < held <= 4 and 0 < cost <= whole
        # What is spent after the last exact target is no part of the cost.
        assert held < 4 or cost == whole
    to = recipe_table.to_horizons(lm, texts, CFG, "default", {"default": found})
    assert to["exact"] == [True, True]
    assert to["their_token_steps"] == found["token_steps"]


def test_a_question_is_asked_once_for_each_lm_and_number_of_vectors(tmp_path):
    asked = []

    def answer(found):
        asked.append(sorted(found))
        return {"token_steps": [1, 3], "horizon": [2, 4]}

    questions = {("horizon", "a"): answer, ("to the horizon of a", "b"): answer}
    path = epath.Path(tmp_path / "records.jsonl")
    for num_memory in (1, 1, 2):
        config = config_dict.create(num_memory=num_memory)
        recipe_table.ask(path, "nano", questions, config)
    assert asked == [[], ["a"]] * 2
    rows = recipe_table.table(recipe_table.read_records(path)).splitlines()
    assert len(rows) == 2 + 4
    assert rows[2].startswith("| nano | 1 | horizon | a | 2 | 3.00 ± 1.00 |")
