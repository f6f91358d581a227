"""Every file under configs/ loads, and its fields build the library's own objects."""

import dataclasses
import importlib
import importlib.util
import json
import os
import pathlib
import re

import jax
import pytest
import transformers
from flax import linen as nn
from scripts import run_script
from tiny_lm import LLAMA_2_7B

import memcomp
from memcomp.compressors.batches import Finetuning, Pretraining, Shapes
from memcomp.compressors.gradmem import GradMemConfig
from memcomp.compressors.icae import ICAEConfig
from memcomp.compressors.icformer.config import ICFormerConfig
from memcomp.compressors.pooling import PoolingConfig
from memcomp.compressors.settings import Settings, Sources, settings_of
from memcomp.compressors.templates import Template
from memcomp.compressors.training import learning_rate
from memcomp.cost.formulas import icformer_flops
from memcomp.lm.load import DTYPES, FAMILIES, abstract_params
from memcomp.models.llama import Llama, LlamaConfig
from memcomp.nn.rotary import Rotary
from memcomp.pretrain import TrainConfig
from memcomp.studies.recipe_costs import build_recipe

ROOT = pathlib.Path(__file__).parents[2]
NAMES = sorted(
    str(path.relative_to(ROOT / "configs"))
    for path in (ROOT / "configs").rglob("*.py")
    if path.name not in ("__init__.py", "base.py")
)
CRAM = [name for name in NAMES if name.startswith("cram/")]
PUBLISHED = [name for name in CRAM if name != "cram/builtin.py"]
SIZES = json.loads((ROOT / "configs/full_size.json").read_text())
# FLOP/s of the accelerator that configs/cram/base.py assumes, times its utilisation.
RATES = {"bfloat16": 0.4 * 989e12, "float32": 0.4 * 495e12}


def load(name, monkeypatch):
    """The module of a config, as experiments/launch.py lets ml_collections load it."""
    monkeypatch.syspath_prepend(ROOT)
    spec = importlib.util.spec_from_file_location("config", ROOT / "configs" / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture()
def module(name, monkeypatch):
    return load(name, monkeypatch)


@pytest.fixture()
def config(module):
    return module.get_config()


@pytest.mark.parametrize("name", NAMES)
def test_a_config_says_how_it_is_run(module, name):
    words = re.sub(r"\\\n\s*", " ", module.__doc__).split()
    scripts = [ROOT / word for word in words if word.startswith("experiments/")]
    assert scripts and all(path.is_file() for path in scripts)
    assert all((ROOT / w).is_file() for w in words if re.fullmatch(r"configs/.*\.py", w))
    assert module.get_config().to_dict()


@pytest.mark.parametrize("name", CRAM)
def test_a_cram_config_builds(config, name, monkeypatch):
    builtin = load("cram/builtin.py", monkeypatch).get_config()
    assert config.keys() == builtin.keys()
    cfg = memcomp.CramConfig(seed=config.seed, protocol=config.protocol, **config.cram)
    assert cfg.resolved_recipe()
    assert config.dtype in DTYPES
    assert config.lm == "builtin" or config.lm in SIZES


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("pretrain/")])
def test_a_pretrain_config_builds(config, name):
    shape = config.model.to_dict()
    theta = shape.pop("rope_theta")
    LlamaConfig(**shape, rotary=Rotary(shape["head_dim"], theta))
    TrainConfig(**config.train, dtype="float32")
    assert config.dtype in ("auto", *DTYPES)


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("icformer/")])
def test_a_config_of_compressors_builds(config, name, monkeypatch):
    everything = load("icformer/base.py", monkeypatch).everything()
    assert config.keys() == everything.keys()
    for section in everything:
        if hasattr(everything[section], "keys"):
            assert config[section].keys() == everything[section].keys(), section
    ICFormerConfig(**config.icformer)
    ICAEConfig(**config.icae)
    PoolingConfig(**config.pooling)
    GradMemConfig(**config.gradmem)
    config.dtype = "float32" if config.dtype == "auto" else config.dtype
    settings = settings_of(config.to_dict())
    assert learning_rate(settings.train)(1) > 0
    read = {
        field.name for kind in (Settings, Sources) for field in dataclasses.fields(kind)
    }
    read |= settings.compressor_entries.keys()
    names = ("icformer", "benchmarks/compile_records")
    scripts = [ROOT / f"experiments/{name}.py" for name in names]
    text = "".join(path.read_text() for path in scripts)
    every = ("log_every", "save_every", "evaluate_every")  # which icformer.py loops over
    read |= {name for name in every if f'"{name}"' in text}
    assert all(f"config.{field}" in text for field in config if field not in read)


@pytest.mark.parametrize("what", ["table", "ablation", "starts", "real"])
def test_the_table_of_recipes_builds(what, monkeypatch):
    config = load("recipe_table.py", monkeypatch).get_config(what)
    built = {name: build_recipe(**fields) for name, fields in config.recipes.items()}
    assert {*config.horizons, *config.at_lengths} <= built.keys()
    assert set(config.compared) <= set(config.horizons)


@pytest.mark.parametrize("name", ["benchmark.py"])
def test_the_shapes_of_the_benchmark_are_known(config, name):
    for row in config.values():
        if hasattr(row, "shape"):
            hf = transformers.AutoConfig.for_model(**row.shape)
            assert FAMILIES[hf.model_type].config_from_hf(hf)


def test_the_models_of_both_papers_are_there(monkeypatch):
    configs = [load(name, monkeypatch).get_config() for name in PUBLISHED]
    models = {
        protocol: {c.lm for c in configs if c.protocol == protocol}
        for protocol in ("reference", "strict")
    }
    assert [len(models["reference"]), len(models["strict"]), len(configs)] == [14, 8, 27]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_lengths_fit_the_model(config, name):
    hf = transformers.AutoConfig.for_model(**SIZES[config.lm]["config"])
    positions = FAMILIES[hf.model_type].config_from_hf(hf).max_positions
    assert max(config.cram.num_tokens) + config.cram.num_memory <= positions


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_stated_cost_is_that_of_the_formula(module, config, name):
    cram = config.cram
    cfg = memcomp.CramConfig(**cram)
    (num_tokens,) = cram.num_tokens
    steps = cfg.resolved_recipe().max_steps * config.num_texts
    flops = 4 * SIZES[config.lm]["parameters"] * (num_tokens + cram.num_memory) * steps
    said = re.search(r"\(computed, .*\): (\S+) FLOPs, (\S+) hours", module.__doc__)
    assert float(said[1]) == pytest.approx(flops, rel=0.05)  # two digits are printed
    hours = flops / RATES[config.dtype] / 3600
    assert float(said[2]) == pytest.approx(hours, rel=0.05)


@pytest.mark.parametrize("name", ["pretrain", "finetune"])
def test_the_stated_cost_of_a_compressor_is_that_of_its_padded_rows(name, monkeypatch):
    module = load(f"icformer/llama_2_7b_{name}.py", monkeypatch)
    config, lm = module.get_config(), Llama(LLAMA_2_7B)
    cfg = ICFormerConfig(**config.icformer)
    sizes = Shapes(cfg.num_digests, config.context.length, config.context.max_chunk, eos=2)
    rows = Pretraining(sizes)
    if name == "finetune":
        words = Template(before=(0,) * 20, end=(0,) * 5)
        rows = Finetuning(sizes, words, config.question.prompt, config.question.answer)
        assert f"padded to {rows.length} positions" in module.__doc__
    weights = jax.tree.leaves(nn.unbox(abstract_params(lm)))
    # The LM forward and backward to its input; the compressor to its weights too.
    flops = 4 * sum(x.size for x in weights) * rows.length
    width = sizes.max_chunk or sizes.context
    flops += 3 * sizes.num_chunks * sum(icformer_flops(cfg, LLAMA_2_7B, width))
    said = re.search(r"(\S+) FLOPs a row,\s(\S+) in all, (\S+) hours", module.__doc__)
    every = flops * config.train.batch_size * config.train.num_steps
    hours = every / RATES["bfloat16"] / 3600
    for number, wanted in zip(said.groups(), (flops, every, hours), strict=True):
        assert float(number) == pytest.approx(wanted, rel=0.03)  # two digits are printed


@pytest.mark.ci
@pytest.mark.parametrize(
    "way", [pytest.param("absolute", marks=pytest.mark.slow), "relative"]
)
def test_a_config_is_found_from_any_folder(tmp_path, way):
    path = str(ROOT / "configs/cram/pythia_160m.py")
    if way == "relative":
        path = os.path.relpath(path, tmp_path)
    status, _, err = run_script(
        "cram.py", f"--config={path}", "--config.cram.num_tokenz=3", folder=tmp_path
    )
    # The file was read: its fields are known.
    assert status == 2 and "num_tokenz" in err and "num_tokens" in err


@pytest.mark.slow
def test_a_published_config_runs_with_another_lm(tmp_path):
    path = ROOT / "configs/cram/pythia_160m.py"
    overrides = ("lm=builtin", "texts=builtin", "num_texts=1", "cram.num_tokens=(3,)")
    status, out, err = run_script(
        "cram.py",
        f"--config={path}",
        *(f"--config.{override}" for override in overrides),
        "--config.cram.max_steps=20",
        folder=tmp_path,
    )
    assert status == 0, err
    assert "of 1 texts come back exactly" in out
