"""The GPU's benchmark at small shapes on a CPU: every kind of row, budget, and going on."""

import json
import pathlib
import runpy

import flax.linen as nn
import gpu_benchmark as script
import jax
import pytest
import transformers
from etils import epath
from ml_collections import config_dict
from scripts import run_script
from tiny_lm import TINY_ENTRIES

from memcomp.errors import InputError
from memcomp.lm.load import FAMILIES, abstract_params

ROOT = pathlib.Path(__file__).parent.parent
ROW = {"shape": "tiny", "num_tokens": 6, "num_texts": 2, "steps": 1, "remat": "none"}
ROWS = {
    "heads": ROW | {"kind": "attention", "attention": "blockwise", "num_tokens": 140},
    "loop": ROW | {"kind": "cram", "attention": "auto"},
    "step": ROW | {"kind": "icformer", "attention": "auto", "remat": "full"},
    "torch": ROW | {"kind": "pytorch", "attention": "sdpa", "compiled": False},
    "torch_one": ROW | {"kind": "pytorch", "attention": "sdpa", "compiled": True},
}


def from_file():
    path = ROOT / "configs/gpu_benchmark.py"
    return runpy.run_path(str(path))["get_config"]()


@pytest.fixture()
def config():
    config = from_file().unlock()
    config.update(dtype="float32", rounds=1, num_digests=2, matmul=(8, 8, 8))
    for name, value in {"shapes": {"tiny": TINY_ENTRIES}, "row": ROWS}.items():
        del config[name]
        config[name] = value
    config.rows = "heads,loop,step"
    return config


def read(file):
    return {r["row"]: r for r in map(json.loads, file.read_text().splitlines())}


@pytest.mark.ci
def test_a_kernel_is_compared_with_the_weights(config, tmp_path):
    config.rows = "heads,torch"  # the second is of the other part
    file = epath.Path(tmp_path) / "results.jsonl"
    script.measure("ours", config, file)
    (record,) = read(file).values()
    assert max(record["errors"].values()) < 1e-5 and record["seconds"]["median"] > 0


@pytest.mark.slow
def test_rows_are_measured_in_their_order_and_once(config, tmp_path):
    file = epath.Path(tmp_path) / "results.jsonl"
    config.rows = "loop"
    script.measure("ours", config, file)
    config.rows = "step,loop"
    script.measure("ours", config, file)
    found = read(file)
    assert list(found) == ["loop", "step"]
    assert not any("error" in record for record in found.values())
    for name in "loop", "step":
        assert found[name]["share"] > 0 and found[name]["temp_bytes"] > 0
    entries = {"what": "loop / step", "above": "loop", "below": "step", "required": 1.0}
    config.ratios = {"one": entries}
    table = script.table(list(found.values()), config.ratios)
    ratio = found["loop"]["rate"]["median"] / found["step"]["rate"]["median"]
    assert f"loop / step: {ratio:.3g} (wanted 1)" in table


def test_no_row_is_begun_when_the_time_is_over(config, tmp_path):
    config.seconds.ours = 0.0
    script.measure("ours", config, epath.Path(tmp_path) / "results.jsonl")
    assert not (tmp_path / "results.jsonl").exists()


def test_a_row_is_halved_until_it_fits(config):
    def kind(config, row):
        if row.num_texts > 3:
            raise RuntimeError("RESOURCE_EXHAUSTED: no room")
        return {"rate": row.num_texts}

    row = config_dict.ConfigDict(ROWS["loop"] | {"num_texts": 13})
    assert script.with_room(kind, config, row)["rate"] == 3


def test_a_row_that_fails_leaves_the_reason(config):
    def kind(config, row):
        raise ValueError("no such kernel")

    record = script.with_room(kind, config, config_dict.ConfigDict(ROWS["loop"]))
    assert record["error"] == "ValueError: no such kernel"


@pytest.mark.ci
@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "JAX finds no GPU here, only a cpu"),
        (["--config.rows=warp"], "no rows warp; there are attention_llama_1b"),
    ],
)
def test_nothing_is_begun_without_a_gpu(tmp_path, rows, words):
    if jax.default_backend() == "gpu":
        pytest.skip("there is one")
    status, out, err = run_script("gpu_benchmark.py", *rows, folder=tmp_path)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1 and err.startswith("gpu_benchmark.py: " + words)
    assert {file.name for file in tmp_path.iterdir()} == {"out.txt", "err.txt"}


def test_rows_of_pytorch_need_a_torch_that_finds_a_gpu(config, monkeypatch):
    config.rows = "torch,loop,step"
    monkeypatch.setattr(script, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="no torch .*--config.rows=loop,step$"):
        script.check_gpu("pytorch", config)


def test_shapes_are_the_published_ones():
    config = from_file()
    sizes = json.loads((ROOT / "configs/full_size.json").read_text())
    published = {
        "pythia_160m": "EleutherAI/pythia-160m",
        "pythia_1_4b": "EleutherAI/pythia-1.4b",
        "llama_1b": "meta-llama/Llama-3.2-1B",
        "llama_8b": "meta-llama/Meta-Llama-3.1-8B",
    }
    for shape, name in published.items():
        entries = config.shapes[shape].to_dict()
        family = FAMILIES[entries["model_type"]]
        hf = transformers.AutoConfig.for_model(**entries)
        module = family.model(family.config_from_hf(hf))
        leaves = jax.tree.leaves(nn.unbox(abstract_params(module)))
        assert sum(leaf.size for leaf in leaves) == sizes[name]["parameters"]
    for name in config.rows.split(","):
        assert config.row[name].kind in script.KINDS


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")  # of torch's own compiler
def test_the_loop_of_pytorch_runs_as_it_is_and_compiled(config, tmp_path):
    config.rows = "torch,torch_one"
    script.measure("pytorch", config, epath.Path(tmp_path) / "results.jsonl")
    found = read(tmp_path / "results.jsonl")
    assert all(found[name]["rate"]["median"] > 0 for name in ("torch", "torch_one"))
