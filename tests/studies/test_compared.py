"""Tables of stage evaluate with several compressors, and with memory of cramming."""

import dataclasses
import json
import threading
from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest
from cramming_run import untimed
from etils import epath
from icformer_run import (
    import_script,
    make_folder,
    setup_of,
    tiny,
    with_random_weights,
)
from selection import first_here

from memcomp.compressors import layout
from memcomp.compressors.registry import save_compressor
from memcomp.cram.api import cram
from memcomp.cram.config import CramConfig
from memcomp.cram.decode import decode
from memcomp.cram.result import CramResult
from memcomp.cram.ways.table import WAYS
from memcomp.errors import InputError, Stopped
from memcomp.studies import answers as compressed
from memcomp.studies import compared as rows
from memcomp.studies import compressor_tables as tables
from memcomp.studies.compared import by_compressor


@pytest.fixture(scope="module")
def script():
    yield from import_script()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("icformer"))


def evaluation(folder, **changes):
    """The config of a table of texts of twelve tokens."""
    config = tiny(folder, stage="evaluate", dtype="float32", seed=3)
    config.evaluate.update(lengths=(12,), kinds=("normal",))
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def files(folder):
    """Compressors with random weights: of both kinds, of more vectors, of another LM."""
    settings = {
        "icformer": {},
        "icae": {"compressor": "icae", "icae.num_digests": 3},
        "large": {"icformer.num_digests": 60},
    }
    found = {name: str(folder / f"{name}.safetensors") for name in (*settings, "foreign")}
    for name, changes in settings.items():
        trained = with_random_weights(setup_of(evaluation(folder, **changes)))
        save_compressor(found[name], trained)
    foreign = dataclasses.replace(trained, lm_name="theirs", lm_fingerprint="0" * 64)
    save_compressor(found["foreign"], foreign)
    return found


def workdir(tmp_path):
    return epath.Path(tmp_path)


def study(config, tmp_path):
    """A table, and the first of the compressors that it is made of."""
    compared = tables.load_evaluated(setup_of(config))
    make = tables.STUDIES[config.evaluate.study].make
    return make(compared, workdir(tmp_path), lambda: None), compared[0]


@pytest.mark.slow
def test_memory_of_cramming_says_its_text(folder, files, tmp_path, monkeypatch):
    config = evaluation(folder, start=files["icformer"])
    config.evaluate.update(cramming=True, cramming_starts=True)
    config.evaluate.cram = {"recipe": "progressive"}
    lm = setup_of(config).lm
    # What an LM with random weights can be made to say at all.
    rng = np.random.default_rng(0)
    memory = 3 * rng.standard_normal((2, 4, 16)).astype(np.float32)
    texts = list(decode(lm, memory, 12))
    monkeypatch.setattr(tables, "held_out", lambda *args: texts)
    made, compared = study(config, tmp_path)
    wanted = ["normal 12", "cramming 12", "cramming from icformer 12", "no vectors 12"]
    assert list(made.rows) == wanted
    cfg = CramConfig(num_tokens=None, num_memory=4, recipe="progressive", seed=3)
    results = cram(lm, texts, cfg)
    records = made.rows["cramming 12"]()
    for text, result, record in zip(texts, results, records, strict=True):
        assert result.exact
        np.testing.assert_array_equal(decode(lm, result.memory, 12), text)
        assert record["exact"] and record["text_bleu"] == pytest.approx(1)
        assert (record["num_vectors"], record["num_tokens"]) == (4, 12)  # of two chunks
        assert record["accuracy"] == record["context_accuracy"] == 1
        assert record["steps"] == result.steps
        assert record["nats_per_token"] == pytest.approx(result.loss_nats, abs=1e-5)
        assert record["gain_nats_per_token"] > 0
    begun = made.rows["cramming from icformer 12"]()
    starts = list(by_compressor(compared)(texts)[0].vectors)
    for result, record in zip(cram(lm, texts, cfg, starts=starts), begun, strict=True):
        assert result.exact and record["steps"] == result.steps
    assert [record["steps"] for record in begun] != [record["steps"] for record in records]


def crammed(calls):
    """In the place of `cram`: memories of random numbers, and what they are asked for."""

    def cram(lm, texts, cfg, report, starts):
        calls.append((cfg.num_memory, [text.tolist() for text in texts]))
        report()
        shape, rng = (cfg.num_memory, lm.config.d_model), np.random.default_rng(len(calls))
        made = dict(spec=CramResult, accuracy=0.5, steps=2, token_steps=24, seconds=1.5)
        return [mock.Mock(memory=rng.random(shape), tokens=x, **made) for x in texts]

    return cram


def test_contexts_are_crammed_once_with_their_own_numbers_of_vectors(folder, monkeypatch):
    lm, calls = setup_of(evaluation(folder)).lm, []
    monkeypatch.setattr(compressed, "cram", crammed(calls))
    texts = [np.array(x) for x in ([5, 6, 7], [8, 9], [5, 6, 7], [10, 11])]
    prompts, results = compressed.cram_contexts(lm, texts, [2, 1, 2, 2], CramConfig())
    assert calls == [(1, [[8, 9]]), (2, [[5, 6, 7], [10, 11]])]
    assert prompts.counts.tolist() == [2, 1, 2, 2] and not prompts.special.any()
    for vectors, count, result in zip(
        prompts.vectors, prompts.counts, results, strict=True
    ):
        np.testing.assert_array_equal(vectors[:count], result.memory.astype(np.float32))
        assert not vectors[count:].any()
    assert [result.tokens.tolist() for result in results] == [x.tolist() for x in texts]


@pytest.mark.ci
def test_memory_is_asked_from_the_beginning_of_a_row(folder, files, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    config = evaluation(folder, start=files["icformer"], **{"evaluate.study": "answers"})
    config.evaluate.update(num_texts=3, cramming=True)
    made, _ = study(config, tmp_path)
    assert list(made.rows) == ["icformer", "cramming", "full context", "no context"]
    asked, crams = {}, []

    def decode_rows(lm, prompts, rows, **options):
        asked[name] = rows
        return [np.zeros(0, np.int32) for _ in rows]

    monkeypatch.setattr(compressed, "decode_rows", decode_rows)
    monkeypatch.setattr(compressed, "cram", crammed(crams))
    for name in ("icformer", "cramming"):
        records = made.rows[name]()
    assert {"context_accuracy", "rouge_l_f1", "nats_per_token"} <= records[0].keys()
    assert [(count, len(texts)) for count, texts in crams] == [(4, 1)]  # of three questions
    for ours, theirs in zip(asked["cramming"], asked["icformer"], strict=True):
        assert ours.slots[:4].tolist() == [2, 3, 4, 5]  # digests of two chunks
        assert (ours.slots[4:] == layout.TOKEN).all()
        (special,) = np.flatnonzero(theirs.slots == layout.SPECIAL.index("ft"))
        assert special > 4 and len(theirs.tokens) > special + 1
        np.testing.assert_array_equal(ours.tokens[4:], theirs.tokens[special + 1 :])


@pytest.mark.slow
def test_a_table_that_is_told_to_stop_goes_on(script, folder, files, tmp_path, monkeypatch):
    told = threading.Event()

    def stop_if_told():
        if told.is_set():
            raise Stopped

    def table(name):
        config = evaluation(folder, start=files["icformer"])
        config.evaluate.lengths = (4, 12)
        script.main(config, str(tmp_path / name))

    monkeypatch.setattr(rows, "GROUP", 1)
    monkeypatch.setattr(script, "stop_if_told", stop_if_told)
    groups, spoken_from = [], compressed.spoken_from

    def counted(*args, **options):
        groups.append(args)
        if len(groups) == 3:  # two texts a row: in the middle of the second row
            told.set()
        return spoken_from(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(compressed, "spoken_from", counted)
        with pytest.raises(Stopped):
            table("cut")
    assert len(groups) == 3
    cut = tmp_path / "cut"
    kept = (cut / "results.jsonl").read_text()
    assert [json.loads(line)["kind"] for line in kept.splitlines()] == ["normal 4"] * 2
    assert not (cut / "summary.json").exists()
    told.clear()
    for name in ("cut", "whole"):
        table(name)
    ends = [
        untimed(map(json.loads, (path / "results.jsonl").read_text().splitlines()))
        for path in (cut, tmp_path / "whole")
    ]
    assert ends[0] == ends[1] and (cut / "summary.json").exists()
    assert (cut / "results.jsonl").read_text().startswith(kept)


def test_a_row_of_a_table_stops_when_it_is_told_to(folder, files, monkeypatch):
    (one,) = rows.load_compared(setup_of(evaluation(folder, start=files["icformer"])))
    calls, told = [], []
    monkeypatch.setattr(compressed, "cram", crammed(calls))

    def stop_if_told():
        if told:
            raise Stopped

    make = rows.by_cramming(one, stop_if_told)
    make([np.arange(12)])
    told.append(True)
    with pytest.raises(Stopped):  # within cramming
        make([np.arange(12)])
    assert len(calls) == 2
    row, make = layout.autoencoding_row(np.arange(12), 4, None), mock.Mock()
    with pytest.raises(Stopped):
        rows.scored(one.setup.lm, make, [np.arange(12)], [row], 13, stop_if_told)
    make.assert_not_called()


def test_names_tell_compressors_of_one_kind_apart(folder, files):
    beside = tuple(files[name] for name in ("icae", "large", "icae"))
    config = evaluation(folder, start=files["icformer"], **{"evaluate.beside": beside})
    compared = rows.load_compared(setup_of(config))
    assert [one.name for one in compared] == [
        "icformer",
        "icae",
        "icformer num_digests=60",
        "icae (2)",
    ]
    counts = [rows.num_vectors(one, [np.arange(12)])[0] for one in compared]
    assert counts == [4, 6, 120, 6]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["reconstruction", "answers"])
def test_a_row_does_not_depend_on_what_is_beside_it(
    script, folder, files, tmp_path, monkeypatch, kind
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))

    def table(name, **changes):
        config = evaluation(folder, **{"evaluate.study": kind}, **changes)
        script.main(config, str(tmp_path / name))
        lines = (tmp_path / name / "results.jsonl").read_text().splitlines()
        found = {}
        for record in map(json.loads, lines):
            found.setdefault(record.pop("kind"), []).append(record)
        return found

    alone = {"compressor": "icae", "icae.num_digests": 3, "start": files["icae"]}
    alone = table("alone", **alone)
    together = {"start": files["icformer"], "evaluate.beside": (files["icae"],)}
    together = table("together", **together)
    if kind == "answers":
        assert list(together) == ["icformer", "icae", "full context", "no context"]
        assert together["icae"] == alone["icae"] != together["icformer"]
    else:
        wanted = ["icformer normal 12", "icae normal 12", "no vectors 12"]
        assert list(together) == wanted
        assert together["icae normal 12"] == alone["normal 12"]
        assert together["icformer normal 12"] != alone["normal 12"]
        assert together["icae normal 12"][0]["num_vectors"] == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beside": ("nowhere",)}, "nowhere cannot be read"),
        ({"beside": ("",)}, "evaluate.beside has ''; give folders of runs"),
        ({"beside": (3,)}, "evaluate.beside has 3; give folders of runs"),
        ({"beside": ("foreign",)}, "was trained with theirs .*, not with"),
        ({"beside": ("large",)}, r"needs \d\d\d positions, but .* has 128"),
        ({"cramming": True, "cram.recipe": "best"}, "recipe 'best' is not one of"),
        ({"cramming": True, "cram.patience": 0}, "patience is 0; it must be above 0"),
        ({"cramming": True, "cram.batch_size": 0}, "batch_size is 0; it must be 1"),
    ],
)
@pytest.mark.parametrize("kind", first_here(["reconstruction", "answers"]))
def test_tables_that_cannot_be_made_are_refused_before_anything_is_written(
    script, folder, files, tmp_path, kind, changes, message
):
    config = evaluation(folder, start=files["icformer"], **{"evaluate.study": kind})
    config.update_from_flattened_dict({f"evaluate.{k}": v for k, v in changes.items()})
    config.evaluate.beside = tuple(files.get(x, x) for x in config.evaluate.beside)
    with pytest.raises(InputError, match=message):
        script.main(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_only_reconstructions_are_crammed_from_digests(script, folder, files, tmp_path):
    changes = {"evaluate.study": "answers", "evaluate.cramming_starts": True}
    config = evaluation(folder, start=files["icformer"], **changes)
    with pytest.raises(InputError, match="cramming_starts does not belong to study 'answ"):
        script.main(config, str(tmp_path / "run"))


def test_a_context_and_its_memory_have_room_in_the_lm(folder):
    config = evaluation(folder)
    config.context.update(length=117, max_chunk=20)  # twelve vectors
    rows.cram_config(setup_of(config))
    config.context.length = 118
    with pytest.raises(InputError, match="needs 129 positions, but .* has 128"):
        rows.cram_config(setup_of(config))
    config.evaluate.cram = {"memory": "cache", "num_memory": 10}
    rows.cram_config(setup_of(config))
    config.evaluate.cram = {"memory": "cache", "num_memory": 11}
    with pytest.raises(InputError, match="needs 129 positions, but .* has 128"):
        rows.cram_config(setup_of(config))
    config.evaluate.study = "answers"
    config.question.update(prompt=100, answer=18)
    config.evaluate.cram = {"memory": "cache", "num_memory": 10}
    with pytest.raises(InputError, match="needs 129 positions, but .* has 128"):
        rows.cram_config(setup_of(config))


@pytest.mark.parametrize(
    ("cram", "message"),
    [
        ({"memory": "cache"}, "'cache', which cannot begin with the vectors of a compr"),
        ({"memory": "one_step"}, "in the way one_step the LM reads no text"),
    ],
)
def test_ways_that_a_table_has_no_line_for_are_refused(folder, cram, message):
    config = evaluation(folder)
    config.evaluate.update(cram=cram, cramming_starts=True)
    with pytest.raises(InputError, match=message):
        rows.cram_config(setup_of(config))


def cached(lm, text):
    """The cache that the LM has after it has read a text, as numbers."""
    way = WAYS["cache"]
    return np.asarray(way.of_tokens(lm.params, jnp.asarray(text), module=lm.module))


@pytest.mark.ci
@pytest.mark.parametrize("kind", ["reconstruction", "answers"])
def test_a_cache_of_real_tokens_is_read_as_these_tokens_are(
    folder, files, tmp_path, monkeypatch, kind
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    config = evaluation(folder, start=files["icformer"], **{"evaluate.study": kind})
    config.evaluate.update(num_texts=3, cramming=True, cram={"memory": "cache"})
    given = np.array([7, 5, 9, 6], np.int32)

    def cram(lm, texts, cfg, report, starts):
        made = dict(spec=CramResult, accuracy=0.5, steps=2, token_steps=24, seconds=1.5)
        return [mock.Mock(memory=cached(lm, given), tokens=x, **made) for x in texts]

    monkeypatch.setattr(compressed, "cram", cram)
    made, one = study(config, tmp_path)
    lm, read = one.setup.lm, []
    monkeypatch.setattr(rows, "stack_rows", lambda own: read.extend(own) or stack(own))
    stack = layout.stack_rows
    (records,) = [made.rows[name]() for name in made.rows if name.startswith("cramming")]
    whole = [layout.join(layout.text(given), row) for row in read]
    nothing = compressed.untrained_prompts(lm, [np.zeros((0, 16), np.float32)] * len(read))
    wanted = compressed.teacher_forced_from(lm, nothing, stack(whole))
    num_tokens = 12 if kind == "reconstruction" else 13  # an answer, and one more
    spoken = compressed.from_texts(lm, whole, num_tokens=num_tokens)
    answers = compressed.overlap(lm, spoken)
    for record, forced, answer, row in zip(records, wanted, answers, read, strict=True):
        assert row.tokens[0] == lm.tokenizer.bos_token_id and record["num_vectors"] == 0
        assert record["nats_per_token"] == pytest.approx(forced["nats_per_token"], abs=1e-5)
        assert record["output"] == answer["output"]
        assert record["flops"] > 0 and record["seconds"] == 1.5
