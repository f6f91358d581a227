"""GPT-Neo and TinyStories checkpoints in Hugging Face layout."""

from typing import Any

from memcomp.convert.engine import Family, Row
from memcomp.errors import InputError
from memcomp.models.gpt_neo import GPTNeo, GPTNeoConfig

_LAYER = "transformer.h.{i}."
_ATTN = _LAYER + "attn.attention."
# fmt: off
TABLE = (
    Row("transformer.wte.weight", "embedding", "v d -> v d"),
    Row("transformer.wpe.weight", "positions", "p d -> p d"),
    Row(_LAYER + "ln_1.weight", "layers/attn_norm/scale", "d -> d"),
    Row(_LAYER + "ln_1.bias", "layers/attn_norm/bias", "d -> d"),
    Row(_ATTN + "q_proj.weight", "layers/attn/q/kernel", "(n h) d -> d n h"),
    Row(_ATTN + "k_proj.weight", "layers/attn/k/kernel", "(n h) d -> d n h"),
    Row(_ATTN + "v_proj.weight", "layers/attn/v/kernel", "(n h) d -> d n h"),
    Row(_ATTN + "out_proj.weight", "layers/attn/out/kernel", "d (n h) -> n h d"),
    Row(_ATTN + "out_proj.bias", "layers/attn/out/bias", "d -> d"),
    Row(_LAYER + "ln_2.weight", "layers/mlp_norm/scale", "d -> d"),
    Row(_LAYER + "ln_2.bias", "layers/mlp_norm/bias", "d -> d"),
    Row(_LAYER + "mlp.c_fc.weight", "layers/mlp/up/kernel", "f d -> d f"),
    Row(_LAYER + "mlp.c_fc.bias", "layers/mlp/up/bias", "f -> f"),
    Row(_LAYER + "mlp.c_proj.weight", "layers/mlp/down/kernel", "d f -> f d"),
    Row(_LAYER + "mlp.c_proj.bias", "layers/mlp/down/bias", "d -> d"),
    Row("transformer.ln_f.weight", "final_norm/scale", "d -> d"),
    Row("transformer.ln_f.bias", "final_norm/bias", "d -> d"),
    Row("lm_head.weight", "head", "v d -> v d"),
)
# fmt: on
NAMES = {
    "vocab_size": "vocab_size",
    "num_layers": "num_layers",
    "d_model": "hidden_size",
    "d_mlp": "intermediate_size",
    "num_heads": "num_heads",
    "max_positions": "max_position_embeddings",
    "norm_eps": "layer_norm_epsilon",
    "activation": "activation_function",
    "tied_embeddings": "tie_word_embeddings",
}


def _read(hf: Any) -> dict[str, Any]:
    window_of = {"global": None, "local": hf.window_size}
    if unknown := [kind for kind in hf.attention_layers if kind not in window_of]:
        raise InputError(
            f"attention_layers has {unknown[0]!r}; known are {', '.join(window_of)}"
        )
    found = {
        "num_kv_heads": hf.num_heads,
        "head_dim": hf.hidden_size // hf.num_heads,
        "windows": tuple(window_of[kind] for kind in hf.attention_layers),
    }
    if hf.intermediate_size is None:
        found["d_mlp"] = 4 * hf.hidden_size
    return found


def _write(config: GPTNeoConfig) -> dict[str, Any]:
    kinds = ["global" if window is None else "local" for window in config.windows]
    return {
        "attention_types": [[kinds, 1]],
        "window_size": next(filter(None, config.windows), 256),  # the same for all layers
    }


FAMILY = Family(
    model=GPTNeo,
    config=GPTNeoConfig,
    model_type="gpt_neo",
    architecture="GPTNeoForCausalLM",
    table=TABLE,
    names=NAMES,
    read=_read,
    write=_write,
    # Causal masks of older checkpoints.
    ignored=(r"transformer\.h\.\d+\.attn\.attention\.(bias|masked_bias)",),
    checkpoints=(
        "EleutherAI/gpt-neo-125m",
        "roneneldan/TinyStories-1M",
        "roneneldan/TinyStories-3M",
        "roneneldan/TinyStories-8M",
        "roneneldan/TinyStories-28M",
        "roneneldan/TinyStories-33M",
    ),
    special="learned positions, local attention, unscaled logits",
    memory_enters="before positions are added",
)
