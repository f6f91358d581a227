"""What commands say about texts before they begin, and that a damaged log is refused."""

import json
import pathlib

import jax.numpy as jnp
import pytest
from scripts import run_script
from tiny_lm import make_tiny_lm

from memcomp.lm.load import export_lm


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    """A folder with an LM whose tokens all have one output vector."""
    folder = tmp_path_factory.mktemp("lm")
    made = make_tiny_lm("float32")
    head = jnp.ones_like(made.params["head"])
    export_lm(folder, made.module, made.params | {"head": head})
    return folder


CONFIG = pathlib.Path(__file__).parents[2] / "configs/capacity.py"
SAID = "2 of 2 texts cannot come back whole"


@pytest.mark.ci
@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("cram.py", ["lm", "texts=uniform_tokens", "cram.num_tokens=(3,)"]),
        ("capacity.py", ["lms", "sources.builtin.source=uniform_tokens", "lengths=(3,)"]),
        ("real_models.py", ["lm", "sources.novels.source=uniform_tokens", "most=3"]),
    ],
)
def test_texts_that_cannot_come_back_are_said(script, flags, lm, tmp_path):
    name, *flags = flags
    flags += [f"lms=('{lm}',)" if name == "lms" else f"lm={lm}", "num_texts=2"]
    flags += ["order=('progressive',)"] if script == "real_models.py" else []
    flags += ["rows.progressive.num_texts=2"] if script == "real_models.py" else []
    few = ["cram.max_steps=2"] if script != "real_models.py" else []
    status, out, err = run_script(
        script,
        *(f"--config.{flag}" for flag in [*flags, *few]),
        "--workdir=run",
        folder=tmp_path,
    )
    assert status == 0, err
    assert SAID in out + err


@pytest.mark.ci
def test_a_damaged_log_of_growth_is_refused_in_one_sentence(lm, tmp_path):
    flags = (
        f"--config={CONFIG}:horizon",
        f"--config.lms=('{lm}',)",
        "--config.sources.builtin.source=uniform_tokens",
        "--config.lengths=(3,)",
        "--config.num_texts=2",
        "--config.cram.max_steps=2",
        "--workdir=run",
    )
    status, _, err = run_script("capacity.py", *flags, folder=tmp_path)
    assert status == 0, err
    (log,) = tmp_path.glob("run/cells/*/growth.jsonl")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line["seed_id"] for line in lines}
    for damaged in ({"seed_id": 1, "prefix": 2}, {"seed_id": None}):
        text = log.read_text() + json.dumps(damaged) + "\n"
        log.write_text(text)
        status, out, err = run_script("capacity.py", *flags, folder=tmp_path)
        assert status == 2 and "Traceback" not in err
        assert "growth.jsonl has a line that is not of the growth of a text" in err
        assert log.read_text() == text
        log.write_text("".join(json.dumps(line) + "\n" for line in lines))
