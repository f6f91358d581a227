"""Configs: ours to config.json, through transformers, and back."""

import ast
import dataclasses
import json
import pathlib

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import memcomp
from memcomp.convert import gpt2, gpt_neo, gpt_neox, llama, mistral, opt, qwen2, smollm3
from memcomp.convert.configs import check_entries
from memcomp.errors import InputError
from memcomp.lm.load import FAMILIES
from memcomp.models.gpt2 import GPT2Config
from memcomp.models.gpt_neo import GPTNeoConfig
from memcomp.models.gpt_neox import GPTNeoXConfig
from memcomp.models.llama import LlamaConfig
from memcomp.models.opt import OPTConfig
from memcomp.models.smollm3 import SmolLM3Config
from memcomp.nn.mlp import ACTIVATIONS
from memcomp.nn.rotary import SCALINGS, Rotary

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
CASES = sorted(folder.parent.name for folder in GOLDEN.glob("*/expected.npz"))
SIZES = st.integers(1, 12)
LLAMA = {
    "model_type": "llama",
    "vocab_size": 10,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 1,
    "num_attention_heads": 6,
    "max_position_embeddings": 64,
}
NEOX = {**LLAMA, "model_type": "gpt_neox"}
SMOLLM3 = {
    **LLAMA,
    "model_type": "smollm3",
    "num_hidden_layers": 8,
    "num_key_value_heads": 2,
}


@st.composite
def rotaries(draw, dim, max_positions):
    scaling = draw(st.sampled_from(SCALINGS))
    theta = draw(st.floats(10, 1e7))
    if scaling == "default":
        return Rotary(dim, theta)
    factor = draw(st.floats(1, 64))
    if scaling == "llama3":
        original = draw(st.integers(1, max_positions - 1))
        return Rotary(dim, theta, scaling, factor, 1.5, 4.5, original)
    original = max_positions if scaling == "dynamic" else 0
    return Rotary(dim, theta, scaling, factor, original_positions=original)


@st.composite
def llama_fields(draw):
    num_kv_heads, head_dim = draw(SIZES), 2 * draw(SIZES)
    num_heads, max_positions = num_kv_heads * draw(SIZES), draw(st.integers(2, 10_000))
    return dict(
        vocab_size=draw(SIZES),
        num_layers=draw(SIZES),
        d_model=num_heads * draw(SIZES),
        d_mlp=draw(SIZES),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        max_positions=max_positions,
        rotary=draw(rotaries(head_dim, max_positions)),
        norm_eps=draw(st.floats(1e-8, 1e-2)),
        activation=draw(st.sampled_from(sorted(ACTIVATIONS))),
        tied_embeddings=draw(st.booleans()),
        attention_bias=draw(st.booleans()),
        mlp_bias=draw(st.booleans()),
    )


@st.composite
def smollm3_fields(draw):
    fields, window = draw(llama_fields()), draw(SIZES)
    layers = range(fields["num_layers"])
    windows = tuple(draw(st.sampled_from([None, window])) for _ in layers)
    return dict(
        **fields,
        rotary_layers=tuple(draw(st.booleans()) for _ in layers),
        windows=windows if any(windows) else (),
    )


@st.composite
def gpt_neox_fields(draw):
    num_heads, head_dim = draw(SIZES), draw(st.integers(2, 128))
    rotated = draw(st.integers(1, head_dim))
    max_positions = draw(st.integers(2, 10_000))
    return dict(
        vocab_size=draw(SIZES),
        num_layers=draw(SIZES),
        d_model=num_heads * head_dim,
        d_mlp=draw(SIZES),
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=head_dim,
        max_positions=max_positions,
        rotary=draw(rotaries(rotated, max_positions)),
        norm_eps=draw(st.floats(1e-8, 1e-2)),
        activation=draw(st.sampled_from(sorted(ACTIVATIONS))),
        parallel_residual=draw(st.booleans()),
        attention_bias=draw(st.booleans()),
        tied_embeddings=draw(st.booleans()),
    )


def sizes_with_learned_positions(draw):
    num_heads, head_dim = draw(SIZES), draw(SIZES)
    return {
        "vocab_size": draw(SIZES),
        "num_layers": draw(SIZES),
        "d_model": num_heads * head_dim,
        "d_mlp": draw(SIZES),
        "num_heads": num_heads,
        "num_kv_heads": num_heads,
        "head_dim": head_dim,
        "max_positions": draw(st.integers(2, 10_000)),
        "activation": draw(st.sampled_from(sorted(ACTIVATIONS))),
        "tied_embeddings": draw(st.booleans()),
    }


@st.composite
def gpt2_fields(draw):
    return dict(
        **sizes_with_learned_positions(draw),
        norm_eps=draw(st.floats(1e-8, 1e-2)),
        divide_by_width=draw(st.booleans()),
        divide_by_layer=draw(st.booleans()),
    )


@st.composite
def gpt_neo_fields(draw):
    sizes, window = sizes_with_learned_positions(draw), draw(SIZES)
    windows = [draw(st.sampled_from([None, window])) for _ in range(sizes["num_layers"])]
    eps = draw(st.floats(1e-8, 1e-2))
    return dict(**sizes, norm_eps=eps, windows=tuple(windows))


@st.composite
def opt_fields(draw):
    sizes, norm_first = sizes_with_learned_positions(draw), draw(st.booleans())
    width = sizes.pop("d_model")
    return dict(
        **sizes,
        d_model=draw(st.sampled_from([width, 2 * width])),
        d_residual=width,
        norm_first=norm_first,
        final_norm=norm_first and draw(st.booleans()),
        affine_norms=draw(st.booleans()),
        bias=draw(st.booleans()),
    )


def read(folder, entries):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(entries))
    return transformers.AutoConfig.from_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("config")


# Fields, not configs: checking the annotation of a tuple draws on `random`, which
# hypothesis wants out of its strategies.
@pytest.mark.parametrize(
    "family, config_class, fields",
    [
        (llama, LlamaConfig, llama_fields()),
        (smollm3, SmolLM3Config, smollm3_fields()),
        (gpt_neox, GPTNeoXConfig, gpt_neox_fields()),
        (gpt2, GPT2Config, gpt2_fields()),
        (gpt_neo, GPTNeoConfig, gpt_neo_fields()),
        (opt, OPTConfig, opt_fields()),
    ],
)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_config_survives_the_round_trip(family, config_class, fields, data, folder):
    config, family = config_class(**data.draw(fields)), family.FAMILY
    assert family.config_from_hf(read(folder, family.config_to_hf(config))) == config


def test_widths_that_config_json_may_leave_out(folder):
    sizes = {"hidden_size": 24, "num_layers": 1, "attention_types": [[["local"], 1]]}
    neo = {**LLAMA, **sizes, "model_type": "gpt_neo", "intermediate_size": None}
    assert gpt_neo.FAMILY.config_from_hf(read(folder, neo)).d_mlp == 96
    hf = read(folder, {"model_type": "gpt2", "n_embd": 24, "n_head": 2})
    assert gpt2.FAMILY.config_from_hf(hf).d_mlp == 96
    hf = read(folder, {**LLAMA, "model_type": "opt"})
    assert opt.FAMILY.config_from_hf(hf).d_model == 24


@pytest.mark.parametrize("case", CASES)
def test_the_config_of_every_golden_survives_the_round_trip(case, folder):
    hf = transformers.AutoConfig.from_pretrained(GOLDEN / case)
    family = FAMILIES[hf.model_type]
    config = family.config_from_hf(hf)
    assert family.config_from_hf(read(folder, family.config_to_hf(config))) == config


def test_every_rotary_fraction_gives_back_its_dimensions(folder):
    # 98 * (2 / 98) is below 2 in floating point, and transformers cuts it to 1.
    for head_dim in range(2, 257):
        for dim in range(1, head_dim + 1):
            assert int(head_dim * gpt_neox._fraction(dim, head_dim)) == dim


def test_scaling_is_read_in_the_form_of_transformers_4(folder):
    old = {**LLAMA, "rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 2.0}}
    want = Rotary(4, 500.0, "linear", 2.0)
    assert llama.FAMILY.config_from_hf(read(folder, old)).rotary == want
    old = {**NEOX, "rotary_emb_base": 500, "rotary_pct": 0.5, "rope_scaling": None}
    assert gpt_neox.FAMILY.config_from_hf(read(folder, old)).rotary == Rotary(2, 500.0)


def test_dynamic_scaling_starts_at_the_models_own_length(folder):
    # As in transformers, which warns of the entry and does not read it.
    scaling = {
        "rope_type": "dynamic",
        "factor": 2.0,
        "original_max_position_embeddings": 32,
    }
    hf = read(folder, {**LLAMA, "rope_scaling": scaling})
    assert llama.FAMILY.config_from_hf(hf).rotary.original_positions == 64


ROTARY = ["llama", "gpt_neox", "olmo", "olmo2", "qwen2", "qwen3", "mistral", "smollm3"]


@pytest.mark.parametrize("family", ROTARY)
def test_the_length_before_scaling_is_read_at_the_top_level_as_well(family, folder):
    """As in transformers, which prefers it to the one beside the scaling."""
    scaling = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0}
    scaling |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 32}
    entries = {**LLAMA, "num_key_value_heads": 2, "model_type": family}
    entries |= {"rope_scaling": scaling}
    entries |= {"original_max_position_embeddings": 16}
    rotary = FAMILIES[family].config_from_hf(read(folder, entries)).rotary
    assert (rotary.factor, rotary.original_positions) == (4.0, 16)


def test_a_head_width_in_a_gpt_neox_config_changes_what_is_rotated(folder):
    """As in transformers: the heads stay as wide as the model makes them."""
    config = gpt_neox.FAMILY.config_from_hf(
        read(folder, {**NEOX, "head_dim": 2, "rotary_pct": 1})
    )
    assert config.head_dim == 4 and config.rotary.dim == 2


@pytest.mark.parametrize("part", ["text_config", None])
@pytest.mark.parametrize(
    "entries",
    [
        {"is_causal": False},
        {"is_causal": None},
        {"per_layer_config": {"0": {"rms_norm_eps": 0.1}}},
        {"configuration_files": ["config.5.0.0.json"]},
    ],
)
def test_entries_that_ask_for_another_model_are_refused(entries, part):
    check_entries({"is_causal": True, "per_layer_config": None}, most=9)
    with pytest.raises(InputError, match=f"{next(iter(entries))} is .*; wanted"):
        check_entries({part: entries} if part else entries, most=9)


@pytest.mark.parametrize(
    "kinds, windows",
    [
        (["sliding_attention", "full_attention"], (4, None)),
        (["full_attention"] * 2, ()),
        (["sliding_attention"] * 2, (4, 4)),
        (None, (4, 4)),
    ],
)
def test_the_layers_of_mistral_differ_where_config_json_says_so(kinds, windows, folder):
    """As in transformers, which then makes a Ministral of it."""
    entries = {**LLAMA, "num_hidden_layers": 2, "num_key_value_heads": 2}
    entries |= {"model_type": "mistral", "sliding_window": 4}
    entries |= {} if kinds is None else {"layer_types": kinds}
    config = mistral.FAMILY.config_from_hf(read(folder, entries))
    assert config.windows == windows
    again = transformers.CONFIG_MAPPING["mistral"](**mistral.FAMILY.config_to_hf(config))
    assert mistral.FAMILY.config_from_hf(again) == config


def test_head_width_defaults_to_that_of_the_model(folder):
    assert (
        llama.FAMILY.config_from_hf(read(folder, {**LLAMA, "head_dim": None})).head_dim == 4
    )
    assert llama.FAMILY.config_from_hf(read(folder, {**LLAMA, "head_dim": 8})).head_dim == 8


@pytest.mark.parametrize(
    "entries, without",
    [
        ({}, [3, 7]),
        ({"no_rope_layer_interval": 3}, [2, 5]),
        ({"no_rope_layer_interval": 1}, list(range(8))),
        ({"no_rope_layer_interval": 9}, []),
        # The list goes before the interval, and what it says of a ninth layer is not read.
        ({"no_rope_layers": [1, 0, 0, 1, 1, 1, 1, 1, 0]}, [1, 2]),
    ],
)
def test_the_layers_of_smollm3_without_rotary_positions(entries, without, folder):
    config = smollm3.FAMILY.config_from_hf(read(folder, {**SMOLLM3, **entries}))
    assert len(config.rotary_layers) == 8
    assert [i for i, rotates in enumerate(config.rotary_layers) if not rotates] == without


@pytest.mark.parametrize(
    "family, entries, words",
    [
        (llama, {**LLAMA, "hidden_act": "tanh"}, ["'tanh'", "silu"]),
        (llama, {**LLAMA, "num_key_value_heads": 4}, ["4 heads of keys", "6 heads"]),
        (gpt_neox, {**NEOX, "hidden_act": "tanh"}, ["'tanh'", "gelu_new"]),
        (
            gpt2,
            {"model_type": "gpt2", "add_cross_attention": True},
            ["add_cross_attention"],
        ),
        (
            gpt_neo,
            {
                "model_type": "gpt_neo",
                "num_layers": 1,
                "attention_types": [[["dilated"], 1]],
            },
            ["'dilated'", "global", "local"],
        ),
        (
            llama,
            {**LLAMA, "rope_scaling": {"rope_type": "yarn", "factor": 2.0}},
            ["'yarn'", *SCALINGS],
        ),
        (
            llama,
            {
                **LLAMA,
                "partial_rotary_factor": 0.5,
                "rope_scaling": {"rope_type": "linear", "factor": 2.0},
            },
            ["partial_rotary_factor is 0.5", "linear", "1.0"],
        ),
        (
            qwen2,
            {
                **LLAMA,
                "model_type": "qwen2",
                "num_key_value_heads": 2,
                "sliding_window": 4,  # which qwen2 heeds with use_sliding_window alone
                "layer_types": ["sliding_attention"],
            },
            ["sliding_attention", "no sliding_window is in use", "full_attention"],
        ),
        (
            smollm3,
            {**SMOLLM3, "no_rope_layers": [1], "layer_types": ["full_attention"] * 8},
            ["rotary_layers for 1 layers", "wanted 8"],
        ),
        (
            smollm3,
            {**SMOLLM3, "layer_types": ["sliding_attention"] * 8, "sliding_window": 4},
            ["use_sliding_window False", "sliding_window 4", "full_attention"],
        ),
        (
            smollm3,
            {
                **SMOLLM3,
                "layer_types": ["sliding_attention"] * 8,
                "use_sliding_window": True,
            },
            ["use_sliding_window True", "sliding_window None", "full_attention"],
        ),
    ],
)
def test_a_switch_that_is_not_known_is_refused_by_name(family, entries, words, folder):
    hf = read(folder, entries)
    with pytest.raises(InputError) as error:
        family.FAMILY.config_from_hf(hf)
    assert all(word in str(error.value) for word in words)


def config_classes():
    hf = [transformers.AutoConfig.from_pretrained(GOLDEN / case) for case in CASES]
    return {type(FAMILIES[one.model_type].config_from_hf(one)) for one in hf} | {Rotary}


@pytest.mark.parametrize("config", sorted(config_classes(), key=str))
def test_every_field_of_a_config_is_read(config):
    root = pathlib.Path(memcomp.__file__).parent
    sources = [*root.glob("nn/*.py"), *root.glob("models/*.py"), *root.glob("convert/*.py")]
    read = {
        node.attr
        for source in sources
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    assert not {f.name for f in dataclasses.fields(config)} - read
