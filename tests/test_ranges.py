"""Numbers out of their range, wherever a user can give one."""

import dataclasses

import launch
import numpy as np
import pytest

from memcomp import ranges
from memcomp.compressors.training import TrainConfig
from memcomp.cram.config import CramConfig
from memcomp.cram.horizon import Growth
from memcomp.cram.recipe import RECIPES, Recipe
from memcomp.cram.schedule import check_fits
from memcomp.data.documents import find_documents
from memcomp.data.texts import ALL, Text, count_texts, read_texts
from memcomp.errors import InputError
from memcomp.pretrain import TrainConfig as PretrainConfig
from memcomp.ranges import check_choice
from memcomp.runs.inputs import load_texts
from memcomp.studies.geometry import CurveConfig
from memcomp.studies.restarts import GeometryConfig

NAN, INF, HUGE = float("nan"), float("inf"), 99999999999999999999
PRETRAIN = dict(num_tokens=64, window=4, batch_size=2, learning_rate=0.1, warmup=0.1)
PRETRAIN |= dict(embedding_learning_rate=0.1, decay=0.1, weight_decay=0.0)
PRETRAIN |= dict(max_grad_norm=1.0, dtype="float32")
# Of the right type: in tests, another one stops at the annotations.
COUNTED = (0, -1, HUGE)
MEASURED = (-1.0, NAN, INF)
MAKERS = {
    "cram": CramConfig,
    "recipe": lambda **fields: dataclasses.replace(RECIPES["default"], **fields),
    "growth": Growth,
    "curve": CurveConfig,
    "study": GeometryConfig,
    "pretrain": lambda **fields: PretrainConfig(**PRETRAIN | fields),
    "texts": lambda **fields: read_texts("builtin", **fields),
}
CASES = [
    *(("cram", n, v) for n in ("num_memory", "batch_size", "max_steps") for v in COUNTED),
    *(("cram", n, v) for n in ("steps_per_chunk", "vocab_chunk") for v in COUNTED),
    *(("cram", n, v) for n in ("margin", "learning_rate") for v in MEASURED),
    *((make, "seed", v) for make in ("cram", "curve") for v in COUNTED[1:]),
    *(("texts", "seed", v) for v in (-1, HUGE)),
    *(("recipe", n, v) for n in ("eps", "sure_weight", "init_scale") for v in MEASURED),
    *(("recipe", "easy", v) for v in MEASURED),
    *(("recipe", n, v) for n in ("b1", "b2") for v in (*MEASURED, 1.5)),
    *(("recipe", n, v) for n in ("patience", "window", "rank") for v in COUNTED),
    *(("growth", "first", v) for v in COUNTED),
    *(("growth", "factor", v) for v in (*MEASURED, 0.5)),
    *(("study", n, v) for n in ("num_restarts", "num_vocabulary") for v in COUNTED),
    ("study", "scales", (1.0, NAN)),
    *(("curve", "steps", v) for v in COUNTED),
    *(("pretrain", n, v) for n in ("learning_rate", "weight_decay") for v in MEASURED),
    *(("pretrain", "batch_size", v) for v in COUNTED),
    *(("texts", n, v) for n in ("passages", "num_words") for v in (0, -1)),
    *(("texts", "num_texts", v) for v in (0, -2, HUGE)),
]


@pytest.mark.parametrize(("make", "name", "value"), CASES)
def test_what_is_out_of_its_range_is_one_sentence_with_its_name(make, name, value):
    with pytest.raises(InputError, match=rf"{name[:6]}.* is .*; (it must be|give)|factor"):
        MAKERS[make](**{name: value})


@pytest.mark.parametrize("value", [1.5, NAN, "3", None, (1,)])
def test_what_is_no_whole_number_is_refused(value):
    with pytest.raises(InputError, match="n is .*; give a whole number"):
        ranges.check_count("n", value)
    with pytest.raises(InputError, match="n is .*; give a whole number"):
        ranges.check_seed("n", value)


@pytest.mark.parametrize("value", [NAN, INF, "3", None, 1j])
def test_what_is_no_finite_number_is_refused(value):
    with pytest.raises(InputError, match="x is .*; give a finite number"):
        ranges.check_number("x", value, above=0)


def test_the_ends_of_the_ranges_are_in_them():
    ranges.check_seed("seed", ranges.MOST_SEED)
    ranges.check_count("n", np.int64(1))
    assert CramConfig(seed=2**32 - 1, margin=0.0, max_steps=1).max_steps == 1
    assert dataclasses.replace(RECIPES["default"], b1=0.0, b2=1.0).b2 == 1
    assert Recipe(learning_rate=1e-3, max_steps=1, patience=1, margin=0.0).margin == 0
    assert TrainConfig.__dataclass_fields__.keys() >= {"num_steps", "max_grad_norm"}


@pytest.mark.parametrize(("num_memory", "fits"), [(63, True), (64, True), (65, False)])
def test_more_memory_than_positions_is_told_of_memory(tiny_lm, num_memory, fits):
    text = Text(0, "a", np.zeros(1, np.int32))
    cfg = CramConfig(num_tokens=None, num_memory=num_memory)
    if fits:
        return check_fits(tiny_lm, [text], cfg)
    with pytest.raises(InputError, match="set num_memory to 64 or less"):
        check_fits(tiny_lm, [text], cfg)


@pytest.mark.parametrize("source", ["", None])
def test_no_name_of_texts_is_not_the_current_folder(tmp_path, monkeypatch, source):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "a.jsonl").write_text('{"text": "x"}')
    monkeypatch.chdir(tmp_path)
    for read in (read_texts, find_documents):
        with pytest.raises(InputError, match="texts is not set; give a file|no name of"):
            read(source or "")
    with pytest.raises(InputError, match="need `vocabulary`"):
        read_texts("random_words", vocabulary="", num_texts=1)


@pytest.mark.parametrize("value", ["c", None, ["a"], {}])
def test_a_name_that_is_not_known_is_refused_with_those_that_are(value):
    check_choice("letter", "a", {"a": 1, "b": 2})
    with pytest.raises(InputError, match=r"^letter .* is not one of a, b$"):
        check_choice("letter", value, {"a": 1, "b": 2})


@pytest.mark.parametrize(("num_texts", "taken"), [(2, 2), (ALL, 5), (None, 5)])
def test_how_many_texts_are_taken_is_said(tiny_lm, tmp_path, capsys, num_texts, taken):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "rain"}\n' * 5)
    entries = dict(
        texts=str(path),
        field="text",
        num_texts=num_texts,
        passages=1,
        seed=0,
        vocabulary="",
        manual_dir="",
    )
    assert len(load_texts(entries, tiny_lm, launch.note)[0]) == taken
    assert not capsys.readouterr().err  # not before all input is accepted
    launch.say_notes()
    said = capsys.readouterr().err
    assert ("taking the first 2 of 5 texts" in said) == (taken == 2)
    assert count_texts("-") is None
