"""Qwen3 checkpoints in Hugging Face layout."""

from typing import Any

from memcomp.convert import llama_layout as layout
from memcomp.convert.engine import Family
from memcomp.convert.rope import rotary_to_hf
from memcomp.models.qwen3 import Qwen3, Qwen3Config

TABLE = (
    *layout.EMBEDDINGS,
    *layout.PRE_NORMS,
    *layout.ATTENTION,
    *layout.HEAD_NORMS,
    *layout.GATED_MLP,
    *layout.FINAL_NORM,
)


def config_from_hf(hf: Any) -> Qwen3Config:
    """Our config from a `transformers.Qwen3Config`."""
    return Qwen3Config(
        **layout.sizes_from_hf(hf),
        norm_eps=hf.rms_norm_eps,
        rotary=layout.rotary_of(hf),
        attention_bias=hf.attention_bias,
        windows=layout.windows_from_hf(hf),
    )


def config_to_hf(config: Qwen3Config) -> dict[str, Any]:
    """Makes the entries of config.json; the inverse of `config_from_hf`."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        **layout.sizes_to_hf(config),
        "rms_norm_eps": config.norm_eps,
        "attention_bias": config.attention_bias,
        "use_sliding_window": bool(config.windows),
        **layout.windows_to_hf(config),
        **rotary_to_hf(config.rotary),
    }


FAMILY = Family(
    model=Qwen3,
    table=TABLE,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    ignored=layout.ignored,
    checkpoints=(
        "Qwen/Qwen3-0.6B",
        "Qwen/Qwen3-1.7B",
        "Qwen/Qwen3-4B",
        "Qwen/Qwen3-8B",
    ),
    special="norms of queries and keys, explicit head width",
)
