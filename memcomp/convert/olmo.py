"""OLMo checkpoints in Hugging Face layout."""

from typing import Any

from memcomp.convert import llama_layout as layout
from memcomp.convert.engine import Family
from memcomp.convert.rope import rotary_to_hf
from memcomp.models.olmo import Olmo, OlmoConfig

TABLE = (
    *layout.EMBEDDINGS,
    *layout.ATTENTION,
    *layout.GATED_MLP,
)


def config_from_hf(hf: Any) -> OlmoConfig:
    """Our config from a `transformers.OlmoConfig`."""
    return OlmoConfig(
        **layout.sizes_from_hf(hf),
        norm_eps=1e-5,  # fixed in the family's own code
        rotary=layout.rotary_of(hf),
        attention_bias=hf.attention_bias,
        clip=hf.clip_qkv,
    )


def config_to_hf(config: OlmoConfig) -> dict[str, Any]:
    """Makes the entries of config.json; the inverse of `config_from_hf`."""
    return {
        "architectures": ["OlmoForCausalLM"],
        "model_type": "olmo",
        **layout.sizes_to_hf(config),
        "attention_bias": config.attention_bias,
        "clip_qkv": config.clip,
        **rotary_to_hf(config.rotary),
    }


FAMILY = Family(
    model=Olmo,
    table=TABLE,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    ignored=layout.ignored,
    checkpoints=("allenai/OLMo-1B-0724-hf",),
    special="norms without parameters, clipped queries, keys and values",
)
