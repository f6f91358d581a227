"""OLMo checkpoints in Hugging Face layout."""

from typing import Any

from memcomp.convert import llama_layout as layout
from memcomp.convert.engine import Family, fields_to_hf
from memcomp.convert.rope import rotary_to_hf
from memcomp.models.olmo import Olmo, OlmoConfig

TABLE = (
    *layout.EMBEDDINGS,
    *layout.ATTENTION,
    *layout.GATED_MLP,
)
NAMES = {**layout.NAMES, "attention_bias": "attention_bias", "clip": "clip_qkv"}


def config_from_hf(hf: Any) -> OlmoConfig:
    """Our config from a `transformers.OlmoConfig`."""
    return OlmoConfig(
        **layout.from_hf(hf, NAMES),
        norm_eps=1e-5,  # fixed in the family's own code
        rotary=layout.rotary_of(hf),
    )


def config_to_hf(config: OlmoConfig) -> dict[str, Any]:
    """Makes the entries of config.json; the inverse of `config_from_hf`."""
    return {
        "architectures": ["OlmoForCausalLM"],
        "model_type": "olmo",
        **fields_to_hf(config, NAMES),
        **rotary_to_hf(config.rotary),
    }


FAMILY = Family(
    model=Olmo,
    table=TABLE,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    ignored=layout.IGNORED,
    checkpoints=("allenai/OLMo-1B-0724-hf",),
    special="norms without parameters, clipped queries, keys and values",
)
