"""Qwen2 and Qwen2.5 checkpoints in Hugging Face layout."""

from typing import Any

from memcomp.convert import llama_layout as layout
from memcomp.convert.engine import Family, fields_to_hf
from memcomp.convert.rope import rotary_to_hf
from memcomp.models.qwen2 import Qwen2, Qwen2Config

NAMES = layout.NAMES | layout.NORM_EPS


def config_from_hf(hf: Any) -> Qwen2Config:
    """Our config from a `transformers.Qwen2Config`."""
    return Qwen2Config(
        **layout.from_hf(hf, NAMES),
        rotary=layout.rotary_of(hf),
        windows=layout.windows_from_hf(hf),
    )


def config_to_hf(config: Qwen2Config) -> dict[str, Any]:
    """Makes the entries of config.json; the inverse of `config_from_hf`."""
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        **fields_to_hf(config, NAMES),
        "use_sliding_window": bool(config.windows),
        **layout.windows_to_hf(config),
        **rotary_to_hf(config.rotary),
    }


FAMILY = Family(
    model=Qwen2,
    table=layout.TABLE,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    ignored=layout.IGNORED,
    checkpoints=(
        "Qwen/Qwen2.5-0.5B",
        "Qwen/Qwen2.5-1.5B",
        "Qwen/Qwen2.5-3B",
    ),
    special="biases on queries, keys and values",
)
