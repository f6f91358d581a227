"""Qwen2 and Qwen2.5 checkpoints in Hugging Face layout."""

from typing import Any

from memcomp.convert import llama_layout as layout
from memcomp.convert.engine import Family
from memcomp.convert.rope import rotary_to_hf
from memcomp.models.qwen2 import Qwen2, Qwen2Config

TABLE = (
    *layout.EMBEDDINGS,
    *layout.PRE_NORMS,
    *layout.ATTENTION,
    *layout.GATED_MLP,
    *layout.FINAL_NORM,
)


def config_from_hf(hf: Any) -> Qwen2Config:
    """Our config from a `transformers.Qwen2Config`."""
    return Qwen2Config(
        **layout.sizes_from_hf(hf),
        norm_eps=hf.rms_norm_eps,
        rotary=layout.rotary_of(hf),
        windows=layout.windows_from_hf(hf),
    )


def config_to_hf(config: Qwen2Config) -> dict[str, Any]:
    """Makes the entries of config.json; the inverse of `config_from_hf`."""
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        **layout.sizes_to_hf(config),
        "rms_norm_eps": config.norm_eps,
        "use_sliding_window": bool(config.windows),
        **layout.windows_to_hf(config),
        **rotary_to_hf(config.rotary),
    }


FAMILY = Family(
    model=Qwen2,
    table=TABLE,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    ignored=layout.ignored,
    checkpoints=(
        "Qwen/Qwen2.5-0.5B",
        "Qwen/Qwen2.5-1.5B",
        "Qwen/Qwen2.5-3B",
    ),
    special="biases on queries, keys and values",
)
