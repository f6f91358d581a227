"""OLMo 2 checkpoints in Hugging Face layout."""

from memcomp.convert import llama_layout as layout
from memcomp.convert.engine import Family, Row
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


FAMILY = Family(
    model=Olmo2,
    config=Olmo2Config,
    model_type="olmo2",
    architecture="Olmo2ForCausalLM",
    table=TABLE,
    names=NAMES,
    read=layout.read,
    write=layout.write,
    ignored=layout.IGNORED,
    checkpoints=("allenai/OLMo-2-0425-1B",),
    special="norms after attention and MLP, and of all queries and keys",
)
