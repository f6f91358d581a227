"""Programs of compile_check.py are made of the configs; with libtpu, some are compiled."""

import importlib.util
import json
import pathlib
import re

import compile_check
import jax
import pytest
from benchmarks import compile_programs, compile_records
from benchmarks.compile_programs import lower, program_config
from scripts import run_script

from memcomp.cost.chips import CHIPS, parse_slice, slice_devices
from memcomp.cost.work import Program
from memcomp.cram.ways.table import WAYS
from memcomp.errors import InputError

ROOT = pathlib.Path(__file__).parents[2]
HAS_LIBTPU = importlib.util.find_spec("libtpu") is not None


@pytest.fixture(autouse=True)
def as_in_the_script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)  # as experiments/launch.py does
    for name, value in compile_check.QUIET.items():
        monkeypatch.setenv(name, value)


def test_every_config_with_a_slice_is_compiled():
    (*_, all_of_them) = _programs()
    named = {program.split()[0].partition(":")[0] for program in all_of_them}
    files = {
        str(path.relative_to(ROOT / "configs"))
        for kind in compile_programs.KINDS
        for path in (ROOT / "configs" / kind).glob("*.py")
        if path.name != "base.py"
    }
    assert named == files


def _programs():
    path = ROOT / "configs/compile_check.py"
    spec = importlib.util.spec_from_file_location("config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config().programs, module.get_config("all").programs


def test_every_program_has_a_config_a_slice_and_a_mesh_for_it():
    for program in _programs()[1]:
        config = program_config(program)
        part = parse_slice(config.slice)
        sizes = list(config.mesh.values()) if "mesh" in config else [1]
        known = [size for size in sizes if size != -1]
        product = 1
        for size in known:
            product *= size
        divides = part.num_chips % product == 0
        assert divides if -1 in sizes else product == part.num_chips, program


@pytest.mark.parametrize(
    "program, said",
    [
        ("cram/none.py", "there is no configs/cram/none.py"),
        ("benchmark.py", "names no slice"),
        ("cram/builtin.py cram.num_tokenz=3", "does not take 'cram.num_tokenz=3'"),
        ("cram/builtin.py lm=some/one", "has no 'some/one'"),
    ],
)
def test_what_is_no_program_is_refused(program, said):
    with pytest.raises(InputError, match=re.escape(said)):
        lower(program, program_config(program), jax.devices()[:1])


def test_fields_are_set_otherwise():
    config = program_config("cram/pythia_160m.py slice=v6e:2x4 mesh.fsdp=8 dtype=bfloat16")
    assert (config.slice, config.mesh.fsdp, config.dtype) == ("v6e:2x4", 8, "bfloat16")


@pytest.mark.parametrize(
    "program, rows, num_tokens",
    [
        ("cram/llama_3_1_8b.py cram.batch_size=9", 16, 1568),  # a multiple of the devices
        pytest.param("icformer/llama_2_7b_pretrain.py", 16, 512, marks=pytest.mark.ci),
        pytest.param("icformer/llama_2_7b_finetune.py", 32, 1024, marks=pytest.mark.slow),
    ],
)
def test_a_step_of_full_size_is_made_without_weights(program, rows, num_tokens):
    step = lower(program, program_config(program), jax.devices())
    assert (step.rows, step.num_tokens, step.parts) == (rows, num_tokens, 8)
    sizes = json.loads((ROOT / "configs/full_size.json").read_text())
    assert step.num_params == sizes[step.lm]["parameters"]


def test_rows_that_the_mesh_does_not_divide_are_refused():
    program = "icformer/builtin.py train.accumulation=8"
    with pytest.raises(InputError, match="1 rows of a micro-batch cannot be divided"):
        lower(program, program_config(program), jax.devices())


def test_there_are_as_many_roomier_chips():
    for chips, shape in compile_records.ROOMY.items():
        assert parse_slice(f"v5p:{shape}").num_chips == chips
    assert CHIPS["v5p"].hbm_bytes == max(chip.hbm_bytes for chip in CHIPS.values())


@pytest.mark.skipif(HAS_LIBTPU, reason="libtpu is here")
def test_without_libtpu_the_script_says_what_to_install(tmp_path):
    status, _, err = run_script("compile_check.py", folder=tmp_path)
    assert status == 2 and err.count("\n") == 1 and "pip install 'memcomp[aot]'" in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.aot
@pytest.mark.skipif(not HAS_LIBTPU, reason="needs libtpu: pip install 'memcomp[aot]'")
def test_three_configs_compile_for_a_tpu_and_are_not_compiled_again(tmp_path):
    status, out, err = run_script("compile_check.py", folder=tmp_path)
    assert status == 0, err
    lines = out.splitlines()[:-1]
    assert len(lines) == 3 and all("of 16 GiB a chip" in line for line in lines)
    records = tmp_path / "runs/compile_check/results.jsonl"
    before = records.read_bytes()
    for record in map(json.loads, before.splitlines()):
        # All loops are those of scans, and what is sent is said.
        assert record["unknown_loops"] == 0 and record["flops"] > 0, record["program"]
        assert record["collectives"] == {} and record["memory_bytes"]["total"] > 0
    status, again, _ = run_script("compile_check.py", folder=tmp_path)
    assert (status, again, records.read_bytes()) == (0, out, before)


@pytest.mark.aot
@pytest.mark.skipif(not HAS_LIBTPU, reason="needs libtpu: pip install 'memcomp[aot]'")
def test_what_does_not_fit_is_said_with_what_is_large(tmp_path):
    program = "cram/builtin.py cram.num_tokens=(256,) cram.batch_size=1024 slice=v5e:1x1"
    status, out, err = run_script(
        "compile_check.py", f"--config.programs={(program,)}", folder=tmp_path
    )
    assert status == 2 and "1 of 1 programs do not fit" in err
    assert re.search(r"needs \S+ GiB a chip where v5e:1x1 has 16.*; largest: \S+ GiB", out)
    assert re.search(r"lower cram.batch_size, so that \d+ or fewer are in flight", out)


@pytest.mark.aot
@pytest.mark.skipif(not HAS_LIBTPU, reason="needs libtpu: pip install 'memcomp[aot]'")
@pytest.mark.parametrize("way", WAYS)
def test_texts_on_their_own_devices_send_nothing(way):
    """Not for the default recipe's eigenvectors either, which the compiler would gather."""
    work = compiled_work(f"cram/builtin.py slice=v5e:2x4 cram.memory={way}")
    assert work.collectives == {} and work.custom_kernels == 0


@pytest.mark.aot
@pytest.mark.skipif(not HAS_LIBTPU, reason="needs libtpu: pip install 'memcomp[aot]'")
@pytest.mark.parametrize(
    "attention, fields",
    [("splash", "mesh.tensor=4 slice=v5e:2x2"), ("auto", "mesh.fsdp=2 mesh.tensor=2")],
)
def test_splash_attention_compiles_for_a_tpu(attention, fields):
    """Of each device's texts and heads: no more is sent than without."""
    program = f"cram/builtin.py slice=v5e:2x4 cram.num_tokens=(256,) {fields}"
    plain = compiled_work(program)
    work = compiled_work(f"{program} attention={attention}")
    # In each of four layers one forward, and two backward: of queries, of keys and values.
    assert (plain.custom_kernels, work.custom_kernels) == (0, 4 * 3)
    assert work.flops < plain.flops  # a kernel's own are not seen
    assert work.collectives.keys() == plain.collectives.keys()
    assert sum_of(work) <= 1.01 * sum_of(plain)


def sum_of(work):
    return sum(sent.num_bytes for sent in work.collectives.values())


def compiled_work(program):
    config = program_config(program)
    devices = slice_devices(parse_slice(config.slice))
    return Program(lower(program, config, devices).lowered.compile().as_text()).work()
