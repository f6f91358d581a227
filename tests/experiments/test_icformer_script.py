import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from cramming_run import untimed
from icformer_run import import_script, make_folder, tiny
from several import Job

from memcomp.distributed import EX_TEMPFAIL
from memcomp.errors import InputError, Stopped
from memcomp.lm.load import load_lm
from memcomp.runs import training

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script():
    yield from import_script()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("icformer"))


@pytest.fixture(scope="module")
def whole(script, folder, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("tfds")))
        script.main(tiny(folder), str(folder / "whole"))
        yield folder / "whole"


def read_log(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


class Killed(BaseException):
    """Stands for the end of a process; no part of the code catches it."""


def assert_same_runs(a, b):
    name = "compressor.safetensors"
    assert (a / name).read_bytes() == (b / name).read_bytes()
    assert (a / "summary.json").read_bytes() == (b / "summary.json").read_bytes()
    logs = [read_log(run) for run in (a, b)]
    for one, other in zip(*logs, strict=True):
        assert one.keys() == other.keys()
        assert all(one[k] == other[k] for k in one if k != "tokens_per_second")


@pytest.mark.ci
def test_a_run_that_was_stopped_ends_like_one_that_was_not(
    script, folder, whole, monkeypatch
):
    assert [r["step"] for r in read_log(whole)] == [1, 2, 3, 4, 5, 6]
    evaluated = [r for r in read_log(whole) if "valid_reconstruction_corpus_bleu" in r]
    assert [r["step"] for r in evaluated] == [3, 6]
    assert all("valid_continuation_nats_per_token" in r for r in evaluated)

    cut = folder / "cut"

    def stop(before, losses, advice):
        if before >= 4:
            raise Killed

    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(training, "check_finite", stop)
        script.main(tiny(folder), str(cut))
    assert not (cut / "compressor.safetensors").exists()
    script.main(tiny(folder), str(cut))
    assert_same_runs(cut, whole)


def read(folder):
    """The records of a table, without their times."""
    return untimed(map(json.loads, (folder / "results.jsonl").read_text().splitlines()))


@pytest.mark.ci
def test_both_stages_at_once_make_the_table_of_what_was_trained(script, folder, tmp_path):
    def both(name, **changes):
        config = tiny(folder, stage="both", evaluate_every=6)
        config.evaluate.update(lengths=(12,), kinds=("normal",), **changes)
        script.main(config, str(tmp_path / name))
        return tmp_path / name

    # Before anything is trained:
    with pytest.raises(InputError, match="evaluate.num_texts None"):
        both("refused", num_texts=None)
    with pytest.raises(InputError, match="nowhere cannot be read"):
        both("refused", beside=("nowhere",))
    assert not (tmp_path / "refused").exists()
    made = both("made")
    config = tiny(folder, stage="evaluate", start=str(made))
    config.evaluate.update(lengths=(12,), kinds=("normal",))
    script.main(config, str(tmp_path / "alone"))
    stored = [path / "figures/stored.csv" for path in (made / "table", tmp_path / "alone")]
    assert stored[0].read_text() == stored[1].read_text()
    ours, alone = (read(path) for path in (made / "table", tmp_path / "alone"))
    assert ours == alone and len(ours) == 2 * config.evaluate.num_texts
    assert "test questions" not in json.loads((made / "config.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["icformer", "icae", "gradmem"])
def test_all_stages(script, folder, whole, tmp_path, capsys, kind):
    def run(stage, name, **changes):
        config = tiny(folder, stage=stage, compressor=kind, **changes)
        script.main(config, str(tmp_path / name))
        return tmp_path / name

    first = run("pretrain", "first")
    tuned = run("finetune", "tuned", start=str(first))
    assert read_log(tuned)[-1]["valid_answers_nats_per_token"] > 0
    # The second run began where the first ended.
    losses = [read_log(path)[0]["nats_per_token"] for path in (first, tuned)]
    assert losses[0] != losses[1]

    said = run("generate", "said", start=str(tuned / "compressor.safetensors"))
    records = [json.loads(x) for x in (said / "results.jsonl").read_text().splitlines()]
    assert [r["text_id"] for r in records] == [0, 1]
    assert (said / "soft_prompts.safetensors").exists()
    run("generate", "asked", start=str(tuned), decode=asking(folder, "Who?"))

    run("evaluate", "table", start=str(first))
    summary = json.loads((tmp_path / "table/summary.json").read_text())
    kinds = [f"{kind} {n}" for kind in ("normal", "random", "no vectors") for n in (4, 12)]
    assert list(summary) == kinds
    assert {"nats_per_token", "text_bleu", "corpus_bleu", "exact"} <= summary[
        "normal 4"
    ].keys()
    assert (first / "figures/curves.png").exists()
    drawn = tmp_path / "table/figures/attention.csv"
    assert drawn.exists() == (kind == "icformer")
    if drawn.exists():  # a layer, two digests, a chunk of six words
        assert len(drawn.read_text().splitlines()) == 1 + 2 * 6
    config = tiny(folder, stage="evaluate", compressor=kind, start=str(tuned))
    config.evaluate.study = "answers"
    script.main(config, str(tmp_path / "answers"))
    summary = json.loads((tmp_path / "answers/summary.json").read_text())
    assert list(summary)[:3] == [kind, "full context", "no context"]
    assert (summary["num_questions"], summary["num_left_out"]) == (3, 0)
    assert summary["num_contexts_cut"] > 0
    assert "rouge_l_f1: " not in capsys.readouterr().out


def asking(folder, question):
    decode = tiny(folder).decode
    decode.ask = question
    return decode


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage": "train"}, "'train' is not one of pretrain, finetune"),
        ({"compressor": "gist"}, "'gist' is not one of icformer, icae"),
        ({"save_every": 3, "log_every": 2}, "save_every is 3; give a multiple"),
        ({"texts": "nowhere.jsonl"}, "no documents at 'nowhere.jsonl'"),
        ({"stage": "generate"}, "needs a trained compressor; give --config.start"),
        ({"stage": "finetune", "manual_dir": ""}, "manual_dir is not set"),
        ({"stage": "finetune"}, "begins with a trained compressor; .*=fresh"),
        ({"texts": ""}, "texts is '', where there is no text"),
        ({"seed": -1}, "seed is -1; it must be 0"),
        ({"log_every": 0}, "log_every is 0; it must be 1"),
        ({"save_every": 0}, "save_every is 0; it must be 1"),
        ({"start": "nowhere"}, "nowhere cannot be read"),
        ({"decode.num_texts": -1}, "decode.num_texts is -1; give 0"),
        ({"decode.temperature": -1.0}, "temperature is -1.0 and .*give at least 0"),
        ({"decode.top_p": 0.0}, "top_p is 0.0; give .* above 0 to 1"),
        ({"context.min_length": 13}, "min_length is 13; give 1 to .* = 12"),
        ({"context.max_chunk": 0}, "max_chunk is 0; give at least 1, or None"),
        (
            {"stage": "finetune", "start": "fresh", "context.max_chunk": 0},
            "max_chunk is 0; give at least 1, or None",
        ),
        (
            {"stage": "evaluate", "context.max_chunk": 0},
            "max_chunk is 0; give at least 1, or None",
        ),
        ({"stage": "evaluate", "valid": ""}, "valid is '', where there is no text"),
        ({"stage": "evaluate", "evaluate.study": "x"}, "'x' is not one of reconstruction"),
        ({"stage": "evaluate", "evaluate.kinds": ("old",)}, r"has \['old'\]; known"),
        ({"stage": "evaluate", "evaluate.lengths": (13,)}, "lengths from 1 to .* = 12"),
        ({"stage": "evaluate", "evaluate.num_texts": 0}, "num_texts is 0; give 1"),
        (
            {
                "stage": "evaluate",
                "evaluate.study": "answers",
                "context.length": 20,
                "question.prompt": 90,
            },
            "needs 1.. positions",
        ),
        (
            {"stage": "finetune", "start": "fresh", "compressor": "icae"}
            | {"icae.num_digests": 9, "context.length": 125, "context.max_chunk": None}
            | {"question.prompt": 3, "question.answer": 1},
            "chunks of 125 tokens and 9 slots",
        ),
    ],
)
def test_configs_without_sense_are_refused_before_anything_is_written(
    script, folder, tmp_path, changes, message
):
    with pytest.raises(InputError, match=message):
        script.main(tiny(folder, **changes), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.ci
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decode.num_texts": 0}, "decode.num_texts is 0; give 1"),
        ({"decode.num_texts": 6}, "has 5 texts where 6 are wanted"),
        ({"decode.num_tokens": 0}, "num_tokens is 0; give 1"),
        ({"decode.num_tokens": 125}, "a row needs 1.. positions, .* has 128"),
        ({"decode.ask": "Who? " * 90}, "a row needs .* positions, .* has 128"),
        ({"context.max_chunk": 0}, "max_chunk is 0; give at least 1"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_written(
    script, folder, whole, tmp_path, changes, message
):
    changes = {"stage": "generate", "start": str(whole)} | changes
    with pytest.raises(InputError, match=message):
        script.main(tiny(folder, **changes), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.ci
def test_runs_of_another_config_are_refused(script, folder, whole):
    with pytest.raises(InputError, match="seed: 0 there, 1 here"):
        script.main(tiny(folder, seed=1), str(whole))
    config = tiny(folder, stage="generate", start=str(whole))
    config.icformer.num_layers = 2
    with pytest.raises(InputError, match="num_layers=1.*, but the config says .*=2"):
        script.main(config, str(folder / "other"))
    config = tiny(folder, stage="generate", start=str(whole), lm="builtin")
    with pytest.raises(InputError, match="was trained with .*lm .*, not with builtin"):
        script.main(config, str(folder / "other"))


def test_a_context_over_the_window_is_told_of_chunks(script, folder):
    config = tiny(folder)
    config.context.update(length=120)
    with pytest.raises(InputError, match="needs 16. positions, .* has 128; .*max_chunk"):
        script.main(config, str(folder / "long"))


@pytest.mark.slow
@pytest.mark.parametrize("kind, steps, kills", [("icformer", 400, 20), ("gradmem", 100, 5)])
def test_processes_killed_at_random_moments_end_with_the_same_bits(
    folder, tmp_path, kind, steps, kills
):
    flags = {"lm": folder / "lm", "texts": folder / "train.jsonl", "valid": ""}
    flags |= {
        "train.num_steps": steps,
        "compressor": kind,
        "context.length": 12,
        "context.max_chunk": 6,
    }
    flags |= {"save_every": 10, "log_every": 1, "evaluate_every": 100}
    flags |= {"icformer.num_digests": 2, "icformer.num_layers": 1}
    flags |= {"gradmem.num_digests": 2}
    env = {**os.environ, "TFDS_DATA_DIR": str(tmp_path / "tfds"), "XLA_FLAGS": ""}

    def start(workdir):
        command = [sys.executable, str(ROOT / "experiments" / "icformer.py")]
        command += [f"--config.{name}={value}" for name, value in flags.items()]
        command += [f"--workdir={workdir}"]
        return subprocess.Popen(command, stderr=subprocess.DEVNULL, env=env)

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert start(whole).wait() == 0
    rng = np.random.default_rng(0)
    for step in np.sort(rng.integers(1, steps, kills)):
        process = start(cut)
        while last_step(cut) < step:
            assert process.poll() is None
            time.sleep(0.002)
        # Also while a checkpoint is written, which happens in the background.
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert start(cut).wait() == 0
    name = "compressor.safetensors"
    assert (cut / name).read_bytes() == (whole / name).read_bytes()
    logs = [read_log(run) for run in (whole, cut)]
    for one, other in zip(*logs, strict=True):
        assert (one["step"], one["loss"]) == (other["step"], other["loss"])


def last_step(run):
    """The last step in the log, 0 where there is none."""
    file = run / "log.jsonl"
    whole = file.read_bytes().rpartition(b"\n")[0] if file.exists() else b""
    return json.loads(whole.splitlines()[-1])["step"] if whole else 0


def test_the_lm_is_whole(folder):
    assert load_lm(str(folder / "lm")).tokenizer.eos_token_id == 0


@pytest.mark.slow
def test_two_processes_one_of_which_is_killed_end_with_the_same_bits(folder, tmp_path):
    flags = {"lm": folder / "lm", "texts": folder / "train.jsonl"}
    flags |= {"valid": folder / "valid.jsonl", "num_valid": 4, "decode.num_texts": 2}
    flags |= {"train.num_steps": 60, "context.length": 12, "context.max_chunk": 6}
    flags |= {"train.batch_size": 8, "train.accumulation": 1, "mesh.fsdp": 2}
    flags |= {"save_every": 10, "log_every": 1, "evaluate_every": 30}
    flags |= {"icformer.num_digests": 2, "icformer.num_layers": 1}
    arguments = [f"--config.{name}={value}" for name, value in flags.items()]

    def start(run, processes, devices):
        return Job(
            tmp_path,
            "icformer.py",
            *arguments,
            f"--workdir={tmp_path / run}",
            processes=processes,
            devices=devices,
        )

    def end(run, processes, devices):
        statuses, said = start(run, processes, devices).ended(300)
        assert statuses == [0] * processes, said

    end("one", 1, 2)
    end("whole", 2, 2)
    for step, victim in ((15, 1), (33, 0)):
        job = start("cut", 2, 2)
        while last_step(tmp_path / "cut") < step:
            assert job.alive()
            time.sleep(0.002)
        job.processes[victim].kill()
        statuses, said = job.ended(120)
        assert statuses[1 - victim] == EX_TEMPFAIL, said
    end("cut", 2, 2)
    assert_same_runs(tmp_path / "cut", tmp_path / "whole")
    losses = [[r["loss"] for r in read_log(tmp_path / run)] for run in ("one", "whole")]
    np.testing.assert_allclose(*losses, rtol=1e-3)


@pytest.mark.slow
def test_a_run_that_is_told_to_stop_saves_and_goes_on(script, folder, whole, monkeypatch):
    cut = folder / "told"
    with monkeypatch.context() as patch:
        patch.setattr(script, "is_told_to_stop", lambda: last_step(cut) == 3)
        with pytest.raises(Stopped):
            script.main(tiny(folder), str(cut))
    assert last_step(cut) == 3 and (cut / "checkpoints" / "3").exists()
    script.main(tiny(folder), str(cut))
    assert_same_runs(cut, whole)
