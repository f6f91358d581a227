"""OLMo 2 checkpoints in Hugging Face layout."""

from typing import Any

from memcomp.convert import llama_layout as layout
from memcomp.convert.engine import Family, Row, fields_to_hf
from memcomp.convert.rope import rotary_to_hf
from memcomp.models.olmo2 import Olmo2, Olmo2Config

_LAYER = layout.LAYER
# fmt: off
TABLE = (
    *layout.EMBEDDINGS,
    *layout.ATTENTION,
    Row(layout.ATTN + "q_norm.weight", "layers/attn/q_norm/scale", "(n h) -> n h"),
    Row(layout.ATTN + "k_norm.weight", "layers/attn/k_norm/scale", "(k h) -> k h"),
    Row(_LAYER + "post_attention_layernorm.weight", "layers/attn_norm/scale", "d -> d"),
    *layout.GATED_MLP,
    Row(_LAYER + "post_feedforward_layernorm.weight", "layers/mlp_norm/scale", "d -> d"),
    *layout.FINAL_NORM,
)
# fmt: on
NAMES = {**layout.NAMES, **layout.NORM_EPS, "attention_bias": "attention_bias"}


def config_from_hf(hf: Any) -> Olmo2Config:
    """Our config from a `transformers.Olmo2Config`."""
    return Olmo2Config(
        **layout.from_hf(hf, NAMES),
        rotary=layout.rotary_of(hf),
    )


def config_to_hf(config: Olmo2Config) -> dict[str, Any]:
    """Makes the entries of config.json; the inverse of `config_from_hf`."""
    return {
        "architectures": ["Olmo2ForCausalLM"],
        "model_type": "olmo2",
        **fields_to_hf(config, NAMES),
        **rotary_to_hf(config.rotary),
    }


FAMILY = Family(
    model=Olmo2,
    table=TABLE,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    ignored=layout.IGNORED,
    checkpoints=("allenai/OLMo-2-0425-1B",),
    special="norms after attention and MLP, and of all queries and keys",
)
