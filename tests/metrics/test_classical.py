"""Every method gives the texts back; a run that was stopped ends as one that was not."""

import json

import pytest
from cramming_run import untimed
from etils import epath

from memcomp.data.texts import read_texts
from memcomp.errors import InputError
from memcomp.lm.load import load_lm
from memcomp.metrics import classical as compressors
from memcomp.metrics import entropy_coding
from memcomp.metrics.classical import (
    METHODS,
    first_words,
    make_codecs,
    run_compression,
)
from memcomp.report.published import published

TEXTS = [*read_texts("builtin", num_texts=2), ("other", "a"), ("other", "שלום 👩 \x00")]
CLASSICAL = [name for name in METHODS if name != "arithmetic"]


@pytest.fixture(scope="module")
def lm():
    return load_lm("builtin")


def run(lm, folder, methods=CLASSICAL):
    folder.mkdir(exist_ok=True)
    codecs = make_codecs(methods, TEXTS, lm)
    return run_compression(TEXTS, codecs, epath.Path(folder))


@pytest.mark.ci
def test_all_methods_give_all_texts_back(lm, tmp_path):
    records = run(lm, tmp_path, list(METHODS))
    assert [(r["method"], r["text_id"]) for r in records] == [
        (method, i) for method in METHODS for i in range(len(TEXTS))
    ]
    assert all(r["exact"] and r["kind"] == "compression" for r in records)
    for r in records:
        source, text = TEXTS[r["text_id"]]
        assert (r["source"], r["text_bytes"]) == (source, len(text.encode()))
        assert r["ratio"] == 8 * r["text_bytes"] / r["compressed_bits"]
    real = {r["method"]: r["ratio"] for r in records if r["text_id"] == 0}
    assert real["arithmetic"] > 2 * max(real[name] for name in CLASSICAL)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["arithmetic"]["cross_entropy_bits"]["mean"] > 0
    assert summary["huffman"]["n"] == len(TEXTS)


def test_sizes_are_those_of_the_file_formats(lm, tmp_path):
    """Of one byte: zlib 2 + 3 + 4; bz2 4 + 10 + 10 and its tables; xz 12 + 12 and more."""
    bits = {
        r["method"]: r["compressed_bits"] for r in run(lm, tmp_path) if r["text_id"] == 2
    }
    assert bits == {"zlib": 72, "bz2": 296, "lzma": 480, "zstd": 80, "huffman": 8}


@pytest.mark.parametrize("kept", [0, 1, 7, 19])
def test_a_run_that_was_stopped_goes_on(lm, tmp_path, kept):
    whole = run(lm, tmp_path)
    lines = (tmp_path / "results.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "results.jsonl").write_bytes(b"".join(lines[:kept]) + lines[kept][:9])
    assert untimed(run(lm, tmp_path)) == untimed(whole)
    again = (tmp_path / "results.jsonl").read_text().splitlines()
    assert untimed(map(json.loads, again)) == untimed(whole)
    run(lm, tmp_path)
    assert (tmp_path / "results.jsonl").read_text().splitlines() == again


def test_methods_that_are_not_there_are_refused(lm, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no method 'gzip'; known are zlib"):
        run(lm, tmp_path, ["gzip"])
    monkeypatch.setattr(compressors, "ZSTD_MODULES", ("no_such_module",))
    assert compressors.there() == [name for name in METHODS if name != "zstd"]
    with pytest.raises(InputError, match="leave it out"):
        run(lm, tmp_path, ["zstd"])
    monkeypatch.setattr(entropy_coding, "CODER", "no_such_module")
    assert compressors.there() == ["zlib", "bz2", "lzma", "huffman"]
    with pytest.raises(InputError, match="constriction; pip install"):
        run(lm, tmp_path, ["arithmetic"])


def test_first_words():
    assert first_words(" a  b\nc ", 2, "it") == "a b"
    with pytest.raises(InputError, match="it has 3 words; num_words is 4"):
        first_words("a b c", 4, "it")


def test_the_published_table_is_of_our_methods():
    methods = {row["method"] for row in published()["compression"]}
    assert len(methods) == 5 and not methods - METHODS.keys()
