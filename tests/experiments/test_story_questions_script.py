"""experiments/story_questions.py: its files, which fine-tuning and evaluation read."""

import json

import pytest
from icformer_run import import_script, make_folder, tiny, write
from scripts import run_script

FILES = ("PwC_train.jsonl", "PwC_test.jsonl")
KINDS = ("icformer", "icae", "gradmem", "pooling")
FOLDER = "runs/story_questions"

script = pytest.fixture(scope="module", name="script")(import_script)


def test_without_flags(tmp_path):
    status, out, err = run_script("story_questions.py", folder=tmp_path)
    assert status == 0, err
    files = [(tmp_path / FOLDER / name).read_text() for name in FILES]
    assert [len(text.splitlines()) for text in files] == [2, 1]
    counts = json.loads((tmp_path / FOLDER / "summary.json").read_text())
    assert [counts[split]["num_questions"] for split in ("train", "test")] == [2, 1]
    again = run_script("story_questions.py", folder=tmp_path)
    assert again == (0, out, err)
    assert files == [(tmp_path / FOLDER / name).read_text() for name in FILES]


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--config.texts=nowhere", "no texts at 'nowhere'"),
        ("--config.questions.num_words=0", "num_words is 0"),
        ("--config.questions.test_part=2.0", "test_part is 2.0; it must be below 1"),
        ("--config.num_texts=1", "the rules find no question for"),
    ],
)
def test_bad_input_is_refused(tmp_path, argument, words):
    status, _, err = run_script("story_questions.py", argument, folder=tmp_path)
    assert status == 2 and len(err.strip().splitlines()) == 1, err
    assert words in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.ci
def test_a_compressor_is_tuned_and_evaluated_on_questions_about_stories(script, tmp_path):
    names = ("Tim", "Lily", "Max", "Sue")
    stories = [
        f"Once there was a {noun} named {name}. {name} had a {colour} cat."
        for noun in ("boy", "dog", "rat")
        for name in names
        for colour in ("red", "blue")
    ]
    write(tmp_path / "stories.jsonl", [{"text": text} for text in stories])
    argument = f"--config.texts={tmp_path / 'stories.jsonl'}"
    assert run_script("story_questions.py", argument, folder=tmp_path)[0] == 0

    lines = {}
    folder = make_folder(tmp_path)
    for kind in KINDS:
        config = tiny(folder, stage="finetune", start="fresh", compressor=kind)
        config.manual_dir = str(tmp_path / FOLDER)
        config.num_valid = 4
        script.main(config, str(tmp_path / kind))
    config.update(stage="evaluate", start=str(tmp_path / "icformer"), compressor="icformer")
    config.evaluate.update(study="answers", num_texts=3, cramming=True)
    config.evaluate.beside = tuple(str(tmp_path / kind) for kind in KINDS[1:])
    config.evaluate.baselines = ("truncation",)
    script.main(config, str(tmp_path / "table"))

    rows = (tmp_path / "table/results.jsonl").read_text().splitlines()
    for record in map(json.loads, rows):
        lines.setdefault(record["kind"], []).append(record["reference"])
    others = ["truncation", "cramming", "full context", "no context"]
    assert list(lines) == [*KINDS, *others]
    test = (tmp_path / FOLDER / FILES[1]).read_text().splitlines()
    answers = [json.loads(line)["answer"] for line in test[:3]]
    assert all(found == answers for found in lines.values()), lines
