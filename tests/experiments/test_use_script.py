"""experiments/use.py as a user runs it: its files, resumed, and one sentence when wrong."""

import json
import pathlib

import pytest
from scripts import run_script
from selection import first_here

LM = pathlib.Path(__file__).parent.parent / "golden" / "llama"
SMALL = (
    f"--config.lm={LM}",
    "--config.texts=uniform_tokens",
    "--config.num_texts=2",
    "--config.cram.num_tokens=(2,)",
    "--config.cram.max_steps=200",
    "--config.before=(4,)",
    "--config.after=3",
    "--config.studies=('attention','use')",
    "--workdir=run",
)


@pytest.mark.slow
def test_a_run_goes_on_and_ends_the_same(tmp_path):
    status, out, err = run_script("use.py", *SMALL, folder=tmp_path)
    assert status == 0, err
    assert "2 of 2 texts come back exactly" in out and "true continuation" in out
    file = tmp_path / "run" / "use.jsonl"
    whole = file.read_bytes()
    lines = [json.loads(line) for line in whole.splitlines()]
    assert {line["kind"] for line in lines} == {"attention", "use"}
    # As if killed between the two studies.
    kept = [line for line in whole.splitlines(True) if b'"attention"' in line]
    file.write_bytes(b"".join(kept))
    again = run_script("use.py", *SMALL, folder=tmp_path)
    assert again == (0, out, err)
    assert file.read_bytes() == whole


@pytest.mark.parametrize(
    "arguments, words",
    first_here(
        [
            (["--config.cram.num_tokens=(4,5)"], ["(4, 5)", "one length"]),
            (["--config.studies=('reading',)"], ["reading", "knockout"]),
            (["--config.num_texts=1"], ["num_texts is 1", "2 or more"]),
            (
                ["--config.cram.num_tokens=(1,)", "--config.studies=('knockout',)"],
                ["1 token"],
            ),
            (["--config.before=(600,)"], ["positions"]),
            (["--config.before=('a',)"], ["before is ('a',)", "numbers of tokens"]),
            (["--config.cram.num_tokens=('a',)"], ["('a',)", "one length"]),
            (["--config.mesh.tensor=64"], ["tensor 64", "devices"]),
            (["--config.attention=none"], ["attention", "none", "plain"]),
            (["--config.remat=some"], ["remat", "some", "dots"]),
            (["--config.after=40"], ["fewer than num_tokens"]),
            (["--config.cram.memory=one_step"], ["reads no text", "vectors or cache"]),
        ]
    ),
)
def test_bad_input_is_refused(tmp_path, arguments, words):
    status, _, err = run_script("use.py", *arguments, folder=tmp_path)
    assert status == 2 and len(err.strip().splitlines()) == 1, err
    assert all(word in err for word in words), err
    assert not (tmp_path / "runs").exists()
