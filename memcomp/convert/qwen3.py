"""Qwen3 checkpoints in Hugging Face layout."""

from typing import Any

from memcomp.convert import llama_layout as layout
from memcomp.convert.engine import Family, fields_to_hf
from memcomp.convert.rope import rotary_to_hf
from memcomp.models.qwen3 import Qwen3, Qwen3Config

NAMES = {**layout.NAMES, **layout.NORM_EPS, "attention_bias": "attention_bias"}


def config_from_hf(hf: Any) -> Qwen3Config:
    """Our config from a `transformers.Qwen3Config`."""
    return Qwen3Config(
        **layout.from_hf(hf, NAMES),
        rotary=layout.rotary_of(hf),
        windows=layout.windows_from_hf(hf),
    )


def config_to_hf(config: Qwen3Config) -> dict[str, Any]:
    """Makes the entries of config.json; the inverse of `config_from_hf`."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        **fields_to_hf(config, NAMES),
        "use_sliding_window": bool(config.windows),
        **layout.windows_to_hf(config),
        **rotary_to_hf(config.rotary),
    }


FAMILY = Family(
    model=Qwen3,
    table=(*layout.TABLE, *layout.HEAD_NORMS),
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    ignored=layout.IGNORED,
    checkpoints=(
        "Qwen/Qwen3-0.6B",
        "Qwen/Qwen3-1.7B",
        "Qwen/Qwen3-4B",
        "Qwen/Qwen3-8B",
    ),
    special="norms of queries and keys, explicit head width",
)
