"""Tiny random checkpoints and what transformers computes with them, for the default tests.

    python tests/golden/make_goldens.py [case ...]

Takes a minute on a CPU and needs the extra `parity` (torch). A case is a family with
some switches turned; its folder gets the checkpoint as `save_pretrained` writes it and
`expected.npz`. The weights are large and no bias or scale is trivial, so that a swapped
axis or a wrong sign shows in the logits.
"""

import pathlib
import shutil
import sys
import zlib

import numpy as np
import torch
import transformers

HERE = pathlib.Path(__file__).parent
BATCH, NUM_TOKENS, NUM_VECTORS = 2, 33, 5

# Every family starts from these, in the names of Llama's config.
SIZES = {
    "vocab_size": 31,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
ROPE = {"rope_type": "default", "rope_theta": 100.0}
NEOX_ROPE = {**ROPE, "partial_rotary_factor": 0.67}


def _rope(base=ROPE, **changes):
    return {"rope_parameters": {**base, **changes}}


LLAMA = {**SIZES, "num_key_value_heads": 6, **_rope()}
GROUPED = {"num_key_value_heads": 2}
LLAMA3 = _rope(  # of the four wavelengths one is kept, one blended, two stretched
    rope_type="llama3",
    rope_theta=1000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
)
# Windows are shorter than the 33 tokens, and a layer of each kind sees all.
SLIDING = ["sliding_attention", "full_attention"]

# `model_type` -> the family's own entries.
BASES = {
    "llama": LLAMA,
    "gpt_neox": {**SIZES, "num_attention_heads": 4, **_rope(NEOX_ROPE)},
    "mistral": {**LLAMA, "sliding_window": None, "head_dim": None},
    "qwen2": LLAMA,
    "qwen3": {**LLAMA, "head_dim": 4},
    "olmo": LLAMA,
    "olmo2": LLAMA,
    "smollm3": {
        **LLAMA,
        **GROUPED,
        "num_hidden_layers": 4,  # every fourth is without rotary positions
        "pad_token_id": None,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "gemma3_text": {
        **SIZES,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "query_pre_attn_scalar": 5,
        "sliding_window": 7,
        "layer_types": SLIDING,
        "rope_parameters": {
            "sliding_attention": ROPE,
            "full_attention": {"rope_type": "default", "rope_theta": 1000.0},
        },
    },
    "gpt2": {
        "vocab_size": 31,
        "n_embd": 24,
        "n_inner": 20,
        "n_layer": 2,
        "n_head": 6,
        "n_positions": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "initializer_range": 0.3,
    },
    "gpt_neo": {
        "vocab_size": 31,
        "hidden_size": 24,
        "intermediate_size": 20,
        "num_layers": 2,
        "num_heads": 6,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 7,
        "max_position_embeddings": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "initializer_range": 0.2,  # unscaled logits of 0.3 leave one weight in a row
    },
    "opt": {
        "vocab_size": 31,
        "hidden_size": 24,
        "ffn_dim": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "max_position_embeddings": 64,
        "init_std": 0.3,
    },
    "mamba": {
        "vocab_size": 31,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "state_size": 5,
        "initializer_range": 0.3,
    },
}
# `model_type` -> name of the case -> what it changes. "file": dtype and largest shard.
CASES = {
    "llama": {
        "llama": {},
        "llama_grouped_queries": GROUPED,
        "llama_tied": {"tie_word_embeddings": True},
        "llama_head_dim": {"head_dim": 8, "num_key_value_heads": 3},
        "llama_attention_bias": {"attention_bias": True, **GROUPED},
        "llama_mlp_bias": {"mlp_bias": True},
        "llama_linear": _rope(rope_type="linear", factor=2.5),
        "llama_dynamic": {  # the prompt is longer than the 16 positions
            "max_position_embeddings": 16,
            **_rope(rope_type="dynamic", factor=2.0),
        },
        "llama_llama3": {"head_dim": 8, "max_position_embeddings": 512, **LLAMA3},
        "llama_bfloat16_shards": {**GROUPED, "file": ("bfloat16", "6KB")},
        "llama_float16": {"file": ("float16", "1GB")},
    },
    "gpt_neox": {
        "gpt_neox": {},
        "gpt_neox_sequential": {"use_parallel_residual": False},
        "gpt_neox_no_attention_bias": {"attention_bias": False},
        "gpt_neox_tied": {"tie_word_embeddings": True},
        "gpt_neox_full_rotary": _rope(NEOX_ROPE, partial_rotary_factor=1.0),
        "gpt_neox_tanh_gelu": {"hidden_act": "gelu_new"},
        "gpt_neox_linear": _rope(  # of 6 dimensions 3 are rotated, which is made 4
            NEOX_ROPE, rope_type="linear", factor=2.5, partial_rotary_factor=0.5
        ),
        "gpt_neox_float16_shards": {"file": ("float16", "6KB")},
        "gpt_neox_bfloat16": {"file": ("bfloat16", "1GB")},
    },
    "mistral": {
        "mistral": GROUPED,
        "mistral_window": {**GROUPED, "sliding_window": 7, "head_dim": 8},
        "mistral_tied": {"tie_word_embeddings": True, "file": ("bfloat16", "6KB")},
    },
    "qwen2": {
        "qwen2": GROUPED,
        "qwen2_window": {
            "use_sliding_window": True,
            "sliding_window": 7,
            "max_window_layers": 1,
            "tie_word_embeddings": True,
        },
    },
    "qwen3": {
        "qwen3": GROUPED,
        "qwen3_bias": {"attention_bias": True, "head_dim": 8, "tie_word_embeddings": True},
        "qwen3_window": {
            **GROUPED,
            "use_sliding_window": True,
            "sliding_window": 7,
            "max_window_layers": 1,
        },
    },
    "olmo": {
        "olmo": {},
        "olmo_clip": {"clip_qkv": 0.5, **GROUPED, "tie_word_embeddings": True},
        "olmo_bias": {"attention_bias": True},
    },
    "olmo2": {
        "olmo2": GROUPED,
        "olmo2_bias": {"attention_bias": True, "tie_word_embeddings": True},
    },
    "smollm3": {
        "smollm3": {},
        "smollm3_attention_bias": {
            "attention_bias": True,
            "head_dim": 8,
            "tie_word_embeddings": False,
        },
        "smollm3_mlp_bias": {"mlp_bias": True, "no_rope_layer_interval": 3},
        "smollm3_all_rotary": {"no_rope_layer_interval": 5, "num_key_value_heads": 6},
        "smollm3_listed": {  # not what any interval gives, and longer than the model
            "no_rope_layers": [0, 1, 1, 0, 0],
            "file": ("bfloat16", "6KB"),
        },
        "smollm3_window": {  # layers with and without each of a window and rotary positions
            "no_rope_layer_interval": 2,
            "use_sliding_window": True,
            "sliding_window": 7,
            "layer_types": [*SLIDING[:1] * 2, *SLIDING[1:] * 2],
        },
    },
    "gemma3_text": {
        "gemma3": {},
        "gemma3_softcap": {
            "attn_logit_softcapping": 1.5,
            "final_logit_softcapping": 2.0,
            "attention_bias": True,
            "tie_word_embeddings": False,
        },
        "gemma3_linear": {  # as the larger models: the global angles are stretched
            "rope_parameters": {
                "sliding_attention": ROPE,
                "full_attention": {
                    "rope_type": "linear",
                    "factor": 2.5,
                    "rope_theta": 1000.0,
                },
            },
            "file": ("bfloat16", "6KB"),
        },
    },
    "gpt2": {
        "gpt2": {},
        "gpt2_unscaled": {"scale_attn_weights": False, "activation_function": "gelu"},
        "gpt2_divided_by_layer": {
            "scale_attn_by_inverse_layer_idx": True,
            "reorder_and_upcast_attn": True,
            "n_inner": None,
        },
        "gpt2_untied": {"tie_word_embeddings": False, "file": ("float16", "6KB")},
    },
    "gpt_neo": {
        "gpt_neo": {},
        "gpt_neo_local_first": {
            "attention_types": [[["local"], 1], [["global"], 1]],
            "activation_function": "gelu",
            "intermediate_size": None,
        },
        "gpt_neo_global": {
            "attention_types": [[["global"], 2]],
            "tie_word_embeddings": False,
            "file": ("bfloat16", "6KB"),
        },
    },
    "opt": {
        "opt": {},
        "opt_projected": {  # as the model of 350M
            "word_embed_proj_dim": 16,
            "do_layer_norm_before": False,
        },
        "opt_projected_norm_first": {
            "word_embed_proj_dim": 16,
            "tie_word_embeddings": False,
            "file": ("float16", "6KB"),
        },
        "opt_no_biases": {"enable_bias": False, "activation_function": "gelu"},
        "opt_plain_norms": {"layer_norm_elementwise_affine": False},
        "opt_no_final_norm": {"_remove_final_layer_norm": True},
    },
    "mamba": {
        "mamba": {},
        "mamba_bias": {"use_bias": True, "time_step_rank": 3, "conv_kernel": 3},
        "mamba_no_conv_bias": {"use_conv_bias": False, "expand": 3, "hidden_act": "gelu"},
        "mamba_untied": {"tie_word_embeddings": False, "residual_in_fp32": False},
        "mamba_bfloat16_shards": {"use_bias": True, "file": ("bfloat16", "6KB")},
    },
}


def save_checkpoint(name: str, folder: pathlib.Path) -> None:
    """A random model of the case, in Hugging Face format."""
    family = next(family for family, cases in CASES.items() if name in cases)
    entries = {**BASES[family], **CASES[family][name]}
    dtype, max_shard_size = entries.pop("file", ("float32", "1GB"))
    config = transformers.AutoConfig.for_model(family, **entries)
    torch.manual_seed(zlib.crc32(name.encode()))
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # biases start at 0 and scales at 1, where a swap is invisible
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=max_shard_size)
    (folder / "generation_config.json").unlink(missing_ok=True)


def expected(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """What transformers computes in float32 with the checkpoint as it is on disk."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    V, D = model.get_input_embeddings().weight.shape
    options = {"use_cache": False}
    if (softcap := getattr(model.config, "attn_logit_softcapping", None)) is not None:
        options["softcap"] = softcap  # accepted in the config, not handed to attention
    tokens = torch.randint(V, (BATCH, NUM_TOKENS))
    vectors = torch.randn(BATCH, NUM_VECTORS, D)
    with torch.no_grad():
        token_logits = model(tokens, **options).logits
        x = torch.cat([vectors, model.get_input_embeddings()(tokens)], dim=1)
    x.requires_grad_(True)
    logits = model(inputs_embeds=x, **options).logits
    predictions = logits[:, NUM_VECTORS - 1 : -1].reshape(-1, V)
    loss = torch.nn.functional.cross_entropy(predictions, tokens.reshape(-1))
    (gradient,) = torch.autograd.grad(loss, x)
    arrays = {
        "tokens": tokens.to(torch.int32),
        "vectors": vectors,
        "token_logits": token_logits,
        "logits": logits,
        "loss": loss,
        "gradient": gradient,
    }
    return {name: array.detach().numpy() for name, array in arrays.items()}


def main(names: list[str]) -> None:
    """Makes the named cases anew; all of them where none is named."""
    for name in names or [name for cases in CASES.values() for name in cases]:
        folder = HERE / name
        shutil.rmtree(folder, ignore_errors=True)
        save_checkpoint(name, folder)
        arrays = expected(folder)
        versions = {"transformers": transformers.__version__, "torch": torch.__version__}
        np.savez_compressed(folder / "expected.npz", **arrays, **versions)
        size = sum(f.stat().st_size for f in folder.iterdir())
        print(f"{name}: logits up to {np.abs(arrays['logits']).max():.1f}, {size} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
