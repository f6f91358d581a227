"""GGUF files: the model that they were made of comes back, or one sentence says why not."""

import importlib
import json
import pathlib
import shutil
import sys

import gguf_files
import jax
import numpy as np
import pytest
from damaged import damaged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripts import run_script

from memcomp.convert.gguf import PACKAGES, convert_gguf
from memcomp.convert.gguf_header import check_tensors, read_header
from memcomp.errors import InputError
from memcomp.lm.load import load_lm

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*"),
]
ARCHITECTURES = sorted(gguf_files.CONFIGS)


@pytest.fixture(scope="module", autouse=True)
def gguf():
    for package in PACKAGES:
        pytest.importorskip(package, reason="needs the extra `gguf`")
    return importlib.import_module("gguf")


@pytest.fixture(scope="module")
def transformers():
    return importlib.import_module("transformers")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A folder with a model, `hf`, and a file made of it, `tiny.gguf`."""
    folder = tmp_path_factory.mktemp("llama")
    model = gguf_files.random_model("llama", folder / "hf")
    gguf_files.write_gguf(folder / "tiny.gguf", "llama", model)
    return folder


@pytest.fixture(scope="module")
def model(llama, transformers):
    return transformers.AutoModelForCausalLM.from_pretrained(llama / "hf")


def assert_same_model(got, want):
    """Weights and logits of folders in Hugging Face format."""
    got, want = load_lm(str(got)), load_lm(str(want))
    tokens = np.arange(2 * 40, dtype=np.int32).reshape(2, 40)
    # Measured 2.4e-7 (Mamba, whose exponents go through exp and log), of up to 4.
    for a, b in zip(*map(jax.tree.leaves, (got.params, want.params)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6, rtol=0)
    # Measured 2.6e-6 (Mamba); logits reach 7.
    np.testing.assert_allclose(got.logits(tokens), want.logits(tokens), atol=2e-5, rtol=0)
    return got, want


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_file_of_every_architecture_becomes_the_model_it_was_made_of(
    architecture, tmp_path
):
    model = gguf_files.random_model(architecture, tmp_path / "hf")
    file = gguf_files.write_gguf(tmp_path / "tiny.gguf", architecture, model)
    converted = convert_gguf(file, tmp_path / "new" / "lm")
    got, want = assert_same_model(tmp_path / "new" / "lm", tmp_path / "hf")
    leaves = jax.tree.leaves(want.params)
    assert converted.num_parameters == sum(leaf.size for leaf in leaves)
    if architecture not in ("gemma3", "mamba"):  # norms and exponents are moved
        # Not the fingerprints: they cover the norms' epsilon, which is float32 in the file.
        for a, b in zip(jax.tree.leaves(got.params), leaves, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_head_of_its_own_stays_apart(tmp_path):
    for tied in (False, True):
        folder = tmp_path / str(tied)
        options = {"tie_word_embeddings": tied}
        model = gguf_files.random_model("llama", folder / "hf", **options)
        file = gguf_files.write_gguf(folder / "tiny.gguf", "llama", model)
        convert_gguf(file, folder / "lm")
        got, want = assert_same_model(folder / "lm", folder / "hf")
        assert got.config.tied_embeddings == want.config.tied_embeddings == tied


@pytest.mark.parametrize("kind, bits, average", [("Q4_1", 4, 5.0), ("Q8_0", 8, 8.5)])
def test_quantised_weights_are_what_they_stand_for(
    model, kind, bits, average, gguf, tmp_path
):
    file = gguf_files.write_gguf(tmp_path / "tiny.gguf", "llama", model, kind=kind)
    converted = convert_gguf(file, tmp_path / "lm")
    assert (converted.stored, converted.quantised_to) == (kind, bits)
    num_norms = 5 * 32  # which stay float32; a block of matrices has its scale besides
    num_others = converted.num_parameters - num_norms
    num_bits = average * num_others + 32 * num_norms
    assert converted.bits == num_bits / converted.num_parameters
    number = gguf.GGMLQuantizationType[kind]
    whole = model.get_input_embeddings().weight.detach().numpy()
    want = gguf.dequantize(gguf.quantize(whole, number), number)
    got = np.asarray(load_lm(str(tmp_path / "lm")).params["embedding"])
    np.testing.assert_array_equal(got, want)
    assert np.abs(want - whole).max() > 1e-3


def test_plain_floats_are_not_said_to_be_quantised(model, tmp_path):
    file = gguf_files.write_gguf(tmp_path / "tiny.gguf", "llama", model, kind="F16")
    converted = convert_gguf(file, tmp_path / "lm")
    assert (converted.stored, converted.quantised_to) == ("F16", None)
    assert 16 < converted.bits < 17


@pytest.mark.parametrize("special", [False, True])
def test_the_tokenizer_is_that_of_the_file(llama, special, transformers, tmp_path):
    convert_gguf(llama / "tiny.gguf", tmp_path / "lm")
    saved = load_lm(str(tmp_path / "lm")).tokenizer
    given = transformers.AutoTokenizer.from_pretrained(llama, gguf_file="tiny.gguf")
    for text in ("the rain had", " The 12 rains'!\n", "caf\u00e9", gguf_files.END):
        ids, wanted = (t(text, add_special_tokens=special) for t in (saved, given))
        assert ids["input_ids"] == wanted["input_ids"]
        assert saved.decode(ids["input_ids"]) == text
    tokens, _ = gguf_files.byte_tokens()
    ids = saved("the rain had", add_special_tokens=False)["input_ids"]
    assert [tokens[i] for i in ids] == list(gguf_files.WORDS)
    assert saved(gguf_files.END, add_special_tokens=False)["input_ids"] == [len(tokens) - 1]


def test_no_file_says_where_it_was_made(llama, tmp_path):
    convert_gguf(llama / "tiny.gguf", tmp_path / "lm")
    config = json.loads((tmp_path / "lm" / "config.json").read_text())
    assert config["model_type"] == "llama" and config["dtype"] == "float32"
    assert not {"_name_or_path", "_model_name_or_path", "quantization_config"} & set(config)
    for path in (tmp_path / "lm").iterdir():
        blob = path.read_bytes()
        assert not any(word in blob for word in (b"/tmp", b"gguf", bytes(tmp_path)))


def test_what_lies_beside_the_file_is_not_read(llama, tmp_path):
    shutil.copy(llama / "tiny.gguf", tmp_path)
    for name in ("config", "tokenizer", "tokenizer_config", "adapter_config"):
        (tmp_path / f"{name}.json").write_text("{")
    convert_gguf(tmp_path / "tiny.gguf", tmp_path / "lm")
    assert_same_model(tmp_path / "lm", llama / "hf")


def refusal(file, folder):
    """The message for a file, which is one line; nothing has been written."""
    above = [p for p in (folder.parent, *folder.parents) if p.is_dir()][0]
    before = sorted(above.rglob("*"))
    with pytest.raises(InputError) as error:
        convert_gguf(file, folder)
    assert sorted(above.rglob("*")) == before
    message = str(error.value)
    assert message and "\n" not in message
    return message


def test_a_path_without_a_file_is_refused(tmp_path):
    for path in (tmp_path / "none.gguf", tmp_path, tmp_path / "a" / "b.gguf"):
        assert f"{path} cannot be read" in refusal(path, tmp_path / "lm")


@pytest.mark.parametrize("blob", [b"", b"GGU", b"PK\3\4" + bytes(99), b"{}", b"FUGG"])
def test_a_file_of_another_kind_is_refused(blob, tmp_path):
    file = tmp_path / "other.gguf"
    file.write_bytes(blob)
    assert f"{file} is not a GGUF file" in refusal(file, tmp_path / "lm")


@pytest.mark.parametrize("version", [0, 1, 4, 3 << 24])
def test_another_version_is_refused_by_its_number(llama, version, tmp_path):
    blob = bytearray((llama / "tiny.gguf").read_bytes())
    blob[4:8] = version.to_bytes(4, "little")
    file = tmp_path / "old.gguf"
    file.write_bytes(blob)
    assert f"of version {version}, and 2 and 3 are known" in refusal(file, tmp_path / "lm")


def test_a_file_cut_anywhere_is_refused(llama, tmp_path):
    blob, file = (llama / "tiny.gguf").read_bytes(), tmp_path / "cut.gguf"
    header = read_header(llama / "tiny.gguf")
    last = header.tensors[-1]
    end = header.start + last.offset + 4 * int(np.prod(last.shape))
    # All of the first tables; in the vocabulary and the weights now and then; the end.
    for length in {*range(4, 600, 3), *range(600, end, 2003), header.start, end - 1}:
        file.write_bytes(blob[:length])
        assert f"{file} is cut off or damaged" in refusal(file, tmp_path / "lm")
    file.write_bytes(blob[:end])
    convert_gguf(file, tmp_path / "lm")
    assert_same_model(tmp_path / "lm", llama / "hf")


@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_a_damaged_header_is_refused_or_describes_the_file(
    data, llama, gguf, tmp_path_factory
):
    file = tmp_path_factory.getbasetemp() / "damaged.gguf"
    blob = (llama / "tiny.gguf").read_bytes()
    start = read_header(llama / "tiny.gguf").start
    file.write_bytes(data.draw(damaged(blob[:start])) + blob[start:])
    sizes = {int(kind): size for kind, size in gguf.GGML_QUANT_SIZES.items()}
    try:
        header = read_header(file)
        num_bytes = check_tensors(file, header, sizes)
    except InputError as error:
        assert str(error) and "\n" not in str(error)
    else:
        assert num_bytes <= header.file_size == file.stat().st_size


def test_tensors_that_lie_over_each_other_are_refused(gguf, tmp_path):
    """Else a small file could ask for any amount of memory."""
    file = tmp_path / "overlap.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    for i in range(3):
        writer.add_tensor(f"blk.{i}", np.ones((64, 64), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    blob, start = bytearray(file.read_bytes()), read_header(file).start
    for i in range(3):
        name = f"blk.{i}".encode()
        at = blob.index(name) + len(name) + 4 + 2 * 8 + 4  # axes, type, offset
        blob[at : at + 8] = bytes(8)
    file.write_bytes(blob[: start + 4 * 64 * 64])
    assert f"{file} is damaged (tensors overlap)" in refusal(file, tmp_path / "lm")


@pytest.mark.parametrize("architecture", ["smollm3", "clip", "gptneox"])
def test_an_unknown_architecture_lists_the_known_ones(architecture, gguf, tmp_path):
    file = tmp_path / "other.gguf"
    writer = gguf.GGUFWriter(file, architecture)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    message = refusal(file, tmp_path / "lm")
    known = message.partition("; known are ")[2].split(", ")
    assert repr(architecture) in message and sorted(known) == ARCHITECTURES


def test_a_file_without_a_tokenizer_is_refused(model, tmp_path):
    options = {"tokenizer": False}
    file = gguf_files.write_gguf(tmp_path / "bare.gguf", "llama", model, **options)
    assert f"{file} has no tokenizer" in refusal(file, tmp_path / "lm")


@pytest.mark.parametrize(
    "architecture, setting",
    [
        ("llama", {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}),
        ("llama", {"attention.key_length": 16}),
        ("llama", {"expert_count": 2}),
        ("llama", {"logit_scale": 2.0}),
        ("qwen2", {"rope.dimension_count": 4}),
        ("gemma3", {"rope.freq_base_swa": 5000.0}),
        ("mamba", {"ssm.dt_b_c_rms": True}),
    ],
)
def test_settings_that_transformers_ignores_are_refused(architecture, setting, tmp_path):
    model = gguf_files.random_model(architecture, tmp_path / "hf")
    file = gguf_files.write_gguf(tmp_path / "x.gguf", architecture, model, **setting)
    message = refusal(file, tmp_path / "lm")
    assert all(f"{architecture}.{k} = {v!r}" in message for k, v in setting.items())


def test_settings_that_change_nothing_are_accepted(model, llama, tmp_path):
    more = {"attention.key_length": 8, "expert_count": 0, "rope.scaling.type": "none"}
    file = gguf_files.write_gguf(tmp_path / "x.gguf", "llama", model, **more)
    convert_gguf(file, tmp_path / "lm")
    assert_same_model(tmp_path / "lm", llama / "hf")


def test_gemma_with_heads_of_another_width_is_refused(tmp_path):
    """Its scale of attention is not in the file, and transformers takes that of 256."""
    model = gguf_files.random_model("gemma3", tmp_path / "hf", head_dim=16)
    file = gguf_files.write_gguf(tmp_path / "x.gguf", "gemma3", model)
    assert "gemma3.attention.key_length = 16" in refusal(file, tmp_path / "lm")


def with_tensors(monkeypatch, change):
    """Lets `write_gguf` write other tensors."""
    whole = gguf_files.tensors
    changed = lambda *given: change(whole(*given))  # noqa: E731
    monkeypatch.setattr(gguf_files, "tensors", changed)


def with_nan(tensors):
    name = "blk.1.ffn_up.weight"
    changed = tensors[name].copy()
    changed[3, 5] = np.nan
    return {**tensors, name: changed}


def with_rope_factors(tensors):
    return {**tensors, "rope_freqs.weight": np.ones(4, np.float32)}


def with_a_bias(tensors):
    return {**tensors, "blk.0.attn_q.bias": np.ones(32, np.float32)}


def without_a_norm(tensors):
    return {k: v for k, v in tensors.items() if k != "blk.1.ffn_norm.weight"}


def with_a_narrow_one(tensors):
    return {**tensors, "blk.1.ffn_up.weight": np.ones((60, 32), np.float32)}


@pytest.mark.parametrize(
    "change, words",
    [
        (with_nan, "model.layers.1.mlp.up_proj.weight has values that are not finite"),
        (with_rope_factors, "scales rotary positions by rope_freqs.weight"),
        (
            with_a_bias,
            "has 35648 weights, and the model that transformers makes of it 35616",
        ),
        (without_a_norm, "model.layers.1.post_attention_layernorm.weight"),
        (with_a_narrow_one, "up_proj"),
    ],
)
def test_tensors_that_are_not_the_model_are_refused(
    change, words, model, monkeypatch, tmp_path
):
    with_tensors(monkeypatch, change)
    file = gguf_files.write_gguf(tmp_path / "x.gguf", "llama", model)
    assert words in refusal(file, tmp_path / "lm")


def test_a_part_of_a_file_is_refused(model, tmp_path):
    more = {"split.count": 3}
    file = gguf_files.write_gguf(tmp_path / "part.gguf", "llama", model, **more)
    assert "is one of 3 parts" in refusal(file, tmp_path / "lm")


def test_a_folder_that_exists_is_refused_and_kept(llama, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("kept")
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("empty", "full", "file", "link"):
        message = refusal(llama / "tiny.gguf", tmp_path / name)
        assert f"{tmp_path / name} exists" in message
    assert (tmp_path / "full" / "a").read_text() == (tmp_path / "file").read_text()
    below = refusal(llama / "tiny.gguf", tmp_path / "file" / "lm")
    assert f"cannot be written in {tmp_path / 'file'}" in below


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_that_is_missing_is_named_with_the_command_that_installs_it(
    package, llama, monkeypatch, tmp_path
):
    monkeypatch.setitem(sys.modules, package, None)
    message = refusal(llama / "tiny.gguf", tmp_path / "lm")
    assert f"and {package} is not installed" in message
    assert message.endswith('run pip install -e ".[gguf]"')


@pytest.mark.parametrize("error", [OSError("no space left on device"), KeyboardInterrupt()])
def test_the_folder_appears_whole_or_not_at_all(
    error, llama, transformers, monkeypatch, tmp_path
):
    def save(self, folder, *options, **named):
        assert (pathlib.Path(folder) / "model.safetensors").is_file()
        raise error

    name = "save_pretrained"
    monkeypatch.setattr(transformers.PreTrainedTokenizerBase, name, save)
    wanted = InputError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(wanted, match="no space left|"):
        convert_gguf(llama / "tiny.gguf", tmp_path / "lm")
    assert not list(tmp_path.iterdir())


def test_the_script_says_what_it_wrote(model, llama, tmp_path):
    gguf_files.write_gguf(tmp_path / "x.gguf", "llama", model, kind="Q4_1")
    status, out, err = run_script("convert_gguf.py", "x.gguf", "lm", folder=tmp_path)
    assert status == 0, err
    assert "wrote lm: 35,616 parameters in float32\n" in out
    assert "quantised to 4 bits (Q4_1, 5." in out
    assert load_lm(str(tmp_path / "lm")).tokenizer("the rain")["input_ids"]


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "give a GGUF file and the folder to make"),
        (["x.gguf"], "give a GGUF file and the folder to make"),
        (["x.gguf", "lm", "more"], "give a GGUF file and the folder to make"),
        (["x.gguf", "lm", "--workdir=run"], "give a GGUF file and the folder to make"),
        (["x.gguf", "lm", "--config.bits=3"], "no such field: "),
        (["none.gguf", "lm"], "none.gguf cannot be read"),
        (["x.gguf", "there"], "there exists"),
        (["cut.gguf", "lm"], "cut.gguf is cut off or damaged"),
        (["nan.gguf", "lm"], "not finite"),
    ],
)
def test_bad_input_is_one_sentence(arguments, said, llama, model, monkeypatch, tmp_path):
    (tmp_path / "there").mkdir()
    shutil.copy(llama / "tiny.gguf", tmp_path / "x.gguf")
    (tmp_path / "cut.gguf").write_bytes((tmp_path / "x.gguf").read_bytes()[:-1000])
    with_tensors(monkeypatch, with_nan)
    gguf_files.write_gguf(tmp_path / "nan.gguf", "llama", model)
    status, _, err = run_script("convert_gguf.py", *arguments, folder=tmp_path)
    assert status == 2 and said in err and "Traceback" not in err
    sentence = err.splitlines()[-1]
    assert sentence.startswith("convert_gguf.py: ")
    assert err.count("\n") == 1 or arguments[0] == "nan.gguf"  # after bars of progress
    assert not (tmp_path / "lm").exists()


def test_every_known_architecture_is_tried_here():
    found = importlib.import_module("memcomp.convert.gguf")._architectures()
    assert sorted(found) == ARCHITECTURES
