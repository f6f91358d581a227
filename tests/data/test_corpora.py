"""Documents and questions out of small JSON lines written here."""

import hashlib
import json
import subprocess
import sys
import textwrap

import grain
import pytest
from etils import epath
from transformers import AutoTokenizer

from memcomp.data import corpora
from memcomp.data.contexts import QuestionTokens, question_batches
from memcomp.data.corpora import prepare_documents, prepare_pwc
from memcomp.data.pwc import FILTERS, GENERAL, Question
from memcomp.data.ragged import cached_ragged, tokenized
from memcomp.data.sources import BUILTIN
from memcomp.errors import InputError

ROWS = [
    ("A cat sat.", "Who sat?", "A cat."),
    ("A cat sat.", "Summarize the above text.", "A cat did."),
    ("A cat sat.", "Summarize the above text", "So it did."),  # another spelling passes
    ("Price: \uffe51.", "What price?", "One yen."),  # one full-width character
    ("\u732b.", "Rephrase the above text.", "A cat."),  # two filters: the first counts
    ("\ud55c\uad6d\uc5b4 \u0440\u0443\u0441", "Which?", "Both pass."),
    ("A dog ran.", "", "?"),
    (" ", "Who?", "No one."),
]
PASS = {"train": [0, 1, 2, 5], "test": [0, 2, 5]}


@pytest.fixture(autouse=True)
def data_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))


@pytest.fixture
def pwc(tmp_path):
    for split in PASS:
        rows = [dict(zip(("input", "prompt", "answer"), row, strict=True)) for row in ROWS]
        write(tmp_path / f"PwC_{split}.jsonl", rows)
    return str(tmp_path)


def write(path, rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def texts(corpus):
    return [text for (text,) in corpus.texts("text")]


@pytest.mark.parametrize("split", PASS)
def test_the_published_filters_leave_the_published_rows(pwc, split):
    corpus = prepare_pwc(split, manual_dir=pwc)
    want = [ROWS[i] for i in PASS[split]]
    assert list(corpus.texts("context", "prompt", "answer")) == want
    general = {"general": 1} if split == "test" else {}
    kept = {"read": 8, "kept": len(want), "cjk": 2, "empty": 2}
    assert corpus.counts == kept | general


def test_filters_are_options(pwc):
    def kept(*filters):
        return prepare_pwc("test", manual_dir=pwc, filters=filters).counts["kept"]

    assert [kept(), kept("cjk"), kept("general"), kept("general", "cjk")] == [6, 4, 4, 3]
    with pytest.raises(InputError, match="no filter cjkk; there are cjk, general"):
        kept("cjkk")


@pytest.mark.parametrize("first, last", ["\u4e00\u9fff", "\u3040\u30ff", "\uff00\uffef"])
def test_the_ranges_of_characters_end_where_they_are_published(first, last):
    inside = (first, last), (True, True)
    outside = (chr(ord(first) - 1), chr(ord(last) + 1)), (False, False)
    for characters, want in (inside, outside):
        rows = [Question(f"a {c} b", "?", "!") for c in characters]
        assert tuple(map(FILTERS["cjk"], rows)) == want


def test_general_prompts_are_those_that_are_published():
    # Of data_utils.py of Wang et al.: the five strings, sorted, one a line.
    want = "0b9e4188ad8d797d9a94818ff53f287ae407df09c47f759ab3411f4a134a6f59"
    assert hashlib.sha256("\n".join(sorted(GENERAL)).encode()).hexdigest() == want


def test_the_first_of_equal_documents_stays_in_its_place(tmp_path):
    write(tmp_path / "docs" / "b.jsonl", [{"text": t} for t in ("two", "four", "one")])
    write(
        tmp_path / "docs" / "a.jsonl", [{"text": t} for t in ("one", "two ", "two", "\n")]
    )
    corpus = prepare_documents(str(tmp_path / "docs"))
    assert texts(corpus) == ["one", "two ", "two", "four"]
    assert corpus.counts == {"read": 7, "kept": 4, "duplicate": 2, "empty": 1}


def test_grain_reads_rows_in_any_order(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"body": f"text {i}", "n": i} for i in range(50)])
    corpus = prepare_documents(path, field="body")
    rows = grain.MapDataset.source(corpus.rows)[::-1]
    assert [row["text"].decode() for row in rows] == texts(corpus)[::-1]


def test_a_corpus_is_made_once_and_again_when_its_files_change(tmp_path, monkeypatch):
    reads = []
    monkeypatch.setattr(
        corpora,
        "read_documents",
        lambda *a, real=corpora.read_documents: reads.append(1) or real(*a),
    )
    path = write(tmp_path / "a.jsonl", [{"text": "one"}, {"text": "one"}])
    first, again = prepare_documents(path), prepare_documents(path)
    assert first.counts == again.counts == {"read": 2, "kept": 1, "duplicate": 1}
    assert texts(first) == texts(again) == ["one"] and len(reads) == 1
    write(tmp_path / "a.jsonl", [{"text": "other"}])
    assert texts(prepare_documents(path)) == ["other"] and len(reads) == 2


def test_questions_come_out_of_training_batches_as_they_went_in(pwc, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(BUILTIN.parent)
    corpus = prepare_pwc("train", manual_dir=pwc)
    rows = corpus.texts("context", "prompt", "answer")
    folder = epath.Path(tmp_path / "tokens")
    columns = cached_ragged(folder, Question._fields, lambda: tokenized(tokenizer, rows))
    sizes = dict(context=32, prompt=32, answer=32, batch_size=4, num_batches=1, seed=0)
    batch = question_batches(QuestionTokens(*columns), **sizes)[0]
    got = {
        tuple(tokenizer.decode(p.tokens[i, : p.lengths[i]]) for p in batch)
        for i in range(4)
    }
    assert got == {ROWS[i] for i in PASS["train"]}


def test_half_a_surrogate_pair_is_a_question_mark(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud83d \\ud83d\\ude00"}\n')
    corpus = prepare_documents(str(tmp_path / "a.jsonl"))
    assert texts(corpus) == ["a? \U0001f600"]


@pytest.mark.ci
def test_documents_are_not_held_in_memory_and_tensorflow_is_not_loaded(tmp_path):
    code = """
        import json, os, resource, sys
        import numpy as np
        from memcomp.data.corpora import prepare_documents
        folder, rng = os.environ["TFDS_DATA_DIR"], np.random.default_rng(0)
        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        def make(name, num, size):
            with open(f"{folder}/{name}.jsonl", "w") as file:
                for _ in range(num):
                    file.write(json.dumps({"text": rng.bytes(size).hex()}) + "\\n")
            return len(prepare_documents(f"{folder}/{name}.jsonl").rows)
        make("warm", 10, 10)
        before = peak()
        assert make("large", 4000, 15_000) == 4000
        assert "tensorflow" not in sys.modules
        print((peak() - before) / 1000)
    """
    (tmp_path / "tfds").mkdir()
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    # 120 MB of documents: measured 21 MB more than before, and 27 MB with ten times as
    # many. The writer of TFDS takes 142 MB, and fails at ten times as many.
    assert float(done.stdout) < 60


@pytest.mark.parametrize(
    "content, words",
    [
        ('{"text": "a"}\n\n{"text": ', ["line 3 of", "a.jsonl", "not JSON"]),
        ("[" * 10**5 + "\n", ["line 1 of", "a.jsonl", "not JSON"]),
        (b'{"text": "a"}\n{"text": "\xe9"}\n', ["line 2 of", "a.jsonl", "UTF-8"]),
        ('{"text": "a"}\n"b"\n', ["line 2 of", "not a JSON object"]),
        ('{"text": "a"}\n{"txt": "b"}\n', ["line 2 of", "no field 'text'", "'txt'"]),
        ('{"text": null}\n', ["line 1 of", "no text in field 'text'"]),
        ('{"text": " "}\n', ["a.jsonl has nothing to keep (1 empty, 1 read)"]),
        ("", ["a.jsonl has nothing to keep (no rows)"]),
    ],
)
def test_documents_that_cannot_be_used_are_refused_by_line(tmp_path, content, words):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for _ in range(2):  # what failed is not taken for made
        with pytest.raises(InputError) as error:
            prepare_documents(str(path))
        assert not [w for w in words if w not in str(error.value)], str(error.value)


def test_a_question_without_an_answer_is_refused_by_line(pwc, tmp_path):
    rows = [{"input": "a", "prompt": "b", "answer": "c"}, {"input": "a", "prompt": "b"}]
    write(tmp_path / "PwC_test.jsonl", rows)
    with pytest.raises(InputError, match="line 2 of .*no field 'answer'.*'input'"):
        prepare_pwc("test", manual_dir=pwc)


def test_missing_files_are_asked_for_in_one_sentence(tmp_path):
    for folder, where in ((None, "manual_dir is not set"), (str(tmp_path), str(tmp_path))):
        with pytest.raises(InputError, match=f"{where}.*PwC_train.jsonl.*sggetao/PwC"):
            prepare_pwc("train", manual_dir=folder)
    with pytest.raises(InputError, match="no split 'dev'; give train or test"):
        prepare_pwc("dev", manual_dir=str(tmp_path))
    for source in (tmp_path, tmp_path / "none.jsonl"):
        with pytest.raises(InputError, match="no documents at"):
            prepare_documents(str(source))
