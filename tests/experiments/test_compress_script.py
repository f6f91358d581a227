"""experiments/compress.py as a user runs it: its files, and one sentence for bad input."""

import json

import pytest
from scripts import run_script
from selection import first_here

SMALL = ("--config.num_texts=2", "--config.num_words=12", "--workdir=run")


def test_the_table_and_the_files_of_a_run(tmp_path):
    status, out, err = run_script("compress.py", *SMALL, folder=tmp_path)
    assert status == 0, err
    for words in ("arithmetic", "6.77±0.75", "12 of 12 came back exactly", "Pythia-160M"):
        assert words in out
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["config"]["num_words"] == 12 and config["lm"]["sha256"]
    lines = (tmp_path / "run" / "results.jsonl").read_text().splitlines()
    assert len(lines) == 12
    assert {json.loads(line)["source"] for line in lines} == {"builtin"}
    again = run_script("compress.py", *SMALL, folder=tmp_path)
    assert again == (0, out, err)


@pytest.mark.parametrize(
    "argument, words",
    first_here(
        [
            ("--config.methods=('gzip',)", ["gzip", "zlib"]),
            ("--config.num_words=4000", ["4000", "words"]),
            ("--config.num_words=0", ["num_words is 0; it must be 1 or more"]),
            ("--config.texts=nowhere", ["nowhere"]),
        ]
    ),
)
def test_bad_input_is_refused(tmp_path, argument, words):
    status, _, err = run_script("compress.py", argument, folder=tmp_path)
    assert status == 2 and len(err.strip().splitlines()) == 1, err
    assert all(word in err for word in words)
    assert not (tmp_path / "runs").exists()
