"""experiments/sample_texts.py: its files, and one sentence for bad input."""

import json

import pytest
from scripts import run_script
from selection import first_here

SMALL = ("--config.num_texts=3", "--config.batch_size=2", "--config.num_tokens=8")


@pytest.mark.ci
def test_the_file_is_a_source_of_texts(tmp_path):
    status, out, err = run_script("sample_texts.py", *SMALL, folder=tmp_path)
    assert status == 0, err
    assert "tokens_per_s" in err
    file = "runs/sample_texts/results.jsonl"
    assert f"--config.texts={file}" in err
    records = [json.loads(x) for x in (tmp_path / file).read_text().splitlines()]
    assert [record["text_id"] for record in records] == [0, 1, 2]
    again = run_script("sample_texts.py", *SMALL, folder=tmp_path)
    assert again[:2] == (0, out)
    assert [json.loads(x) for x in (tmp_path / file).read_text().splitlines()] == records


@pytest.mark.parametrize(
    "argument, words",
    first_here(
        [
            ("--config.temperature=0", "temperature is 0"),
            ("--config.num_tokens=513", "builtin has 512 positions"),
            ("--config.num_texts=0", "num_texts is 0"),
        ]
    ),
)
def test_bad_input_is_refused(tmp_path, argument, words):
    status, _, err = run_script("sample_texts.py", argument, folder=tmp_path)
    assert status == 2 and len(err.strip().splitlines()) == 1, err
    assert words in err
    assert not (tmp_path / "runs").exists()
