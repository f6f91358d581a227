"""experiments/cram.py as a user runs it: its files, and one sentence for bad input."""

import csv
import dataclasses
import gzip
import importlib
import json
import math
import pathlib

import jax
import numpy as np
import pytest
from flax import linen as nn
from lossy_tokenizers import losing
from safetensors.numpy import load_file, save_file
from scripts import run_script
from selection import first_here
from tiny_lm import TINY

import memcomp
from memcomp.lm.load import BUILTIN, abstract_params, export_lm
from memcomp.models.llama import Llama

# Its name is that of a package of the library.
cram_script = importlib.import_module("cram")
SMALL = (
    "--config.num_texts=2",
    "--config.cram.num_tokens=(2,3)",
    "--config.cram.max_steps=60",
    "--config.cram.steps_per_chunk=30",
)


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """Folder, standard output and workdir of a run with two short texts."""
    folder = tmp_path_factory.mktemp("cram")
    status, out, err = run_script("cram.py", *SMALL, "--workdir=run", folder=folder)
    assert status == 0, err
    return folder, out, folder / "run"


@pytest.mark.slow
def test_a_trace_of_a_few_chunks_is_written_where_it_is_asked_for(tmp_path, small_run):
    options = (*SMALL, "--config.cram.steps_per_chunk=3", "--workdir=run")
    status, _, err = run_script("cram.py", *options, "--profile", folder=tmp_path)
    assert status == 0, err
    (written,) = (line for line in err.splitlines() if "trace" in line)
    assert written == "wrote a trace of 3 steps or chunks to run/profile"
    (trace,) = (tmp_path / "run/profile").rglob("perfetto_trace.json.gz")
    events = gzip.decompress(trace.read_bytes())
    assert events.count(b"jit_cram_chunk") >= 3 or events.count(b"cram_chunk") >= 3
    assert not (small_run[2] / "profile").exists()


def test_the_table_and_the_files_of_a_run(small_run):
    _, out, run = small_run
    assert "of 2 texts come back exactly" in out
    config = json.loads((run / "config.json").read_text())
    assert config["config"]["lm"] == "builtin"
    assert len(config["lm"]["sha256"]) == 64 and config["versions"]["jax"]
    records = [
        json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()
    ]
    assert sorted(r["text_id"] for r in records) == [0, 1]
    wanted = """text_id source num_tokens num_memory protocol accuracy exact_teacher_forced
        exact_greedy exact_greedy_bfloat16 steps token_steps loss_nats baseline_loss_nats
        baseline_accuracy information_gain_nats information_gain_bits token_gain memory_file
        memory_key seconds""".split()
    for record in records:
        assert not set(wanted) - record.keys()
        assert record["memory_key"] in load_file(run / record["memory_file"])
        text = f"{record['num_tokens']}"
        assert text in out
    assert json.loads((run / "summary.json").read_text())["n"] == 2
    assert (run / "figures" / "curves.png").read_bytes().startswith(b"\x89PNG")
    with open(run / "figures" / "curves.csv") as file:
        assert {row["text_id"] for row in csv.DictReader(file)} == {"0", "1"}
    assert any((run / "metrics").iterdir())


def test_the_stored_vectors_decode_to_the_texts(small_run):
    _, _, run = small_run
    lm = memcomp.load_lm("builtin")
    for line in (run / "results.jsonl").read_text().splitlines():
        record = json.loads(line)
        stored = memcomp.load_memory(run / record["memory_file"], lm)[record["memory_key"]]
        tokens = memcomp.decode(lm, stored.memory, stored.num_tokens)
        same = lm.tokenizer.decode(tokens.tolist()) == record["text"]
        assert same == record["exact_greedy"]


def test_bits_of_text_are_the_surprise_of_what_comes_back():
    """By hand: 2 + 3 bits of a prefix of two tokens, the third was not decoded."""
    record = dict(num_tokens=3, text_id=0, exact_greedy=False, greedy_prefix_tokens=2)
    record |= dict(surprise_nats=[2 * math.log(2), 3 * math.log(2), 9.0], steps=7)
    record |= dict(diverged_at=None, text_comes_back=None)
    given = record | dict(surprise_nats=[None, 3 * math.log(2), 9.0], text_id=1)
    exact = record | dict(exact_greedy=True, greedy_prefix_tokens=3, text_id=2)
    records = [r | dict(memory_bits=64, text="a b c") for r in (record, given, exact)]
    cells = [line.split()[:6] for line in cram_script.table(records).splitlines()[1:4]]
    assert cells[0] == ["3", "first", "2", "7", "5", "64"]
    assert cells[1] == ["3", "first", "2", "7", "3", "64"]  # the given token says nothing
    assert cells[2][:5] == ["3", "yes", "7", "18", "64"]  # 5 + 9 / ln 2 = 17.98


def test_the_same_command_again_shows_the_same_table(small_run):
    folder, out, run = small_run
    before = (run / "results.jsonl").read_bytes()
    status, again, err = run_script("cram.py", *SMALL, "--workdir=run", folder=folder)
    assert (status, again) == (0, out), err
    assert (run / "results.jsonl").read_bytes() == before


def assert_refused(folder, *arguments, words, stdin=None):
    """One sentence with all `words`, status 2, and no file but the two of the output."""
    before = sorted(folder.rglob("*"))
    status, out, err = run_script("cram.py", *arguments, folder=folder, stdin=stdin)
    assert status == 2, err
    assert "Traceback" not in err and len(err.strip().splitlines()) == 1, err
    assert err.startswith("cram.py: ")
    for word in words:
        assert word in err
    ours = {folder / name for name in ("out.txt", "err.txt", "in.txt")}
    assert sorted(set(folder.rglob("*")) - ours) == sorted(set(before) - ours)


@pytest.mark.parametrize(
    "content, name, arguments, words",
    first_here(
        [
            (b'{"text": ""}\n', "a.jsonl", [], ["a.jsonl", "empty"]),
            (b'{"body": "x"}\n', "a.jsonl", [], ["a.jsonl", "text", "body"]),
            (b"body\nx\n", "a.csv", [], ["a.csv", "text", "body"]),
            (b"\xff\xfe\x00 latin", "a.txt", [], ["a.txt", "UTF-8"]),
            (b"Two words", "a.txt", ["--config.cram.num_tokens=(99,)"], ["99"]),
            (b"word " * 999, "a.txt", ["--config.cram.num_tokens=(600,)"], ["600", "512"]),
        ]
    ),
)
def test_bad_texts_are_refused(tmp_path, content, name, arguments, words):
    (tmp_path / name).write_bytes(content)
    assert_refused(
        tmp_path,
        f"--config.texts={name}",
        "--config.num_texts=1",
        *(arguments or ["--config.cram.num_tokens=(3,)"]),
        words=words,
    )


@pytest.mark.parametrize(
    "argument, words",
    first_here(
        [
            ("--config.cram.num_tokenz=3", ["num_tokenz", "num_tokens"]),
            ("--config.cram.num_memory=0", ["num_memory is 0"]),
            ("--config.cram.num_tokens=('a',)", ["num_tokens is ('a',)", "whole number"]),
            ("--config.cram.num_memory=one", ["one"]),
            ("--config.cram.max_steps=-1", ["max_steps is -1"]),
            ("--config.cram.recipe=best", ["best", "default", "reference"]),
            ("--config.protocol=strickt", ["strickt", "strict", "reference"]),
            ("--config.mehs=1", ["mehs"]),
            ("--config.texts=no/such/place", ["no/such/place"]),
            ("--config.num_texts=999", ["999"]),
            ("--config=missing.py", ["missing.py"]),
            ("--config.lm=someone/unheard-of", ["someone/unheard-of", "network"]),
            ("--config.lm=./nothing", ["./nothing"]),
            ("--wrokdir=here", ["wrokdir", "workdir"]),
            ("extra", ["extra"]),
        ]
    ),
)
def test_bad_flags_are_refused(tmp_path, argument, words):
    assert_refused(tmp_path, argument, words=words)


def test_standard_input_that_is_empty_is_refused(tmp_path):
    assert_refused(tmp_path, "--config.texts=-", words=["standard input"], stdin="")


def write_lm(folder, *, config=None, change=None):
    """A copy of the built-in LM, with another config or other weights."""
    folder.mkdir()
    text = (BUILTIN / "config.json").read_text() if config is None else config
    (folder / "config.json").write_text(text)
    tensors = load_file(BUILTIN / "model.safetensors")
    if change is not None:
        change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


def with_nan(tensors):
    tensors["model.norm.weight"][3] = np.nan


def with_other_names(tensors):
    tensors["lm.norm.weight"] = tensors.pop("model.norm.weight")


@pytest.mark.parametrize(
    "config, change, words",
    first_here(
        [
            ('{"model_type": "rwkv"}', None, ["rwkv", "llama", "gpt_neox"]),
            (None, with_nan, ["model.norm.weight", "not finite"]),
            (None, with_other_names, ["lm.norm.weight", "model.norm.weight"]),
        ]
    ),
)
def test_a_bad_lm_is_refused(tmp_path, config, change, words):
    write_lm(tmp_path / "lm", config=config, change=change)
    assert_refused(tmp_path, "--config.lm=lm", words=words)


def test_a_truncated_lm_and_one_without_config_are_refused(tmp_path):
    folder = write_lm(tmp_path / "lm")
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1000])
    assert_refused(tmp_path, "--config.lm=lm", words=["model.safetensors"])
    path.write_bytes(whole)
    (folder / "config.json").unlink()
    assert_refused(tmp_path, "--config.lm=lm", words=["config.json"])


def test_a_workdir_of_another_config_is_refused_and_kept(small_run):
    folder, _, run = small_run
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    assert_refused(
        folder,
        *SMALL,
        "--config.seed=1",
        "--workdir=run",
        words=["seed: 0 there, 1 here"],
    )
    assert before == {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}


def test_a_workdir_that_cannot_be_written_is_refused(tmp_path):
    pathlib.Path(tmp_path / "file").write_text("")
    assert_refused(tmp_path, "--workdir=file/run", words=["file/run", "workdir"])


def of_tokenizer(tokenizer, folder):
    """A tiny LM with random weights and the tokenizer."""
    tokenizer.save_pretrained(folder)
    config = dataclasses.replace(TINY, vocab_size=len(tokenizer))
    module = Llama(config)
    leaves, tree = jax.tree.flatten(nn.unbox(abstract_params(module)))
    rng = np.random.default_rng(0)
    made = [np.float32(0.1) * rng.standard_normal(x.shape, np.float32) for x in leaves]
    export_lm(folder, module, jax.tree.unflatten(tree, made))


@pytest.mark.ci
def test_a_text_that_the_tokenizer_does_not_give_back_is_said_and_counted(tmp_path):
    of_tokenizer(losing("<unk>"), tmp_path / "lm")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("the rain had")
    (tmp_path / "texts" / "b.txt").write_text("the \N{GRINNING FACE} rain")
    options = ("--config.lm=lm", "--config.texts=texts", "--config.num_texts=2")
    options += ("--config.cram.num_tokens=(3,)", "--config.cram.num_memory=4")
    options += ("--config.cram.max_steps=2",)
    status, out, err = run_script("cram.py", *options, "--workdir=run", folder=tmp_path)
    assert status == 0, err
    lines = (tmp_path / "run" / "results.jsonl").read_text().splitlines()
    kept, lost = sorted(map(json.loads, lines), key=lambda record: record["text_id"])
    assert kept["text_comes_back"] and not lost["text_comes_back"]
    assert lost["text"] == "the <unk> rain"
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["text_comes_back"]["mean"] == 0.5
    assert "The tokenizer does not give back the text of 1 of 2 texts" in out


def test_tokens_that_are_exact_are_no_text_that_comes_back():
    record = dict(num_tokens=3, exact_greedy=True, greedy_prefix_tokens=3, steps=7)
    record |= dict(surprise_nats=[1.0] * 3, memory_bits=64, text="the <unk> rain")
    record |= dict(diverged_at=None, text_comes_back=None)
    records = [
        record | dict(text_id=i, text_comes_back=back)
        for i, back in enumerate([True, False, None])
    ]
    table = cram_script.table(records)
    assert table.count("yes") == 3 and table.count("yes, of tokens only") == 1
    assert "2 of 3 texts come back exactly" in table
    assert "does not give back the text of 1 of 3 texts" in table
    assert "does not give back" not in cram_script.table(records[::2])


@pytest.mark.ci
def test_a_control_token_in_a_text_is_text(tmp_path):
    text = "He typed <|endoftext|> and left"
    (tmp_path / "texts.txt").write_text(text)
    options = ("--config.texts=texts.txt", "--config.num_texts=1", "--workdir=run")
    options += ("--config.cram.num_tokens=(14,)", "--config.cram.max_steps=1")
    status, _, err = run_script("cram.py", *options, folder=tmp_path)
    assert status == 0, err
    (record,) = map(json.loads, (tmp_path / "run/results.jsonl").read_text().splitlines())
    assert "<|endoftext|>" in record["text"] and record["text_comes_back"]
    assert "".join(record["tokens_text"]) == record["text"]
    assert "<|endoftext|>" not in record["tokens_text"]
    assert record["num_bytes"] == len(record["text"])
