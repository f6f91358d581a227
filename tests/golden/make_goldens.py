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

LLAMA = {
    "vocab_size": 31,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "max_position_embeddings": 64,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
    "initializer_range": 0.3,
}
NEOX = {
    "vocab_size": 31,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 100.0,
        "partial_rotary_factor": 0.67,
    },
    "initializer_range": 0.3,
}


def _rope(base, **changes):
    return {"rope_parameters": {**base["rope_parameters"], **changes}}


# "file": dtype and largest shard of the file; all else are entries of the config.
CASES = {
    "llama": {},
    "llama_grouped_queries": {"num_key_value_heads": 2},
    "llama_tied": {"tie_word_embeddings": True},
    "llama_head_dim": {"head_dim": 8, "num_key_value_heads": 3},
    "llama_attention_bias": {"attention_bias": True, "num_key_value_heads": 2},
    "llama_mlp_bias": {"mlp_bias": True},
    "llama_linear": _rope(LLAMA, rope_type="linear", factor=2.5),
    "llama_dynamic": {  # the prompt is longer than the 16 positions
        "max_position_embeddings": 16,
        **_rope(LLAMA, rope_type="dynamic", factor=2.0),
    },
    "llama_llama3": {  # of the four wavelengths one is kept, one blended, two stretched
        "head_dim": 8,
        "max_position_embeddings": 512,
        **_rope(
            LLAMA,
            rope_type="llama3",
            rope_theta=1000.0,
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=64,
        ),
    },
    "llama_bfloat16_shards": {"num_key_value_heads": 2, "file": ("bfloat16", "6KB")},
    "llama_float16": {"file": ("float16", "1GB")},
    "gpt_neox": {},
    "gpt_neox_sequential": {"use_parallel_residual": False},
    "gpt_neox_no_attention_bias": {"attention_bias": False},
    "gpt_neox_tied": {"tie_word_embeddings": True},
    "gpt_neox_full_rotary": _rope(NEOX, partial_rotary_factor=1.0),
    "gpt_neox_tanh_gelu": {"hidden_act": "gelu_new"},
    "gpt_neox_linear": _rope(  # of 6 dimensions 3 are rotated, which is made 4
        NEOX, rope_type="linear", factor=2.5, partial_rotary_factor=0.5
    ),
    "gpt_neox_float16_shards": {"file": ("float16", "6KB")},
    "gpt_neox_bfloat16": {"file": ("bfloat16", "1GB")},
}


def save_checkpoint(name: str, folder: pathlib.Path) -> None:
    """A random model of the case, in Hugging Face format."""
    changes = dict(CASES[name])
    dtype, max_shard_size = changes.pop("file", ("float32", "1GB"))
    if name.startswith("llama"):
        config = transformers.LlamaConfig(**{**LLAMA, **changes})
    else:
        config = transformers.GPTNeoXConfig(**{**NEOX, **changes})
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
    V, D = model.config.vocab_size, model.config.hidden_size
    tokens = torch.randint(V, (BATCH, NUM_TOKENS))
    vectors = torch.randn(BATCH, NUM_VECTORS, D)
    with torch.no_grad():
        token_logits = model(tokens, use_cache=False).logits
        x = torch.cat([vectors, model.get_input_embeddings()(tokens)], dim=1)
    x.requires_grad_(True)
    logits = model(inputs_embeds=x, use_cache=False).logits
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
    for name in names or CASES:
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
