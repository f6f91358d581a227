"""What a run says of what it was made with."""

import dataclasses
import pathlib
import shutil
import subprocess

import numpy as np
import pytest

import memcomp
from memcomp.cram.config import CramConfig
from memcomp.data.texts import tokenize
from memcomp.errors import InputError
from memcomp.runs.cells import cell_of, cell_texts, claim_cell
from memcomp.runs.cramming import describe, git_revision

PACKAGE = pathlib.Path(memcomp.__file__).parent


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "-C", folder, *identity, *arguments], check=True)


@pytest.fixture()
def repository(tmp_path):
    """A repository with one file, and a copy of a package at `site-packages/memcomp`."""
    if shutil.which("git") is None:
        pytest.skip("no git")
    git(tmp_path, "init", "-q")
    (tmp_path / "analysis.py").write_text("")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    package = tmp_path / "venv" / "site-packages" / "memcomp"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    return tmp_path


def test_a_package_inside_an_unrelated_repository_has_no_revision(repository):
    package = repository / "venv" / "site-packages" / "memcomp"
    assert git_revision(package) is None
    (repository / "memcomp").mkdir()  # as of `pip install --target .`
    (repository / "memcomp" / "__init__.py").write_text("")
    assert git_revision(repository / "memcomp") is None
    git(repository, "add", "-f", "venv")
    git(repository, "commit", "-qm", "with its environment")
    assert git_revision(package) is None


def test_the_package_of_a_repository_has_its_revision(repository, monkeypatch):
    (repository / "memcomp").mkdir()
    (repository / "memcomp" / "__init__.py").write_text("")
    git(repository, "add", "memcomp")
    git(repository, "commit", "-qm", "two")
    revision = git_revision(repository / "memcomp")
    assert len(revision) >= 7 and not revision.endswith("-dirty")
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as in a hook of another repository
    assert git_revision(repository / "memcomp") == revision
    (repository / "memcomp" / "__init__.py").write_text("x = 1")
    assert git_revision(repository / "memcomp") == f"{revision}-dirty"


def test_a_tokenizer_that_was_replaced_is_told_from_the_old_one(tiny_lm):
    def tokenizer(shift):
        def encode(texts, **options):
            return {"input_ids": [[len(text) + shift] for text in texts]}

        return dataclasses.replace(tiny_lm, tokenizer=encode)

    old, same, new = (describe(tokenizer(shift)) for shift in (0, 0, 1))
    assert old["tokenizer"] == same["tokenizer"] != new["tokenizer"]
    assert "tokenizer" not in describe(tiny_lm) and "texts" not in describe(tiny_lm)
    assert describe(tiny_lm, "ab")["texts"] == {"sha256": "ab"}


def test_a_cell_whose_texts_were_replaced_is_refused_and_may_grow(tiny_lm, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("one two")
    texts = {"source": "random_words", "vocabulary": str(words)}
    cfg = CramConfig(num_tokens=None)
    cell = cell_of("grid", "tiny", "float32", "words", texts, cfg)

    class Lengths:
        """A word is the token of its length."""

        def __len__(self):
            return 23

        def __call__(self, texts, **options):
            return {"input_ids": [[len(word) for word in t.split()] for t in texts]}

        def decode(self, ids, **options):
            return ""

    lm = dataclasses.replace(tiny_lm, tokenizer=Lengths())

    def claim(num_texts, seed=0):
        # Without the tokenizer, which would be asked for more than this one can.
        found = cell_texts(lm, cell, num_tokens=3, num_texts=num_texts, seed=seed)
        return claim_cell(tmp_path / "sweep", "cell", cell, tiny_lm, found)

    assert claim(1) == claim(2)
    with pytest.raises(InputError, match="belongs to a run with other texts"):
        claim(1, seed=1)
    words.write_text("one three")
    with pytest.raises(InputError, match="belongs to a run with other texts"):
        claim(1)


def test_texts_know_their_source():
    ids = [("a", np.array([1, 2], np.int32))]
    (text,) = tokenize(None, ids, num_tokens=None, source_sha256="ab")
    assert text.source_sha256 == "ab"
