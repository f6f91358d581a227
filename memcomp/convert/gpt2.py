"""GPT-2 checkpoints in Hugging Face layout.

Kernels have the axis of their inputs first, as ours do. The fused kernel is grouped first
into queries, keys and values, then by head.
"""

from typing import Any

from memcomp.convert.engine import Family, Row
from memcomp.errors import InputError
from memcomp.models.gpt2 import GPT2, GPT2Config

_LAYER = "transformer.h.{i}."
# fmt: off
TABLE = (
    Row("transformer.wte.weight", "embedding", "v d -> v d"),
    Row("transformer.wpe.weight", "positions", "p d -> p d"),
    Row(_LAYER + "ln_1.weight", "layers/attn_norm/scale", "d -> d"),
    Row(_LAYER + "ln_1.bias", "layers/attn_norm/bias", "d -> d"),
    Row(_LAYER + "attn.c_attn.weight", "layers/attn/qkv/kernel", "d (c n h) -> d c n h"),
    Row(_LAYER + "attn.c_attn.bias", "layers/attn/qkv/bias", "(c n h) -> c n h"),
    Row(_LAYER + "attn.c_proj.weight", "layers/attn/out/kernel", "(n h) d -> n h d"),
    Row(_LAYER + "attn.c_proj.bias", "layers/attn/out/bias", "d -> d"),
    Row(_LAYER + "ln_2.weight", "layers/mlp_norm/scale", "d -> d"),
    Row(_LAYER + "ln_2.bias", "layers/mlp_norm/bias", "d -> d"),
    Row(_LAYER + "mlp.c_fc.weight", "layers/mlp/up/kernel", "d f -> d f"),
    Row(_LAYER + "mlp.c_fc.bias", "layers/mlp/up/bias", "f -> f"),
    Row(_LAYER + "mlp.c_proj.weight", "layers/mlp/down/kernel", "f d -> f d"),
    Row(_LAYER + "mlp.c_proj.bias", "layers/mlp/down/bias", "d -> d"),
    Row("transformer.ln_f.weight", "final_norm/scale", "d -> d"),
    Row("transformer.ln_f.bias", "final_norm/bias", "d -> d"),
    Row("lm_head.weight", "head", "v d -> v d"),
)
# fmt: on
NAMES = {
    "vocab_size": "vocab_size",
    "num_layers": "n_layer",
    "d_model": "n_embd",
    "d_mlp": "n_inner",
    "num_heads": "n_head",
    "max_positions": "n_positions",
    "norm_eps": "layer_norm_epsilon",
    "activation": "activation_function",
    "divide_by_width": "scale_attn_weights",
    "divide_by_layer": "scale_attn_by_inverse_layer_idx",
    "tied_embeddings": "tie_word_embeddings",
}


def _read(hf: Any) -> dict[str, Any]:
    """Fields that config.json does not give as they are.

    Its `reorder_and_upcast_attn` asks for logits in float32, which ours always are.
    """
    if hf.add_cross_attention:
        raise InputError(
            "add_cross_attention is set; wanted a model that reads nothing but its text"
        )
    found = {"num_kv_heads": hf.n_head, "head_dim": hf.n_embd // hf.n_head}
    if hf.n_inner is None:
        found["d_mlp"] = 4 * hf.n_embd
    return found


FAMILY = Family(
    model=GPT2,
    config=GPT2Config,
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    table=TABLE,
    names=NAMES,
    read=_read,
    # Causal masks of older checkpoints.
    ignored=(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)",),
    checkpoints=(
        "openai-community/gpt2",
        "openai-community/gpt2-medium",
        "openai-community/gpt2-large",
        "openai-community/gpt2-xl",
    ),
    special="learned positions",
    memory_enters="before positions are added",
)
