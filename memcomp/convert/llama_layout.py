"""Table entries and config entries shared by checkpoints in the layout of Llama.

A family uses those that it has, and adds its own.
"""

from typing import Any

from memcomp.convert.engine import Row
from memcomp.convert.rope import rotary_from_hf, rotary_to_hf
from memcomp.errors import InputError
from memcomp.nn.decoder import RotaryConfig
from memcomp.nn.rotary import Rotary

LAYER = "model.layers.{i}."
ATTN = LAYER + "self_attn."
_MLP = LAYER + "mlp."
# fmt: off
EMBEDDINGS = (
    Row("model.embed_tokens.weight", "embedding", "v d -> v d"),
    Row("lm_head.weight", "head", "v d -> v d"),
)
ATTENTION = (
    Row(ATTN + "q_proj.weight", "layers/attn/q/kernel", "(n h) d -> d n h"),
    Row(ATTN + "q_proj.bias", "layers/attn/q/bias", "(n h) -> n h"),
    Row(ATTN + "k_proj.weight", "layers/attn/k/kernel", "(k h) d -> d k h"),
    Row(ATTN + "k_proj.bias", "layers/attn/k/bias", "(k h) -> k h"),
    Row(ATTN + "v_proj.weight", "layers/attn/v/kernel", "(k h) d -> d k h"),
    Row(ATTN + "v_proj.bias", "layers/attn/v/bias", "(k h) -> k h"),
    Row(ATTN + "o_proj.weight", "layers/attn/out/kernel", "d (n h) -> n h d"),
    Row(ATTN + "o_proj.bias", "layers/attn/out/bias", "d -> d"),
)
HEAD_NORMS = (  # norms of queries and keys, with one scale for all heads
    Row(ATTN + "q_norm.weight", "layers/attn/q_norm/scale", "h -> h"),
    Row(ATTN + "k_norm.weight", "layers/attn/k_norm/scale", "h -> h"),
)
GATED_MLP = (
    Row(_MLP + "gate_proj.weight", "layers/mlp/gate/kernel", "f d -> d f"),
    Row(_MLP + "gate_proj.bias", "layers/mlp/gate/bias", "f -> f"),
    Row(_MLP + "up_proj.weight", "layers/mlp/up/kernel", "f d -> d f"),
    Row(_MLP + "up_proj.bias", "layers/mlp/up/bias", "f -> f"),
    Row(_MLP + "down_proj.weight", "layers/mlp/down/kernel", "d f -> f d"),
    Row(_MLP + "down_proj.bias", "layers/mlp/down/bias", "d -> d"),
)
PRE_NORMS = (
    Row(LAYER + "input_layernorm.weight", "layers/attn_norm/scale", "d -> d"),
    Row(LAYER + "post_attention_layernorm.weight", "layers/mlp_norm/scale", "d -> d"),
)
FINAL_NORM = (Row("model.norm.weight", "final_norm/scale", "d -> d"),)
# fmt: on
TABLE = (*EMBEDDINGS, *PRE_NORMS, *ATTENTION, *GATED_MLP, *FINAL_NORM)
# Rotary buffers of some checkpoints, which are not read.
IGNORED = (r"model\.(layers\.\d+\.self_attn\.)?rotary_emb(_local)?\.inv_freq",)
# Field of our config -> entry of config.json.
NAMES = {
    "vocab_size": "vocab_size",
    "num_layers": "num_hidden_layers",
    "d_model": "hidden_size",
    "d_mlp": "intermediate_size",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "max_positions": "max_position_embeddings",
    "activation": "hidden_act",
    "tied_embeddings": "tie_word_embeddings",
}
NORM_EPS = {"norm_eps": "rms_norm_eps"}


def head_dim_of(hf: Any) -> int:
    """Width of a head, which config.json may leave out."""
    given = getattr(hf, "head_dim", None)
    return hf.hidden_size // hf.num_attention_heads if given is None else given


def read(hf: Any) -> dict[str, Any]:
    """Fields of our config besides those of `NAMES`, for a family without windows."""
    return {"head_dim": head_dim_of(hf), "rotary": rotary_of(hf)}


def write(config: RotaryConfig) -> dict[str, Any]:
    """Makes the entries of config.json; the inverse of `read`."""
    return {"head_dim": config.head_dim, **rotary_to_hf(config.rotary)}


def read_windowed(hf: Any) -> dict[str, Any]:
    """Fields of our config besides those of `NAMES`, for a family with windows."""
    return read(hf) | {"windows": windows_from_hf(hf)}


def write_windowed(config: RotaryConfig) -> dict[str, Any]:
    """Makes the entries of config.json; the inverse of `read_windowed`."""
    slides = {"use_sliding_window": bool(config.windows)}
    return write(config) | windows_to_hf(config) | slides


def windows_from_hf(hf: Any) -> tuple[int | None, ...]:
    """Number of keys that a query of each layer sees, by `layer_types`; () if all keys."""
    sizes = {"full_attention": None, "sliding_attention": hf.sliding_window}
    if unknown := set(hf.layer_types) - set(sizes):
        raise InputError(
            f"layers of type {', '.join(sorted(unknown))}; known are {', '.join(sizes)}"
        )
    if "sliding_attention" in hf.layer_types and not hf.sliding_window:
        raise InputError(
            "layer_types has sliding_attention, but no sliding_window is in use; give "
            "sliding_window and use_sliding_window, or only full_attention"
        )
    windows = tuple(sizes[kind] for kind in hf.layer_types)
    return windows if any(windows) else ()


def windows_to_hf(config: RotaryConfig) -> dict[str, Any]:
    """Makes the entries of config.json; the inverse of `windows_from_hf`."""
    sizes = {window for window in config.windows if window is not None}
    if len(sizes) > 1:
        raise InputError(f"windows of {sorted(sizes)} keys; a config.json holds one size")
    kinds = ["sliding_attention" if w else "full_attention" for w in config.windows]
    full = ["full_attention"] * config.num_layers
    return {"sliding_window": next(iter(sizes), None), "layer_types": kinds or full}


def rotary_of(hf: Any) -> Rotary:
    """Rotary positions of a family that rotates whole heads.

    Raises:
      InputError: a partial_rotary_factor with scaled positions, which transformers does not
        compute; without scaling it ignores the factor.
    """
    rotary = rotary_from_hf(hf, head_dim_of(hf))
    fraction = hf.rope_parameters.get("partial_rotary_factor", 1.0)
    if rotary.scaling != "default" and fraction != 1.0:
        raise InputError(
            f"partial_rotary_factor is {fraction} with {rotary.scaling} scaling; wanted "
            "1.0, as this family rotates whole heads"
        )
    return rotary
