"""The benchmark's own sums, and each of its rows on a tiny model."""

import dataclasses
import importlib
import json
import pathlib
import runpy

import benchmark
import jax
import numpy as np
import pytest
from benchmarks import random_models, speed, step_parts, timing
from tiny_lm import TINY_ENTRIES

import memcomp
from memcomp.cram.loop import cram_chunk, lower_cram_chunk
from memcomp.cram.state import init_states
from memcomp.errors import InputError

ROOT = pathlib.Path(__file__).parent.parent
TINY_MAMBA = {
    "model_type": "mamba",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "state_size": 3,
    "vocab_size": 40,
}


@pytest.fixture()
def config():
    config = runpy.run_path(str(ROOT / "configs/benchmark.py"))["get_config"]()
    config.rounds = 2
    config.pytorch = False
    config.pythia_160m.shape = TINY_ENTRIES
    config.pythia_160m.update(num_texts=3, num_tokens=5, one_steps=2, matmul=(8, 8, 8))
    config.mamba_130m.shape = TINY_MAMBA
    config.mamba_130m.update(num_tokens=20, steps=1, rounds=2)
    return config


def read(folder):
    return [json.loads(s) for s in (folder / "results.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_speed_is_measured_and_recorded(config, tmp_path, capsys):
    config.rows = "pythia_160m"
    benchmark.main(config, str(tmp_path / "run"))
    (record,) = read(tmp_path / "run")
    assert record["what"] == "pythia_160m: share of the matmul rate"
    assert 0 < record["min"] <= record["median"] <= record["max"]
    assert record["required"] == 0.65
    assert {"jax", "memcomp"} <= record["versions"].keys()
    assert record["temp_bytes"] > 0 and record["peak_rss_bytes"] > 0
    assert record["what"] in capsys.readouterr().out


@pytest.mark.ci
def test_flops_are_those_that_the_compiler_counts(config, tmp_path):
    """Matrix products dominate at this width; what else there is, the compiler adds."""
    shape = {**TINY_ENTRIES, "hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
    config.pythia_160m.shape = {**shape, "num_hidden_layers": 1, "vocab_size": 512}
    folder = random_models.random_folder(config.pythia_160m, tmp_path / "lm")
    lm = memcomp.load_lm(str(folder))
    tokens = np.zeros((2, 24), np.int32)
    cfg = memcomp.CramConfig(recipe=step_parts.ENDLESS, steps_per_chunk=1)
    ids, lengths = np.arange(2, dtype=np.int32), np.full(2, 24, np.int32)
    states = init_states(ids, lm.params, module=lm.module, cfg=cfg)
    lowered = lower_cram_chunk(
        states, tokens, lengths, lm.params, module=lm.module, cfg=cfg
    )
    counted = lowered.compile().cost_analysis()["flops"]
    # Measured: 1.03 of them.
    assert 1.0 < counted / (speed.token_flops(lm, 24) * tokens.size) < 1.06


def test_a_ratio_is_that_of_neighbours():
    figure = timing.over([2.0, 8.0, 9.0], [1.0, 2.0, 3.0])
    assert figure == {"min": 2.0, "median": 3.0, "max": 4.0}


def test_sides_take_turns():
    calls = []
    sides = {name: lambda name=name: calls.append(name) or 1.0 for name in "ab"}
    timing.rates(sides, 3)
    assert calls == ["a", "b", "b", "a", "a", "b"]


@pytest.mark.slow
def test_loss_in_chunks_needs_less_memory(config):
    section = config.cross_entropy
    section.shape = {**TINY_ENTRIES, "vocab_size": 4096, "num_hidden_layers": 1}
    section.update(num_texts=2, num_tokens=16, vocab_chunk=128)
    records = list(speed.cross_entropy("cross_entropy", config, None))
    assert len(records) == 4
    assert all(record["median"] > 1 for record in records)


@pytest.mark.slow
def test_a_step_is_the_sum_of_its_parts(config, tmp_path):
    if not (memcomp.lm.load.BUILTIN / "model.safetensors").is_file():
        pytest.skip("the built-in LM is not there")
    config.breakdown.update(num_texts=2, num_tokens=4, steps=2)
    records = list(step_parts.breakdown("breakdown", config, None))
    names = [record["what"].split(", ")[1] for record in records]
    assert names[0] == "forward" and names[-1] == "whole" and len(names) == 6
    assert all(records[i]["min"] > 0 for i in (0, 1, 5))


@pytest.mark.slow
def test_blocks_need_less_memory_on_a_long_text(config):
    section = config.long_text
    section.shape = {**TINY_ENTRIES, "max_position_embeddings": 2048}
    section.update(num_tokens=1024, num_memory=2, vocab_chunk=16)
    records = list(speed.long_texts("long_text", config, None))
    ratios = {record["what"].split(" / ")[1]: record["median"] for record in records}
    assert ratios["plain, none"] == 1.0
    # Measured 32 and 61.
    assert ratios["blockwise, none"] > 4 and ratios["blockwise, full"] > 8


@pytest.mark.slow
def test_gradients_to_input_vectors_are_measured(config, tmp_path):
    config.rows = "mamba_130m"
    benchmark.main(config, str(tmp_path / "run"))
    records = read(tmp_path / "run")
    parts = [f"mamba_130m: seconds, ours, {part}" for part in ("forward", "gradient")]
    assert [record["what"] for record in records] == parts
    assert all(0 < r["min"] <= r["median"] and r["temp_bytes"] > 0 for r in records)


@pytest.fixture()
def whole_jobs(monkeypatch):
    """The rows of whole jobs, with two steps a text."""
    module = importlib.import_module("benchmarks.whole_jobs")
    if not (memcomp.lm.load.BUILTIN / "model.safetensors").is_file():
        pytest.skip("the built-in LM is not there")
    recipes = module.RECIPES
    short = dataclasses.replace(recipes["default"], max_steps=2)
    monkeypatch.setitem(recipes, "default", short)
    return module


@pytest.mark.slow
def test_refilled_places_and_fixed_batches_end(whole_jobs, config):
    config.refill.update(num_texts=3, num_hard=1, batch_size=2, rounds=1)
    (record,) = whole_jobs.refill("refill", config, None)
    assert record["steps_of_texts"]["max"] == 2


@pytest.mark.slow
def test_a_grid_is_timed(whole_jobs, config):
    config.grid.update(num_texts=2, num_tokens=4, lengths=(2, 4), batch_size=2)
    (record,) = whole_jobs.jobs("grid", config, None)
    assert record["what"] == "grid: seconds, ours" and record["num_texts"] == 4


@pytest.mark.ci
def test_decoding_is_timed_in_both_ways(config):
    decoding = importlib.import_module("benchmarks.decoding").decoding
    config.rounds = 1
    config.decoding.update(num_texts=2, num_tokens=3)
    (record,) = decoding("decoding", config, None)
    assert record["what"] == "decoding: one_step / vectors"
    one_step, vectors = (record["rates"][w]["max"] for w in ("one_step", "vectors"))
    assert record["median"] == pytest.approx(one_step / vectors)


def test_an_unknown_row_is_refused():
    with pytest.raises(InputError, match="no rows warp; there are builtin"):
        benchmark.chosen("builtin,warp")


@pytest.mark.parity
def test_both_sides_do_the_same_work(config, tmp_path):
    """The same memory after three steps, in PyTorch and in ours, one text or a batch."""
    loops = importlib.import_module("benchmarks.torch_cramming")
    torch = importlib.import_module("torch")
    folder = random_models.random_folder(config.pythia_160m, tmp_path / "lm")
    lm = memcomp.load_lm(str(folder))
    tokens = np.random.default_rng(0).integers(40, size=(3, 5), dtype=np.int32)
    model = loops.load(str(folder), "float32", "eager")
    loop = loops._Loop(model, tokens)
    start = loop._memory.detach().numpy().copy()
    for _ in range(3):
        loop.step()
    one = loops._Loop(model, tokens[:1])
    with torch.no_grad():
        one._memory.copy_(torch.as_tensor(start[:1]))
    for _ in range(3):
        one.step()
    cfg = memcomp.CramConfig(recipe=step_parts.ENDLESS, steps_per_chunk=3)
    ids, lengths = np.arange(3, dtype=np.int32), np.full(3, 5, np.int32)
    states = init_states(ids, lm.params, module=lm.module, cfg=cfg)
    states = states._replace(memory=jax.numpy.asarray(start))
    states, _ = cram_chunk(states, tokens, lengths, lm.params, module=lm.module, cfg=cfg)
    got = np.array(states.memory)
    # Adam divides by the size of the gradient: measured 2e-6.
    np.testing.assert_allclose(got, loop._memory.detach().numpy().copy(), atol=2e-5)
    np.testing.assert_allclose(got[:1], one._memory.detach().numpy().copy(), atol=2e-5)


@pytest.mark.parity
def test_ratios_to_pytorch(config, tmp_path):
    config.rows, config.pytorch = "pythia_160m", True
    benchmark.main(config, str(tmp_path / "run"))
    whats = [record["what"] for record in read(tmp_path / "run")]
    assert whats[:2] == [
        "pythia_160m: ours / PyTorch, one text at a time",
        "pythia_160m: ours / PyTorch, batched",
    ]


@pytest.mark.parity
def test_both_sides_compute_the_same_gradient(config, tmp_path):
    sides = importlib.import_module("benchmarks.input_gradient")
    folder = random_models.random_folder(config.mamba_130m, tmp_path / "lm")
    lm = memcomp.load_lm(str(folder))
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((20, 16)).astype(np.float32)
    tokens = rng.integers(40, size=20, dtype=np.int32)
    program, arguments = sides.our_programs(lm, vectors, tokens)["gradient"]
    model = importlib.import_module("benchmarks.torch_cramming").load(
        str(folder), "float32", "eager"
    )
    want = sides.pytorch_gradient(model, vectors, tokens)
    error = np.abs(program(*arguments)[1] - want).max() / np.abs(want).max()
    assert error < 1.5e-6  # measured 2.3e-7


@pytest.mark.parity
def test_the_whole_sample_has_no_error(config, tmp_path):
    loops = importlib.import_module("benchmarks.torch_cramming")
    folder = random_models.random_folder(config.pythia_160m, tmp_path / "lm")
    tokens = np.random.default_rng(0).integers(40, size=(2, 3), dtype=np.int32)
    found = loops.time_sample(str(folder), tokens, np.arange(2), 4, 4)
    assert found["pytorch_seconds_standard_error"] == 0.0
    assert found["pytorch_texts_run"] == 2 and found["pytorch_seconds"] > 0
