"""Every source of the table, made from small files written here."""

import hashlib
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from memcomp.data import chunks, corpora, sources
from memcomp.data.chunks import halves
from memcomp.data.corpora import read_stored
from memcomp.data.sources import SOURCES, find_source
from memcomp.data.texts import (
    num_token_ids,
    read_texts,
    text_sha256,
    texts_fingerprint,
    tokenize,
)
from memcomp.errors import InputError

# SHA-256 of the first three texts of each source of the folder `manual`, as JSON; another
# value is another data set: raise VERSION in memcomp/data/corpora.py and say it in the
# changelog under Changed results.
GOLDENS = {
    "builtin": "b9ec83895d954e9e6bd31bd2a879a9948983198d553a13968a749fffd63cdbdc",
    "fanfics_csv": "579ab94bd5f983d3d0ad30a9ca0ef95d1157345d3e7541dd93ecb78fe1ae4b08",
    "folder": "e8580075f99598e6fef98d1689bb4dde7c1f2784652fb2d3fd9478e0cb6f1c5c",
    "pg19": "dee7119f098208b9f4355b025de59a376ac1e5fbe520930687358436c3c073b3",
    "pg19_csv": "5163ed542159ed4d96e0a4d1d4d7aca3b98f872abdfec9a19e152798b69cccd2",
    "random_words": "bb0be79772fbe73b635d49e610640878ca8495a512fc0d83e42666b1424cbb8c",
    "uniform_tokens": "a1518a45a29cd6cd8329342e95e25b0f0c6edc949209dc66b680e63c15be7df6",
}
MANUAL = ("pg19", "pg19_csv", "fanfics_csv")


def book(name, num_sentences):
    return "\n".join(
        f"{name} says {i} times{' again' * (i % 5)} that Mr. Gray  is old."
        for i in range(num_sentences)
    )


@pytest.fixture
def manual(tmp_path, monkeypatch):
    """All files that a user has to get, and small chunks."""
    monkeypatch.setattr(chunks, "WORDS", (100, 200))
    monkeypatch.setattr(chunks, "NUM_CHUNKS", 5)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    folder = tmp_path / "manual"
    for number in range(3):
        path = folder / "pg19" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(book(f"Book{number}", 40))
    for name in ("pg19", "fanfics"):
        rows = "".join(f'{i},"{book(f"{name}{i}", 6)}"\n' for i in range(4))
        csv = "pg19_valid_1k_chunks.csv" if name == "pg19" else "fanfics_1k_chunks.csv"
        (folder / csv).write_text(f",text\n{rows}")
    (folder / "words").write_text("".join(f"word{i}\n" for i in range(100)))
    return folder


def options(manual, **changed):
    return {
        "field": "text",
        "seed": 7,
        "vocabulary": str(manual / "words"),
        "num_words": 20,
        "manual_dir": str(manual),
        "vocab_size": 50,
    } | changed


def read(name, manual, num_texts=3, **changed):
    name = str(manual / "pg19") if name == "folder" else name
    return read_texts(name, num_texts=num_texts, **options(manual, **changed))


def plain(texts):
    return [(s, t if isinstance(t, str) else t.tolist()) for s, t in texts]


def test_every_source_of_the_table_has_a_golden():
    assert GOLDENS.keys() == SOURCES.keys() - {"-"} | {"folder"}


@pytest.mark.parametrize("name", GOLDENS)
def test_the_same_seed_gives_the_same_bytes(name, manual):
    texts = json.dumps(plain(read(name, manual)))
    assert hashlib.sha256(texts.encode()).hexdigest() == GOLDENS[name]


@pytest.mark.parametrize("name", GOLDENS)
def test_the_first_texts_do_not_depend_on_how_many_are_read(name, manual):
    assert plain(read(name, manual, 1)) == plain(read(name, manual, 3))[:1]


@pytest.mark.parametrize("name", ["pg19", "random_words", "uniform_tokens"])
def test_another_seed_gives_other_texts(name, manual):
    one, other = (plain(read(name, manual, seed=seed)) for seed in (0, 1))
    assert all(a != b for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", MANUAL)
def test_a_data_set_has_the_texts_of_its_source(name, manual):
    chosen = options(manual)
    assert list(read_stored(name, chosen)) == list(find_source(name).found(chosen))


def test_a_text_and_its_context_are_the_halves_of_a_chunk(manual):
    found = list(read_stored("pg19_csv", options(manual)))[1]
    whole = " ".join(book("pg191", 6).split())
    assert (found.context, found.text) == halves(whole)
    assert read("pg19_csv", manual)[1] == ("pg19_csv", halves(whole)[1])


def test_a_data_set_is_made_once_and_again_when_seed_or_files_change(manual, monkeypatch):
    made = []
    draw = sources.draw_chunks
    monkeypatch.setattr(
        sources, "draw_chunks", lambda *a, **k: made.append(1) or draw(*a, **k)
    )

    def times(**changed):
        read("pg19", manual, **changed)
        return len(made)

    assert [times(), times(), times(vocab_size=9), times(seed=8), times()] == [
        1,
        1,
        1,
        2,
        2,
    ]
    (manual / "pg19" / "1.txt").write_text(book("Other", 40))
    assert [times(), times()] == [3, 3]
    (manual / "pg19" / "2.txt").rename(manual / "pg19" / "9.txt")
    assert times() == 4
    shutil.copytree(manual, manual.parent / "elsewhere")
    assert times(manual_dir=str(manual.parent / "elsewhere")) == 4


def test_neither_memcomp_nor_a_data_set_loads_tensorflow(manual):
    code = (
        "import sys, memcomp, memcomp.data.texts as t\n"
        "assert 'tensorflow_datasets' not in sys.modules\n"
        f"texts = t.read_texts('pg19_csv', manual_dir={str(manual)!r})\n"
        "assert 'tensorflow_datasets' in sys.modules and len(texts) == 4\n"
        "sys.exit('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", MANUAL)
def test_missing_files_are_asked_for_in_one_sentence(name, manual, tmp_path):
    hints = {
        "pg19": ["pg19/*.txt", "deepmind-gutenberg"],
        "pg19_csv": ["pg19_valid_1k_chunks.csv", "yurakuratov/pg19_valid_1k_chunks"],
        "fanfics_csv": ["fanfics_1k_chunks.csv", "yurakuratov/fanfics_1k_chunks"],
    }
    for folder, where in ((None, "manual_dir is not set"), (str(tmp_path), str(tmp_path))):
        with pytest.raises(InputError) as error:
            read(name, manual, manual_dir=folder)
        for word in (where, *hints[name]):
            assert word in str(error.value)


@pytest.mark.parametrize(
    "file, content, name, words",
    [
        ("pg19_valid_1k_chunks.csv", "id,body\n1,x\n", "pg19_csv", "line 2 of .*'text'"),
        ("fanfics_1k_chunks.csv", 'text\n"x" y\n', "fanfics_csv", "chunks.csv is not CSV"),
        (
            "pg19_valid_1k_chunks.csv",
            'id,text\n1," "\n',
            "pg19_csv",
            "line 2 .* is an empty",
        ),
        ("pg19/0.txt", b"\xe9", "pg19", "0.txt is not UTF-8"),
    ],
)
def test_wrong_files_are_named_and_leave_no_data_set(manual, file, content, name, words):
    good = (manual / file).read_bytes()
    content = content if isinstance(content, bytes) else content.encode()
    (manual / file).write_bytes(content)
    for _ in range(2):
        with pytest.raises(InputError, match=words):
            read(name, manual, 1)
    (manual / file).write_bytes(good)
    assert read(name, manual, 1)


@pytest.mark.parametrize(
    "name, changed, words",
    [
        ("uniform_tokens", {"vocab_size": None}, "vocab_size"),
        ("uniform_tokens", {"passages": 2}, "no passages"),
        ("uniform_tokens", {"num_texts": None}, "num_texts"),
        ("pg19", {"num_texts": 6}, "has 5 texts where 6 are wanted"),
    ],
)
def test_what_a_source_cannot_give_is_refused(manual, name, changed, words):
    with pytest.raises(InputError, match=words):
        read_texts(name, **({"num_texts": 1} | options(manual) | changed))


def test_a_data_set_that_cannot_be_made_is_refused(manual, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "file"))
    with pytest.raises(InputError, match="cannot be written .* set TFDS_DATA_DIR"):
        read("pg19", manual)


def test_two_processes_may_make_a_data_set_at_once(manual, monkeypatch):
    generate = corpora.MemcompTexts._generate_examples
    twice = []

    def overtaken(self):
        if not twice:
            twice.append("begun")
            twice.append(read("pg19", manual))
        yield from generate(self)

    monkeypatch.setattr(corpora.MemcompTexts, "_generate_examples", overtaken)
    assert ["begun", read("pg19", manual)] == twice


def test_uniform_tokens_are_uniform_and_below_the_vocabulary(manual):
    texts = read("uniform_tokens", manual, 10, num_words=5000)
    counts = np.bincount(np.concatenate([ids for _, ids in texts]), minlength=50)
    # 50,000 draws of 50: 1,000 each, with a standard deviation of 31.
    assert len(counts) == 50 and abs(counts - 1000).max() < 5 * 31
    [text] = tokenize(None, texts[:1], num_tokens=9, vocab_size=50)
    np.testing.assert_array_equal(text.tokens, texts[0][1][:9])
    assert text.source == "uniform_tokens" and text.tokens.dtype == np.int32


def test_padded_rows_of_an_embedding_are_no_tokens():
    assert num_token_ids(None, 50304) == 50304
    assert num_token_ids(range(50277), 50304) == 50277
    assert num_token_ids(range(60000), 50304) == 50304


def test_the_fingerprint_sees_every_id_and_where_texts_end():
    def texts(*ids):
        return tokenize(None, [np.array(i) for i in ids], num_tokens=None)

    [text] = texts([1, 2, 300])
    little = bytes([1, 0, 0, 0, 2, 0, 0, 0, 44, 1, 0, 0])
    assert text_sha256(text.tokens) == hashlib.sha256(little).hexdigest()
    length = bytes([3, 0, 0, 0, 0, 0, 0, 0])
    assert texts_fingerprint([text]) == hashlib.sha256(length + little).hexdigest()
    several = [
        texts_fingerprint(texts(*t))
        for t in ([[1, 2], [3]], [[1], [2, 3]], [[3], [1, 2]], [[1, 2, 3]], [[1, 2], [4]])
    ]
    assert len(set(several)) == 5
