"""OPT checkpoints in Hugging Face layout."""

from typing import Any

from memcomp.convert.engine import Family, Row
from memcomp.models.opt import OPT, OPTConfig

_MODEL = "model.decoder."
_LAYER = _MODEL + "layers.{i}."
_ATTN = _LAYER + "self_attn."
# fmt: off
TABLE = (
    Row(_MODEL + "embed_tokens.weight", "embedding", "v d -> v d"),
    Row(_MODEL + "embed_positions.weight", "positions", "p u -> p u"),
    Row(_MODEL + "project_in.weight", "project_in/kernel", "u d -> d u"),
    Row(_LAYER + "self_attn_layer_norm.weight", "layers/attn_norm/scale", "u -> u"),
    Row(_LAYER + "self_attn_layer_norm.bias", "layers/attn_norm/bias", "u -> u"),
    Row(_ATTN + "q_proj.weight", "layers/attn/q/kernel", "(n h) u -> u n h"),
    Row(_ATTN + "q_proj.bias", "layers/attn/q/bias", "(n h) -> n h"),
    Row(_ATTN + "k_proj.weight", "layers/attn/k/kernel", "(n h) u -> u n h"),
    Row(_ATTN + "k_proj.bias", "layers/attn/k/bias", "(n h) -> n h"),
    Row(_ATTN + "v_proj.weight", "layers/attn/v/kernel", "(n h) u -> u n h"),
    Row(_ATTN + "v_proj.bias", "layers/attn/v/bias", "(n h) -> n h"),
    Row(_ATTN + "out_proj.weight", "layers/attn/out/kernel", "u (n h) -> n h u"),
    Row(_ATTN + "out_proj.bias", "layers/attn/out/bias", "u -> u"),
    Row(_LAYER + "fc1.weight", "layers/mlp/up/kernel", "f u -> u f"),
    Row(_LAYER + "fc1.bias", "layers/mlp/up/bias", "f -> f"),
    Row(_LAYER + "fc2.weight", "layers/mlp/down/kernel", "u f -> f u"),
    Row(_LAYER + "fc2.bias", "layers/mlp/down/bias", "u -> u"),
    Row(_LAYER + "final_layer_norm.weight", "layers/mlp_norm/scale", "u -> u"),
    Row(_LAYER + "final_layer_norm.bias", "layers/mlp_norm/bias", "u -> u"),
    Row(_MODEL + "final_layer_norm.weight", "final_norm/scale", "u -> u"),
    Row(_MODEL + "final_layer_norm.bias", "final_norm/bias", "u -> u"),
    Row(_MODEL + "project_out.weight", "project_out/kernel", "d u -> u d"),
    Row("lm_head.weight", "head", "v d -> v d"),
)
# fmt: on
NAMES = {
    "vocab_size": "vocab_size",
    "num_layers": "num_hidden_layers",
    "d_model": "word_embed_proj_dim",
    "d_residual": "hidden_size",
    "d_mlp": "ffn_dim",
    "num_heads": "num_attention_heads",
    "max_positions": "max_position_embeddings",
    "activation": "activation_function",
    "norm_first": "do_layer_norm_before",
    "affine_norms": "layer_norm_elementwise_affine",
    "bias": "enable_bias",
    "tied_embeddings": "tie_word_embeddings",
}


def _read(hf: Any) -> dict[str, Any]:
    return {
        "num_kv_heads": hf.num_attention_heads,
        "head_dim": hf.hidden_size // hf.num_attention_heads,
        "final_norm": hf.do_layer_norm_before and not hf._remove_final_layer_norm,
    }


def _write(config: OPTConfig) -> dict[str, Any]:
    return {"_remove_final_layer_norm": not config.final_norm}


FAMILY = Family(
    model=OPT,
    config=OPTConfig,
    model_type="opt",
    architecture="OPTForCausalLM",
    table=TABLE,
    names=NAMES,
    read=_read,
    write=_write,
    ignored=(r"model\.decoder\.version",),  # of old checkpoints
    checkpoints=("facebook/opt-125m", "facebook/opt-350m", "facebook/opt-1.3b"),
    special="positions offset by 2; 350m: projected embeddings, norm after",
    memory_enters="before the projection of 350m, and before positions are added",
)
