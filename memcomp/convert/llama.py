"""Llama checkpoints in Hugging Face layout.

Letters: v vocabulary, d model width, n heads, k kv heads, h head width, f MLP width.
"""

from typing import Any

from memcomp.convert.engine import Row
from memcomp.convert.rope import rotary_from_hf, rotary_to_hf
from memcomp.errors import InputError
from memcomp.models.llama import Llama, LlamaConfig

MODEL = Llama

_LAYER = "model.layers.{i}."
# fmt: off
TABLE = (
    Row("model.embed_tokens.weight", "embedding", "v d -> v d"),
    Row(_LAYER + "input_layernorm.weight", "layers/attn_norm/scale", "d -> d"),
    Row(_LAYER + "self_attn.q_proj.weight", "layers/attn/q/kernel", "(n h) d -> d n h"),
    Row(_LAYER + "self_attn.q_proj.bias", "layers/attn/q/bias", "(n h) -> n h"),
    Row(_LAYER + "self_attn.k_proj.weight", "layers/attn/k/kernel", "(k h) d -> d k h"),
    Row(_LAYER + "self_attn.k_proj.bias", "layers/attn/k/bias", "(k h) -> k h"),
    Row(_LAYER + "self_attn.v_proj.weight", "layers/attn/v/kernel", "(k h) d -> d k h"),
    Row(_LAYER + "self_attn.v_proj.bias", "layers/attn/v/bias", "(k h) -> k h"),
    Row(_LAYER + "self_attn.o_proj.weight", "layers/attn/out/kernel", "d (n h) -> n h d"),
    Row(_LAYER + "self_attn.o_proj.bias", "layers/attn/out/bias", "d -> d"),
    Row(_LAYER + "post_attention_layernorm.weight", "layers/mlp_norm/scale", "d -> d"),
    Row(_LAYER + "mlp.gate_proj.weight", "layers/mlp/gate/kernel", "f d -> d f"),
    Row(_LAYER + "mlp.gate_proj.bias", "layers/mlp/gate/bias", "f -> f"),
    Row(_LAYER + "mlp.up_proj.weight", "layers/mlp/up/kernel", "f d -> d f"),
    Row(_LAYER + "mlp.up_proj.bias", "layers/mlp/up/bias", "f -> f"),
    Row(_LAYER + "mlp.down_proj.weight", "layers/mlp/down/kernel", "d f -> f d"),
    Row(_LAYER + "mlp.down_proj.bias", "layers/mlp/down/bias", "d -> d"),
    Row("model.norm.weight", "final_norm/scale", "d -> d"),
    Row("lm_head.weight", "head", "v d -> v d"),
)
# fmt: on


def ignored(config: LlamaConfig) -> tuple[str, ...]:
    """Names that some checkpoints store and that hold no weights of their own."""
    rotary = r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"
    tied = (r"lm_head\.weight",) if config.tied_embeddings else ()
    return (rotary, *tied)


def config_from_hf(hf: Any) -> LlamaConfig:
    """Our config from a `transformers.LlamaConfig`."""
    if hf.hidden_act != "silu":
        raise InputError(f"llama with hidden_act {hf.hidden_act!r}: only 'silu' is known")
    if hf.num_attention_heads % hf.num_key_value_heads:
        raise InputError(
            f"llama with num_key_value_heads {hf.num_key_value_heads}: wanted a divisor of "
            f"num_attention_heads {hf.num_attention_heads}"
        )
    head_dim = getattr(hf, "head_dim", None) or hf.hidden_size // hf.num_attention_heads
    return LlamaConfig(
        vocab_size=hf.vocab_size,
        num_layers=hf.num_hidden_layers,
        d_model=hf.hidden_size,
        d_mlp=hf.intermediate_size,
        num_heads=hf.num_attention_heads,
        num_kv_heads=hf.num_key_value_heads,
        head_dim=head_dim,
        max_positions=hf.max_position_embeddings,
        rotary=rotary_from_hf(hf, head_dim),
        norm_eps=hf.rms_norm_eps,
        tied_embeddings=hf.tie_word_embeddings,
        attention_bias=hf.attention_bias,
        mlp_bias=hf.mlp_bias,
    )


def config_to_hf(config: LlamaConfig) -> dict[str, Any]:
    """The entries of config.json: `config_from_hf` read backwards."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "vocab_size": config.vocab_size,
        "num_hidden_layers": config.num_layers,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_mlp,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied_embeddings,
        "attention_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
        **rotary_to_hf(config.rotary),
    }


def sizes(config: LlamaConfig) -> dict[str, int]:
    """Size of each letter of the table, and the number of layers."""
    return {
        "layers": config.num_layers,
        "v": config.vocab_size,
        "d": config.d_model,
        "n": config.num_heads,
        "k": config.num_kv_heads,
        "h": config.head_dim,
        "f": config.d_mlp,
    }
