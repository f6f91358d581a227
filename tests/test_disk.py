"""Paths as users write them, and disks that do not take a file."""

import errno
import functools
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from memcomp.compressors.compress import SoftPrompts
from memcomp.compressors.files import load_soft_prompts, save_soft_prompts
from memcomp.convert.files import save_checkpoint
from memcomp.cram.api import cram
from memcomp.cram.config import CramConfig
from memcomp.cram.memory_file import load_memory, save_memory
from memcomp.data.documents import find_documents
from memcomp.data.pwc import find_pwc
from memcomp.data.ragged import cached_ragged
from memcomp.data.texts import read_texts
from memcomp.data.windows import cached_tokens
from memcomp.disk import write_whole
from memcomp.errors import InputError
from memcomp.lm.load import export_lm, load_lm
from memcomp.report.load import find_runs
from memcomp.runs import scalars
from memcomp.runs.checkpoints import Checkpoints
from memcomp.runs.cramming import write_flight
from memcomp.runs.files import append_records, claim_workdir


@pytest.fixture()
def home(tmp_path, monkeypatch):
    """A home folder; the current folder is another."""
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    yield tmp_path / "home"
    assert not list((tmp_path / "here").iterdir())  # no folder that is named ~


@pytest.fixture(scope="module")
def results(tiny_lm):
    cfg = CramConfig(num_tokens=None, max_steps=2)
    return cram(tiny_lm, [np.array([1, 2, 3], np.int32)], cfg)


def prompts(lm):
    return SoftPrompts(
        vectors=np.zeros((1, 2, 16), np.float32),
        counts=np.array([2], np.int32),
        special=np.zeros((2, 16), np.float32),
        lm_name=lm.name,
        lm_fingerprint=lm.fingerprint,
    )


def test_the_home_folder_is_meant_where_files_are_written_and_read(home, results, tiny_lm):
    save_memory("~/m.safetensors", results)
    assert load_memory("~/m.safetensors").keys() == {"0"}
    save_soft_prompts("~/p.safetensors", prompts(tiny_lm))
    assert load_soft_prompts("~/p.safetensors").counts == [2]
    export_lm(pathlib.Path("~/lm"), tiny_lm.module, tiny_lm.params)
    assert load_lm("~/lm").config == tiny_lm.config
    assert claim_workdir("~/run", {"seed": 0}, {}) == epath.Path(home / "run")
    (home / "run" / "results.jsonl").write_text("")
    assert find_runs(["~/run"]) == [str(home / "run")]
    with Checkpoints("~/checkpoints") as checkpoints:
        checkpoints.save(1, {"a": jnp.zeros(2)})
    names = {path.name for path in home.iterdir()}
    assert names == {"m.safetensors", "p.safetensors", "lm", "run", "checkpoints"}


def test_the_home_folder_is_meant_where_texts_are_read(home):
    (home / "words.txt").write_text("one two")
    (home / "a.jsonl").write_text('{"text": "rain"}\n')
    (home / "PwC_train.jsonl").write_text("")
    assert read_texts("~/words.txt") == [("words.txt", "one two")]
    assert read_texts("~/a.jsonl") == [("a.jsonl", "rain")]
    options = {"vocabulary": "~/words.txt", "num_texts": 1, "num_words": 3}
    assert len(read_texts("random_words", **options)) == 1
    assert find_documents("~/a.jsonl") == [home / "a.jsonl"]
    assert find_pwc("train", "~") == home / "PwC_train.jsonl"


FILES = {
    "results.jsonl": lambda path, results, lm: append_records(path, [{"a": 1}]),
    "summary.json": lambda path, results, lm: write_whole(path, "{}"),
    "m.safetensors": lambda path, results, lm: save_memory(path, results),
    "p.safetensors": lambda path, results, lm: save_soft_prompts(path, prompts(lm)),
    "in_flight.safetensors": lambda path, results, lm: write_flight(
        path.parent, {"ids": np.zeros(2)}
    ),
    "tokens.npy": lambda path, results, lm: cached_tokens(
        path, lambda: np.zeros(2, np.uint16)
    ),
    "tokens": lambda path, results, lm: cached_ragged(path, ("text",), lambda: [([1],)]),
    "lm": lambda path, results, lm: save_checkpoint(
        pathlib.Path(path), {"a": np.zeros(2)}, {}
    ),
    "metrics": lambda path, results, lm: scalars.scalar_writer(path),
    "run": lambda path, results, lm: claim_workdir(path, {}, {}),
    "checkpoints": lambda path, results, lm: Checkpoints(path),
}


@pytest.mark.parametrize("name", FILES)
def test_what_cannot_be_written_is_named(tmp_path, results, tiny_lm, name):
    """A file in the place of the folder, which stops the superuser too."""
    (tmp_path / "file").write_text("")
    path = epath.Path(tmp_path / "file" / name)
    with pytest.raises(InputError, match=f"{path} cannot be (written|used) .*Not a dir"):
        FILES[name](path, results, tiny_lm)


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_named_and_what_was_there_stays(tmp_path, monkeypatch):
    path = epath.Path(tmp_path / "summary.json")
    write_whole(path, "before")
    with monkeypatch.context() as patch:
        patch.setattr(type(path), "replace", full)
        with pytest.raises(InputError, match=f"{path} cannot be written .No space left"):
            write_whole(path, "after")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [tmp_path / "summary.json"]
    with pytest.raises(InputError, match="/dev/full cannot be written .No space left"):
        append_records(epath.Path("/dev/full"), [{"a": 1}])


def test_scalars_on_a_full_disk_are_an_error_where_they_are_added(tmp_path, monkeypatch):
    """In a thread of its own, tensorboardX would end in a traceback and hang the run."""
    monkeypatch.setattr(scalars, "FLUSH_SECONDS", -1)
    with scalars.scalar_writer(epath.Path(tmp_path), purge_step=1) as writer:
        writer.add_scalar("loss", 1.0, 1)
        with monkeypatch.context() as patch:
            patch.setattr(writer._events, "flush", full)
            with pytest.raises(InputError, match=f"{tmp_path} cannot be written"):
                writer.add_scalar("loss", 1.0, 2)


def test_a_script_on_a_full_disk_ends_with_one_sentence(monkeypatch, capsys):
    import launch

    monkeypatch.setattr(launch, "_config", lambda *args: None)
    monkeypatch.setattr(launch.WORKDIR.__class__, "value", "", raising=False)
    start = functools.partial(launch.launch, lambda config, workdir: full(), "any")
    with pytest.raises(SystemExit) as ended:
        start()
    assert ended.value.code == 2
    assert "a file cannot be written (No space left" in capsys.readouterr().err
