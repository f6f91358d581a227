"""Llama checkpoints in Hugging Face layout."""

from typing import Any

from memcomp.convert import llama_layout as layout
from memcomp.convert.engine import Family, fields_to_hf
from memcomp.convert.rope import rotary_to_hf
from memcomp.models.llama import Llama, LlamaConfig

NAMES = {
    **(layout.NAMES | layout.NORM_EPS),
    "attention_bias": "attention_bias",
    "mlp_bias": "mlp_bias",
}


def config_from_hf(hf: Any) -> LlamaConfig:
    """Our config from a `transformers.LlamaConfig`."""
    return LlamaConfig(
        **layout.from_hf(hf, NAMES),
        rotary=layout.rotary_of(hf),
    )


def config_to_hf(config: LlamaConfig) -> dict[str, Any]:
    """Makes the entries of config.json; the inverse of `config_from_hf`."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **fields_to_hf(config, NAMES),
        **rotary_to_hf(config.rotary),
    }


FAMILY = Family(
    model=Llama,
    table=layout.TABLE,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    ignored=layout.IGNORED,
    checkpoints=(
        "meta-llama/Llama-3.2-1B",
        "meta-llama/Llama-3.2-3B",
        "meta-llama/Meta-Llama-3.1-8B",
        "meta-llama/Llama-2-7b-hf",
        "meta-llama/Llama-2-7b-chat-hf",
        "princeton-nlp/Sheared-LLaMA-1.3B",
        "HuggingFaceTB/SmolLM2-135M",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "HuggingFaceTB/SmolLM2-360M",
        "HuggingFaceTB/SmolLM2-1.7B",
        "TinyLlama/TinyLlama_v1.1",
        "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    ),
    special="grouped-query attention, SwiGLU, scaled rotary positions",
)
