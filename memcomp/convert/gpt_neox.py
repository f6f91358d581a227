"""GPT-NeoX and Pythia checkpoints in Hugging Face layout.

Hugging Face groups the fused kernel first by head, then into queries, keys and values.
"""

import math
from typing import Any

from memcomp.convert.engine import Family, Row
from memcomp.convert.rope import rotary_from_hf, rotary_to_hf
from memcomp.models.gpt_neox import GPTNeoX, GPTNeoXConfig

_LAYER = "gpt_neox.layers.{i}."
_ATTN = _LAYER + "attention."
# fmt: off
TABLE = (
    Row("gpt_neox.embed_in.weight", "embedding", "v d -> v d"),
    Row(_LAYER + "input_layernorm.weight", "layers/attn_norm/scale", "d -> d"),
    Row(_LAYER + "input_layernorm.bias", "layers/attn_norm/bias", "d -> d"),
    Row(_ATTN + "query_key_value.weight", "layers/attn/qkv/kernel", "(n c h) d -> d c n h"),
    Row(_ATTN + "query_key_value.bias", "layers/attn/qkv/bias", "(n c h) -> c n h"),
    Row(_ATTN + "dense.weight", "layers/attn/out/kernel", "d (n h) -> n h d"),
    Row(_ATTN + "dense.bias", "layers/attn/out/bias", "d -> d"),
    Row(_LAYER + "post_attention_layernorm.weight", "layers/mlp_norm/scale", "d -> d"),
    Row(_LAYER + "post_attention_layernorm.bias", "layers/mlp_norm/bias", "d -> d"),
    Row(_LAYER + "mlp.dense_h_to_4h.weight", "layers/mlp/up/kernel", "f d -> d f"),
    Row(_LAYER + "mlp.dense_h_to_4h.bias", "layers/mlp/up/bias", "f -> f"),
    Row(_LAYER + "mlp.dense_4h_to_h.weight", "layers/mlp/down/kernel", "d f -> f d"),
    Row(_LAYER + "mlp.dense_4h_to_h.bias", "layers/mlp/down/bias", "d -> d"),
    Row("gpt_neox.final_layer_norm.weight", "final_norm/scale", "d -> d"),
    Row("gpt_neox.final_layer_norm.bias", "final_norm/bias", "d -> d"),
    Row("embed_out.weight", "head", "v d -> v d"),
)
# fmt: on
NAMES = {
    "vocab_size": "vocab_size",
    "num_layers": "num_hidden_layers",
    "d_model": "hidden_size",
    "d_mlp": "intermediate_size",
    "num_heads": "num_attention_heads",
    "max_positions": "max_position_embeddings",
    "norm_eps": "layer_norm_eps",
    "activation": "hidden_act",
    "parallel_residual": "use_parallel_residual",
    "attention_bias": "attention_bias",
    "tied_embeddings": "tie_word_embeddings",
}


def _read(hf: Any) -> dict[str, Any]:
    head_dim = hf.hidden_size // hf.num_attention_heads
    # Configs of this family have no head_dim; one that is given changes what is rotated.
    rotated = getattr(hf, "head_dim", None) or head_dim
    fraction = hf.rope_parameters.get("partial_rotary_factor", 1.0)
    return {
        "num_kv_heads": hf.num_attention_heads,
        "head_dim": head_dim,
        "rotary": rotary_from_hf(hf, int(rotated * fraction)),
    }


def _write(config: GPTNeoXConfig) -> dict[str, Any]:
    part = {"rotary_pct": _fraction(config.rotary.dim, config.head_dim)}
    return part | rotary_to_hf(config.rotary, theta_name="rotary_emb_base")


def _fraction(part: int, whole: int) -> float:
    """Returns part / whole, rounded so that int(whole * fraction) gives `part`."""
    fraction = part / whole
    return fraction if int(whole * fraction) == part else math.nextafter(fraction, 2.0)


FAMILY = Family(
    model=GPTNeoX,
    config=GPTNeoXConfig,
    model_type="gpt_neox",
    architecture="GPTNeoXForCausalLM",
    table=TABLE,
    names=NAMES,
    read=_read,
    write=_write,
    ignored=(  # buffers of older checkpoints
        r"gpt_neox\.layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",
        r"gpt_neox\.rotary_emb\.inv_freq",
    ),
    renames=((r"^(gpt_neox\.)?lm_head\.", "embed_out."),),  # transformers 5, in memory
    checkpoints=(
        "EleutherAI/pythia-160m",
        "EleutherAI/pythia-410m",
        "EleutherAI/pythia-1.4b",
        "EleutherAI/pythia-2.8b",
        "EleutherAI/pythia-6.9b",
    ),
    special="partial rotary positions, parallel residual",
)
