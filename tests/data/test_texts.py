import io
import json
import logging
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from memcomp.data.documents import find_documents
from memcomp.data.sources import BUILTIN
from memcomp.data.texts import Text, read_texts, source_sha256, tokenize
from memcomp.errors import InputError


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(BUILTIN.parent)


@pytest.fixture(scope="module")
def bos_tokenizer():
    """Words to ids, with BOS = 0 before every text."""
    words = {w: i for i, w in enumerate(["<s>", "<unk>", "one", "two", "three"])}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>")


@pytest.fixture
def novel():
    """40 paragraphs of 3 numbered sentences, each in a line of its own."""
    sentences = [f"Sentence {i} says nothing new." for i in range(120)]
    return "\n\n".join("\n".join(sentences[i : i + 3]) for i in range(0, 120, 3))


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "vocabulary"
    path.write_text("".join(f"word{i}\n" for i in range(1000)))
    return str(path)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_importing_texts_loads_neither_jax_nor_transformers():
    # By its file, because memcomp/__init__.py imports more.
    code = (
        "import importlib.util, sys, types\n"
        f"sys.path.insert(0, {str(BUILTIN.parent.parent.parent)!r})\n"
        "package = types.ModuleType('memcomp')\n"
        f"package.__path__ = [{str(BUILTIN.parent.parent)!r}]\n"
        "sys.modules['memcomp'] = package\n"
        "import memcomp.data.texts\n"
        "print([m for m in ('jax', 'flax', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_builtin_texts_are_32_ascii_passages_of_25_to_60_words(tokenizer):
    texts = read_texts("builtin")
    assert len(texts) == 32
    assert all(source == "builtin" and text.isascii() for source, text in texts)
    assert all(25 <= len(text.split()) <= 60 for _, text in texts)
    assert len({text.split()[0] for _, text in texts}) == 32
    # What the default runs ask for at most.
    assert len(tokenize(tokenizer, texts, num_tokens=40)) == 32


def test_folder_gives_its_txt_files_sorted_and_collapsed(tmp_path):
    write(tmp_path / "b.txt", "second \n\n text\t")
    write(tmp_path / "a" / "z.txt", "\ufefffirst\r\ntext")
    write(tmp_path / "note.md", "not a text")
    assert read_texts(str(tmp_path)) == [
        ("a/z.txt", "first text"),
        ("b.txt", "second text"),
    ]


def test_rows_of_jsonl_are_read_by_field(tmp_path):
    rows = [{"body": "one\u2028more", "n": 1}, {"body": "two"}]
    content = "\n\n".join(json.dumps(r, ensure_ascii=False) for r in rows)
    path = write(tmp_path / "rows.jsonl", content)
    assert read_texts(path, field="body") == [
        ("rows.jsonl", "one more"),
        ("rows.jsonl", "two"),
    ]


def test_inner_objects_of_a_line_may_have_a_field_again(tmp_path):
    line = '{"text": "rain", "about": [{"text": 1}, {"text": 2}]}'
    path = write(tmp_path / "rows.jsonl", line)
    assert read_texts(path) == [("rows.jsonl", "rain")]


def test_linked_folders_and_files_are_read(tmp_path):
    (tmp_path / "far" / "deep").mkdir(parents=True)
    write(tmp_path / "far" / "deep" / "b.txt", "two")
    write(tmp_path / "c.text", "three")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "linked").symlink_to(tmp_path / "far")
    (tmp_path / "here" / "c.txt").symlink_to(tmp_path / "c.text")
    (tmp_path / "far" / "back").symlink_to(tmp_path / "here")  # a circle ends
    texts = [("c.txt", "three"), ("linked/deep/b.txt", "two")]
    assert read_texts(str(tmp_path / "here")) == texts
    write(tmp_path / "far" / "a.jsonl", '{"text": "x"}')
    documents = find_documents(str(tmp_path / "here"))
    assert documents == [tmp_path / "here" / "linked" / "a.jsonl"]


@pytest.mark.parametrize("name", ["b.txt", "novels", "b.jsonl"])
def test_a_link_that_leads_nowhere_is_said(tmp_path, name):
    write(tmp_path / "a.txt", "one")
    write(tmp_path / "a.jsonl", '{"text": "x"}')
    (tmp_path / name).symlink_to(tmp_path / "nothing")
    read = find_documents if name == "b.jsonl" else read_texts
    with pytest.raises(InputError, match=f"{name} is a link to .*nothing, which is not"):
        read(str(tmp_path))


def test_what_a_source_holds_has_a_fingerprint(tmp_path):
    """Of all that decides which texts it gives, and not of how many are taken."""
    path = write(tmp_path / "a.jsonl", '{"text": "rain", "b": "sun"}\n{"text": "snow"}')
    words = write(tmp_path / "words.txt", "one two")

    def of(source=path, num_texts=1, **options):
        found = read_texts(source, num_texts=num_texts, **options)
        return source_sha256(source, found, **options)

    before = of()
    assert before == of(num_texts=2) and len(before) == 64
    assert len({before, of(field="b"), of(passages=2)}) == 3
    drawn = [of("random_words", vocabulary=words, seed=seed) for seed in (0, 1)]
    longer = of("random_words", vocabulary=words, seed=0, num_words=9)
    assert drawn[0] == longer != drawn[1]
    uniform = [of("uniform_tokens", vocab_size=size) for size in (10, 20)]
    assert uniform[0] == uniform[1]
    write(tmp_path / "a.jsonl", '{"text": "rain", "b": "sun"}\n{"text": "hail"}')
    assert of() != before
    folder = of(str(tmp_path))
    write(tmp_path / "notes.md", "no text")
    assert of(str(tmp_path)) == folder
    write(tmp_path / "b.txt", "more")
    assert of(str(tmp_path)) != folder


def test_csv_fields_may_hold_line_breaks_quotes_and_whole_chapters(tmp_path):
    chapter = "word " * 100_000  # over csv's own limit of 131,072 characters
    path = write(tmp_path / "rows.csv", f'id,text\n1,"a\nb ""c"""\n2,{chapter}\n')
    texts = read_texts(path)
    assert texts[0] == ("rows.csv", 'a b "c"')
    assert texts[1][1] == chapter.strip()


def test_standard_input_gives_one_text_a_line(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO("\ufeffone\n\ntw\u00f6\n".encode()), "ascii")
    monkeypatch.setattr(sys, "stdin", stream)
    assert read_texts("-") == [("-", "one"), ("-", "tw\u00f6")]


def test_rows_after_the_last_one_wanted_are_not_looked_at(tmp_path):
    path = write(tmp_path / "rows.jsonl", '{"text": "good"}\nbroken\n')
    assert read_texts(path, num_texts=1) == [("rows.jsonl", "good")]


def test_random_words_do_not_depend_on_how_many_are_drawn(vocabulary):
    def draw(num_texts, **options):
        options = {"num_words": 50, "seed": 3} | options
        texts = read_texts(
            "random_words", vocabulary=vocabulary, num_texts=num_texts, **options
        )
        return [text for _, text in texts]

    five = draw(5)
    assert draw(2) == five[:2]
    assert all(
        long.startswith(t) for long, t in zip(draw(5, num_words=99), five, strict=True)
    )
    assert draw(5, seed=4)[0] != five[0]
    rng = np.random.default_rng([3, 1])
    assert five[1] == " ".join(f"word{i}" for i in rng.integers(1000, size=50))


def test_passages_start_at_paragraphs_and_together_are_the_text(tmp_path, novel):
    path = write(tmp_path / "novel.txt", novel)
    texts = [text for _, text in read_texts(path, passages=4)]
    assert " ".join(texts) == " ".join(novel.split())
    firsts = [int(text.split()[1]) for text in texts]
    assert firsts[0] == 0 and all(n % 3 == 0 for n in firsts)
    # Evenly spread: 120 sentences of about the same length.
    np.testing.assert_allclose(firsts, [0, 30, 60, 90], atol=6)


def test_passages_of_a_text_without_paragraphs_start_at_sentences(tmp_path, novel):
    path = write(tmp_path / "novel.txt", " ".join(novel.split()))
    texts = read_texts(path, passages=7)
    assert all(text.startswith("Sentence ") and text.endswith(".") for _, text in texts)


def test_num_texts_counts_passages(tmp_path, novel):
    for name in ("a.txt", "b.txt"):
        write(tmp_path / name, novel)
    texts = read_texts(str(tmp_path), passages=3, num_texts=4)
    assert [source for source, _ in texts] == ["a.txt"] * 3 + ["b.txt"]


@pytest.mark.parametrize(
    "name, content, options, words",
    [
        ("a.txt", "", {}, ["a.txt", "empty"]),
        ("a.txt", b"caf\xe9", {}, ["a.txt", "UTF-8"]),
        ("a.txt", "too short", {"passages": 9}, ["a.txt", "9 passages"]),
        ("a.txt", "one", {"num_texts": 2}, ["a.txt", "has 1 texts", "2 are wanted"]),
        ("a.txt", "one", {"num_texts": 0}, ["num_texts is 0"]),
        ("a.txt", "one", {"seed": -1}, ["seed is -1"]),
        ("a.jsonl", '{"text": "x"}\n{"text"', {}, ["line 2", "a.jsonl", "not JSON"]),
        ("a.jsonl", "[1]", {}, ["line 1", "a.jsonl", "object"]),
        ("a.jsonl", '\n{"b": "x", "c": 1}', {}, ["line 2", "'text'", "'b', 'c'"]),
        ("a.jsonl", '{"text": 1}', {}, ["line 1", "no text in field 'text'"]),
        ("a.jsonl", '{"text": " "}', {}, ["line 1 of", "a.jsonl", "empty text"]),
        ("a.jsonl", "", {}, ["a.jsonl", "has 0 texts"]),
        ("a.csv", "id,body\n1,x\n", {}, ["line 2", "a.csv", "'text'", "'id', 'body'"]),
        ("a.csv", "id,text\n1,x\n2\n", {}, ["line 3", "a.csv", "'text'", "'id'"]),
        ("a.csv", 'text\n"x" y\n', {}, ["line 2", "a.csv", "not CSV"]),
        ("a.csv", 'text\na\n"x\n', {}, ["line 3", "a.csv", "not CSV"]),
        ("a.csv", "id,text\n1,a, b\n", {}, ["line 2", "a.csv", "3 fields", "in quotes"]),
        ("a.csv", "text\na\nb, c\n", {}, ["line 3", "a.csv", "2 fields", "'text'"]),
        ("a.csv", "text,id,text\na,1,b\n", {}, ["line 1", "a.csv", "'text' twice"]),
        ("a.csv", "text,id,id\na,1,b\n", {}, ["line 1", "a.csv", "'id' twice"]),
        ("a.jsonl", '\n{"text": "x", "text": "y"}', {}, ["line 2", "'text' twice"]),
        ("a.jsonl", '{"id": 1, "text": "x", "id": 2}', {}, ["line 1", "'id' twice"]),
        ("a.parquet", "x", {}, ["'builtin', 'random_words',", ".txt, .jsonl, .csv"]),
    ],
)
def test_files_that_cannot_be_used_are_refused_by_name(
    tmp_path, name, content, options, words
):
    path = write(tmp_path / name, content)
    with pytest.raises(InputError) as error:
        read_texts(path, **options)
    assert not [w for w in words if w not in str(error.value)], str(error.value)


@pytest.mark.parametrize(
    "source, options, words",
    [
        ("nowhere.txt", {}, ["nowhere.txt", "no file"]),
        ("pg_19", {}, ["'pg_19'", "'builtin'", "'pg19'", "folder"]),
        ("random_words", {}, ["num_texts"]),
        ("random_words", {"num_texts": 1}, ["vocabulary"]),
        ("random_words", {"num_texts": 1, "vocabulary": "none"}, ["no file none"]),
    ],
)
def test_sources_that_are_not_there_are_refused(source, options, words):
    with pytest.raises(InputError) as error:
        read_texts(source, **options)
    assert not [w for w in words if w not in str(error.value)], str(error.value)


def test_folder_without_txt_files_and_empty_standard_input_are_refused(
    tmp_path, monkeypatch
):
    with pytest.raises(InputError, match=r"no \.txt files"):
        read_texts(str(tmp_path))
    for content, message in ((b"\n", "has 0 texts"), (b"x\n\xe9\n", "line 2 of standard")):
        stdin = types.SimpleNamespace(buffer=io.BytesIO(content))
        monkeypatch.setattr(sys, "stdin", stdin)
        with pytest.raises(InputError, match=message):
            read_texts("-")


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "a.txt", "one")

    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(pathlib.Path, "open", refuse)
    with pytest.raises(InputError, match=r"a\.txt cannot be read: Permission denied"):
        read_texts(path)


def test_tokens_are_the_first_of_the_whole_text(tokenizer, tmp_path, novel):
    path = write(tmp_path / "novel.txt", novel * 3)
    texts = read_texts(path)
    whole = tokenizer(texts[0][1], verbose=False)["input_ids"]
    assert len(whole) > 1000
    for length in (1, 32, 500, len(whole), None):
        [text] = tokenize(tokenizer, texts, num_tokens=length)
        assert (text.text_id, text.source) == (0, "novel.txt")
        assert text.tokens.dtype == np.int32
        np.testing.assert_array_equal(text.tokens, whole[:length])


def test_a_word_cut_in_two_is_not_among_the_tokens():
    class ByLength:
        def __call__(self, texts, **_):
            return {"input_ids": [[len(word) for word in text.split()] for text in texts]}

        def decode(self, ids, **_):
            return ""

    # Of 55 letters: the sixth is cut where a prefix of 8 * 6 + 256 characters ends.
    texts = ["abcde" * 11 + " " + " ".join(["fghij" * 11] * 99)]
    [text] = tokenize(ByLength(), texts, num_tokens=6)
    assert text.tokens.tolist() == [55] * 6


def test_long_texts_do_not_warn_of_the_positions(novel, caplog, monkeypatch):
    # A new one: it warns but once. Its library keeps its log to itself.
    tokenizer = AutoTokenizer.from_pretrained(BUILTIN.parent)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    tokenize(tokenizer, [novel * 3], num_tokens=None)
    assert not caplog.records
    tokenizer(novel * 3)
    assert "longer than" in caplog.text


def test_only_the_reference_protocol_adds_bos(bos_tokenizer):
    texts = ["one two three"]
    for protocol, want in (("strict", [2, 3]), ("reference", [0, 2])):
        [text] = tokenize(bos_tokenizer, texts, num_tokens=2, protocol=protocol)
        np.testing.assert_array_equal(text.tokens, want)


def test_strings_and_ids_mix_and_each_may_have_its_length(tokenizer):
    texts = [np.array([5, 6, 7]), "The sea was calm.", [1, 2], ("letter", "My dear.")]
    got = tokenize(tokenizer, texts, num_tokens=[2, 3, 1, 2], vocab_size=4096)
    assert [t.text_id for t in got] == [0, 1, 2, 3]
    assert [t.source for t in got] == ["given", "given", "given", "letter"]
    assert [t.tokens.tolist() for t in got[::2]] == [[5, 6], [1]]
    assert tokenizer.decode(got[1].tokens) == "The sea was"


@pytest.mark.parametrize(
    "text, options, words",
    [
        ("", {}, ["text 1 (given)", "empty"]),
        (("a.txt", " \n"), {"protocol": "reference"}, ["text 1 (a.txt)", "empty"]),
        ([], {}, ["text 1 (given)", "empty"]),
        (("a.txt", "Yes."), {"num_tokens": 9}, ["text 1 (a.txt) has 2", "= 9"]),
        ([3, 4096], {"vocab_size": 4096}, ["text 1", "id 4096", "0 to 4095"]),
        ([-1], {}, ["text 1", "id -1"]),
        ([2**31], {}, ["text 1", "id 2147483648"]),
        ([0.5], {}, ["text 1", "float64"]),
        ([[1, 2]], {}, ["text 1", "2 axes"]),
        ([3], {"num_tokens": [1, 1, 1]}, ["3 numbers for 2 texts"]),
        ([3], {"num_tokens": 0}, ["num_tokens is 0"]),
        ([3], {"protocol": "strct"}, ["'strct'", "strict, reference"]),
    ],
)
def test_texts_that_cannot_be_tokenized_are_refused_by_number(
    tokenizer, text, options, words
):
    options = {"num_tokens": None} | options
    with pytest.raises(InputError) as error:
        tokenize(tokenizer, [list(range(9)), text], **options)
    assert not [w for w in words if w not in str(error.value)], str(error.value)


def test_ids_need_no_tokenizer_and_strings_do():
    [text] = tokenize(None, [[1, 2, 3]], num_tokens=2)
    assert text.tokens.tolist() == [1, 2]
    with pytest.raises(InputError, match="no tokenizer"):
        tokenize(None, ["one"], num_tokens=1)


def test_variants_of_a_text_keep_its_id_and_have_seeds_of_their_own():
    texts = [Text(i, "given", np.arange(9, dtype=np.int32)) for i in (0, 99_999)]
    variants = [text.beginning(n) for text in texts for n in (8, 9)]
    assert [(t.text_id, len(t.tokens)) for t in variants] == [
        (i, n) for i in (0, 99_999) for n in (8, 9)
    ]
    assert len({t.seed_id for t in variants}) == 4
    again = [texts[1].again(restart) for restart in range(3)]
    assert [(t.text_id, t.restart) for t in again] == [(99_999, r) for r in range(3)]
    assert len({t.seed_id for t in again}) == 3 and again[0].seed_id == texts[1].seed_id
    with pytest.raises(InputError, match="text 100000 is one too many"):
        Text(100_000, "given", texts[0].tokens).beginning(2)
