import json
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cramming_run import untimed
from etils import epath
from icformer_run import make_folder, setup_of, tiny, with_random_weights, write
from selection import first_here

from memcomp.compressors.batches import Examples, Pretraining, Shapes
from memcomp.compressors.compress import compress
from memcomp.compressors.icformer.checkpoint_file import BESIDE, FIXED, _sizes, table
from memcomp.compressors.layout import SPECIAL
from memcomp.compressors.objectives import batch_scores
from memcomp.compressors.settings import settings_of
from memcomp.compressors.setup import load_start, pretraining
from memcomp.compressors.training import TrainState
from memcomp.compressors.training_data import pretraining_data
from memcomp.convert import engine
from memcomp.convert.files import save_checkpoint
from memcomp.data.contexts import Contexts
from memcomp.data.ragged import Ragged
from memcomp.errors import InputError
from memcomp.lm.score import baselines
from memcomp.studies import answers as compressed
from memcomp.studies import compressor_tables as tables
from memcomp.studies import held_out
from memcomp.studies.compared import by_compressor, named, scored


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("icformer"))


@pytest.fixture(scope="module")
def setup(folder):
    return setup_of(evaluation(folder))


@pytest.fixture(scope="module")
def one(setup):
    """A compressor with random weights."""
    (one,) = named([(setup, with_random_weights(setup))])
    return one


def evaluation(folder, **changes):
    """The config of a table."""
    config = tiny(folder, stage="evaluate", dtype="float32")
    config.evaluate.kinds = ("normal", "reversed")
    config.update_from_flattened_dict(changes)
    return config


def changed(one, folder, **changes):
    """The same compressor, of a run with other settings."""
    settings = settings_of(evaluation(folder, **changes).to_dict())
    return one._replace(setup=one.setup._replace(settings=settings))


def workdir(tmp_path):
    return epath.Path(tmp_path)


def test_short_documents_give_no_windows(one, folder, tmp_path, monkeypatch):
    documents = Ragged.of([range(1, n + 1) for n in (5, 30, 11, 12, 3)])
    monkeypatch.setattr(tables, "document_tokens", lambda *args: documents)
    setup = changed(one, folder, **{"evaluate.num_texts": 20}).setup
    texts = tables.held_out(setup, workdir(tmp_path), 12)
    assert [len(text) for text in texts] == [12] * 20
    with pytest.raises(InputError, match="no text of .* has 31 tokens"):
        tables.held_out(setup, workdir(tmp_path), 31)


@pytest.mark.ci
def test_gains_are_paired_and_of_the_text_alone(setup, one, tmp_path):
    rows = tables.reconstructions([one], workdir(tmp_path)).rows
    tokens = tables.held_out(setup, workdir(tmp_path), 12)
    bare = [text.astype(np.int32) for text in tokens]
    for texts, row in ((bare, "normal 12"), ([t[::-1] for t in bare], "reversed 12")):
        without = baselines(setup.lm, texts, num_given=0, pad_to=12, vocab_chunk=8192)
        for record, bare_one in zip(rows[row](), without, strict=True):
            assert record["num_tokens"] == 12  # no EOS
            gain = bare_one.loss_nats - record["nats_per_token"]
            assert record["gain_nats_per_token"] == pytest.approx(gain, abs=1e-5)
            later = 12 * record["nats_per_token"] - record["first_nats"]
            later = bare_one.surprise_nats[1:].mean() - later / 11
            found = record["gain_nats_per_later_token"]
            assert found == pytest.approx(later, abs=1e-5)
    short = [text[:4] for text in bare]
    without = baselines(setup.lm, short, num_given=0, pad_to=4, vocab_chunk=8192)
    found = [record["nats_per_token"] for record in rows["no vectors 4"]()]
    assert found == pytest.approx([bare_one.loss_nats for bare_one in without], abs=1e-5)


def test_windows_are_of_the_documents_that_are_held_out(one, folder, tmp_path):
    text = "seen by them at all but no rat was the cat seen by"
    write(folder / "other.jsonl", [{"text": text}])
    other = changed(one, folder, valid=str(folder / "other.jsonl")).setup
    words = other.lm.tokenizer(text)["input_ids"]
    windows = [tuple(words[i : i + 4]) for i in range(len(words) - 3)]
    held = tables.held_out(other, workdir(tmp_path), 4)
    assert len(held) == 2 and all(tuple(row.tolist()) in windows for row in held)


@pytest.mark.ci
def test_attention_is_that_to_a_chunk_as_it_is_compressed(setup, one):
    trained, tokens = one.trained, np.arange(3, 15, dtype=np.int32)
    read = tables.attention_of(one, tokens)
    weights = trained.compressor.attention(
        trained.params["compressor"],
        setup.lm.params,
        jnp.asarray(tokens[None, :6]),
        jnp.array([6]),
    )
    assert len(read.words) == 6
    np.testing.assert_allclose(read.weights[..., :6], weights[:, 0, ..., :6], atol=1e-6)


def test_rows_of_questions_read_what_they_are_called_and_decode_alike(
    one, folder, tmp_path, monkeypatch
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    asked = []

    def decode(lm, prompts, rows, *, num_tokens, **options):
        asked.append((num_tokens, [len(row.tokens) for row in rows]))
        return [np.zeros(0, np.int32) for _ in rows]

    monkeypatch.setattr(compressed, "decode_rows", decode)
    one = changed(one, folder, **{"evaluate.num_texts": None})
    study = tables.answers([one], workdir(tmp_path))
    assert study.text_ids == [0, 1, 2]
    for name in study.rows:
        study.rows[name]()
    (n, vectors), (m, full), (k, bare) = asked
    assert n == m == k == one.setup.settings.question.answer + 1
    # Twelve tokens of context; four digests, of two chunks, and FT; nothing.
    assert np.subtract(full, bare).tolist() == [12] * 3
    assert np.subtract(vectors, bare).tolist() == [5] * 3


@pytest.mark.parametrize(("more", "exact"), first_here([(1, False), (0, True)]))
def test_an_answer_that_goes_on_is_not_exact(setup, one, monkeypatch, more, exact):
    shapes = Shapes(num_digests=2, context=12, max_chunk=6)
    texts = Ragged.of([[3, 4, 5, 6], [7, 8, 9, 10]]).padded(np.arange(2), 4)
    none = Ragged.of([[], []]).padded(np.arange(2), 0)
    examples = Pretraining(shapes).examples(Contexts(texts, none), np.zeros(2, bool))

    def decode(lm, prompts, rows, *, num_tokens, **options):
        said = [[3, 4, 5, 6] + [11] * more, [7, 8, 9, 10] + [11] * more]
        return [np.asarray(x[:num_tokens], np.int32) for x in said]

    monkeypatch.setattr(compressed, "decode_rows", decode)
    make = by_compressor(one)
    records = scored(setup.lm, make, examples.contexts, examples.rows, 5)
    assert [record["exact"] for record in records] == [exact, exact]
    assert [record["num_vectors"] for record in records] == [2, 2]
    batch = jax.tree.map(jnp.asarray, examples.batch)
    scores = jax.jit(batch_scores, static_argnames="task")
    found = scores(one.trained.params, setup.lm.params, batch, task=setup.task)
    for nats, right, record in zip(found.nats, found.right, records, strict=True):
        assert record["nats_per_token"] == pytest.approx(float(nats[:4].mean()), abs=1e-5)
        assert record["accuracy"] == float(right[:4].mean())
    prompts, rows = make(examples.contexts)[0], examples.batch.rows
    forced = [
        compressed.teacher_forced_from(setup.lm, prompts, rows, batch_size=size)
        for size in (1, 3)
    ]
    for *pair, record in zip(*forced, records, strict=True):
        assert pair[0] == pytest.approx(pair[1], abs=1e-5)
        assert pair[0] == pytest.approx({key: record[key] for key in pair[0]}, abs=1e-5)


@pytest.mark.parametrize("cramming", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_table_that_was_stopped_inside_a_row_ends_like_one_that_was_not(
    one, folder, tmp_path, cramming
):
    changes = {"kinds": ("normal", "random"), "lengths": (4,), "cramming": cramming}
    one = changed(one, folder, **{f"evaluate.{k}": v for k, v in changes.items()})
    file = tmp_path / "results.jsonl"

    def run():
        study = tables.reconstructions([one], workdir(tmp_path))
        table = tables.run_table(study, one.setup.lm, workdir(tmp_path))
        timed = [row for row, figures in table.items() if figures.pop("seconds", None)]
        assert timed == [row for row in table if not row.startswith("no vectors")]
        return table

    def read():
        return untimed(json.loads(line) for line in file.read_text().splitlines())

    table = run()
    whole, records = file.read_bytes(), read()
    assert [record["text_id"] for record in records] == [0, 1] * (3 + cramming)
    assert run() == table
    assert file.read_bytes() == whole
    # Whole files: a kill leaves the rows before, never a part of one.
    file.write_bytes(b"".join(whole.splitlines(keepends=True)[:-4]))
    assert run() == table
    assert read() == records


def test_the_mean_over_what_is_held_out_is_over_tokens(setup, monkeypatch):
    records = [
        {"nats_per_token": 2.0, "accuracy": 1.0, "num_tokens": 1},
        {"nats_per_token": 4.0, "accuracy": 0.0, "num_tokens": 9},
    ]
    monkeypatch.setattr(compressed, "teacher_forced_from", lambda *args, **_: records)
    monkeypatch.setattr(held_out, "compress", mock.Mock())
    valid = {"continuation": mock.Mock(spec=Examples, batch=mock.Mock(), contexts=[])}
    state = TrainState({}, None, 0)
    found = held_out.scores_of_examples(setup, valid, state)
    assert found["valid_continuation_nats_per_token"] == pytest.approx(3.8)
    assert found["valid_continuation_accuracy"] == pytest.approx(0.1)


def test_continuations_that_are_held_out_are_no_reproductions(one, folder, tmp_path):
    texts = ["the cat", "the cat saw a dog and the dog saw the cat but no rat was seen"]
    write(folder / "short.jsonl", [{"text": text} for text in texts])
    setup = changed(one, folder, valid=str(folder / "short.jsonl"), num_valid=8).setup
    data = pretraining_data(setup, pretraining(setup), workdir(tmp_path))
    held = data.valid["continuation"].rows
    assert len(held) == 4  # of eight; one pass has each document once
    assert not any((row.slots == SPECIAL.index("ae")).any() for row in held)


def write_published(folder, compressor, params):
    """The files of the authors' code."""
    torch = pytest.importorskip("torch")
    config, sizes = compressor.config, _sizes(compressor)
    tensors = engine.to_hf(params, table(config.num_layers), sizes)
    beside = {n: tensors.pop(n) for n in ("digest_embeddings", "AE") if n in tensors}
    entries = {
        "hidden_size": sizes["d"],
        "intermediate_size": sizes["f"],
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": sizes["n"],
        "num_key_value_heads": sizes["k"],
        "num_query_tokens": config.num_digests,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
    }
    save_checkpoint(folder, tensors, entries | FIXED)
    torch.save({n: torch.tensor(x) for n, x in beside.items()}, folder / BESIDE)


@pytest.mark.parity
def test_a_run_may_start_with_what_the_authors_saved(one, folder, tmp_path):
    trained = one.trained
    params = {name: x for name, x in trained.params.items() if name != "ft"}
    write_published(tmp_path, trained.compressor, params)
    setup = changed(one, folder, start=str(tmp_path)).setup
    found = load_start(setup)
    assert not found.params["ft"].any()
    wanted, tokens = compress(setup.lm, trained, [[3, 4, 5]]), [[3, 4, 5]]
    made = compress(setup.lm, found, tokens)
    np.testing.assert_allclose(made.vectors, wanted.vectors, atol=1e-6)
    np.testing.assert_array_equal(made.special[0], wanted.special[0])
    changes = {"start": str(tmp_path), "icformer.num_layers": 2}
    other = setup_of(evaluation(folder, **changes))
    with pytest.raises(InputError, match="num_layers=1.*, but the config says .*=2"):
        load_start(other)
