"""Lines of baselines without weights: what the LM reads in them."""

import json

import numpy as np
import pytest
from etils import epath
from icformer_run import (
    import_script,
    make_folder,
    setup_of,
    tiny,
    with_random_weights,
)

from memcomp.compressors import layout
from memcomp.compressors.registry import load_compressor, save_compressor
from memcomp.cost.formulas import cram_step_flops
from memcomp.errors import InputError
from memcomp.lm.score import baselines as score_texts
from memcomp.studies import answers as compressed
from memcomp.studies import compressor_tables as tables
from memcomp.studies.baselines import BASELINES, by_pooling, by_truncation, num_kept
from memcomp.studies.compared import named

BOTH = ("truncation", "mean pooling")


@pytest.fixture(scope="module")
def script():
    yield from import_script()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("icformer"))


def evaluation(folder, **changes):
    """The config of a table of texts of twelve tokens, in two chunks."""
    config = tiny(folder, stage="evaluate", dtype="float32", compressor="pooling")
    config.evaluate.update(lengths=(12,), kinds=("normal",), baselines=BOTH)
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def one(folder):
    """Pooling with a random map to two vectors a chunk."""
    setup = setup_of(evaluation(folder))
    (one,) = named([(setup, with_random_weights(setup))])
    return one


def embedded(one, tokens):
    return np.asarray(one.setup.lm.params["embedding"])[np.asarray(tokens)]


def test_truncation_gives_the_last_tokens_and_no_more_than_there_are(one):
    contexts = [np.arange(20, 32), np.arange(5, 8), np.array([9])]
    prompts, _ = by_truncation(one)(contexts)
    # Two vectors a chunk of six tokens.
    assert prompts.counts.tolist() == num_kept(one, contexts) == [4, 2, 1]
    for vectors, n, context in zip(prompts.vectors, prompts.counts, contexts, strict=True):
        np.testing.assert_array_equal(vectors[:n], embedded(one, context[-n:]))
        assert not vectors[n:].any()
    assert not prompts.special.any()


def test_pooling_without_a_map_gives_the_means_of_each_chunk(one):
    context = np.arange(20, 32)
    prompts, _ = by_pooling(one)([context])
    want = embedded(one, context).reshape(4, 3, -1).mean(axis=1)
    np.testing.assert_allclose(prompts.vectors[0], want, atol=1e-6)
    assert not prompts.special.any()


def test_the_lm_reads_the_last_tokens_as_it_reads_a_text(one, tmp_path):
    lm = one.setup.lm
    study = tables.reconstructions([one], epath.Path(tmp_path))
    lines = ["normal 12", "truncation 12", "mean pooling 12", "no vectors 12"]
    assert list(study.rows) == lines
    texts = tables.held_out(one.setup, epath.Path(tmp_path), 12)
    whole = [np.concatenate([x[-4:], x]).astype(np.int32) for x in texts]
    scores = score_texts(lm, whole, num_given=4, pad_to=16, vocab_chunk=8192)
    for record, score in zip(study.rows["truncation 12"](), scores, strict=True):
        assert (record["num_vectors"], record["num_tokens"]) == (4, 12)
        assert record["nats_per_token"] == pytest.approx(score.loss_nats, abs=1e-5)
        assert {"gain_nats_per_token", "text_bleu", "exact"} <= record.keys()


def test_questions_are_asked_about_baselines_without_ft(one, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    asked = {}

    def decode_rows(lm, prompts, rows, **options):
        asked[name] = prompts, rows
        return [np.zeros(0, np.int32) for _ in rows]

    monkeypatch.setattr(compressed, "decode_rows", decode_rows)
    study = tables.answers([one], epath.Path(tmp_path))
    assert list(study.rows) == ["pooling", *BOTH, "full context", "no context"]
    for name in study.rows:
        study.rows[name]()
    (_, full), (_, bare) = asked["full context"], asked["no context"]
    for name in BOTH:
        for row, whole, none in zip(asked[name][1], full, bare, strict=True):
            assert len(row.tokens) == len(none.tokens) + 4
            assert not (row.slots == layout.SPECIAL.index("ft")).any()
            # What stands around the vectors is what stands around the context.
            around = row.tokens[row.slots == layout.TOKEN]
            np.testing.assert_array_equal(around, none.tokens)
            assert len(whole.tokens) == len(none.tokens) + 12
    prompts, rows = asked["truncation"]
    for vectors, whole, row in zip(prompts.vectors, full, rows, strict=True):
        begin = int(np.argmax(row.slots != layout.TOKEN))
        last = whole.tokens[begin + 8 : begin + 12]
        np.testing.assert_array_equal(vectors, embedded(one, last))


@pytest.mark.parametrize("names", [("trunkation",), ("truncation", "")])
def test_an_unknown_baseline_is_refused(folder, names):
    config = evaluation(folder, **{"evaluate.baselines": names})
    with pytest.raises(InputError, match=r"evaluate.baselines has \[.*known are trunc"):
        tables.load_evaluated(setup_of(config))


@pytest.mark.ci
def test_pooling_is_trained_and_evaluated_with_cramming_beside_it(script, folder, tmp_path):
    config = tiny(folder, compressor="pooling", dtype="float32")
    script.main(config, str(tmp_path / "trained"))
    config = evaluation(folder, start=str(tmp_path / "trained"))
    config.evaluate.update(cramming=True, num_texts=1)
    script.main(config, str(tmp_path / "table"))
    lines = (tmp_path / "table" / "results.jsonl").read_text().splitlines()
    records = {record["kind"]: record for record in map(json.loads, lines)}
    assert list(records)[0] == "normal 12" and len(records) == 5
    crammed = records["cramming 12"]
    module = setup_of(config).lm.module
    # The first steps of a growing text compute less than all of it.
    step = sum(cram_step_flops(module, 12, 4))
    assert 0.6 * step * crammed["steps"] < crammed["flops"] <= step * crammed["steps"]
    assert set(BASELINES) == set(BOTH)


def test_a_file_of_pooling_comes_back(one, folder, tmp_path):
    save_compressor(tmp_path / "one.safetensors", one.trained)
    found = load_compressor(tmp_path / "one.safetensors", one.setup.lm)
    assert found.compressor == one.trained.compressor
    want = one.trained.params["compressor"]["kernel"]
    np.testing.assert_array_equal(found.params["compressor"]["kernel"], want)
