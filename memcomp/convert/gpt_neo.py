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


def ignored(config: GPTNeoConfig) -> tuple[str, ...]:
    """Names that are not read: causal masks of older checkpoints, and a tied head."""
    masks = r"transformer\.h\.\d+\.attn\.attention\.(bias|masked_bias)"
    return (masks, r"lm_head\.weight") if config.tied_embeddings else (masks,)


def config_from_hf(hf: Any) -> GPTNeoConfig:
    """Our config from a `transformers.GPTNeoConfig`."""
    window_of = {"global": None, "local": hf.window_size}
    if unknown := [kind for kind in hf.attention_layers if kind not in window_of]:
        raise InputError(
            f"attention_layers has {unknown[0]!r}; known are {', '.join(window_of)}"
        )
    return GPTNeoConfig(
        vocab_size=hf.vocab_size,
        num_layers=hf.num_layers,
        d_model=hf.hidden_size,
        d_mlp=4 * hf.hidden_size if hf.intermediate_size is None else hf.intermediate_size,
        num_heads=hf.num_heads,
        num_kv_heads=hf.num_heads,
        head_dim=hf.hidden_size // hf.num_heads,
        max_positions=hf.max_position_embeddings,
        norm_eps=hf.layer_norm_epsilon,
        activation=hf.activation_function,
        windows=tuple(window_of[kind] for kind in hf.attention_layers),
        tied_embeddings=hf.tie_word_embeddings,
    )


def config_to_hf(config: GPTNeoConfig) -> dict[str, Any]:
    """Makes the entries of config.json; the inverse of `config_from_hf`."""
    kinds = ["global" if window is None else "local" for window in config.windows]
    return {
        "architectures": ["GPTNeoForCausalLM"],
        "model_type": "gpt_neo",
        "activation_function": config.activation,
        "vocab_size": config.vocab_size,
        "num_layers": config.num_layers,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_mlp,
        "num_heads": config.num_heads,
        "max_position_embeddings": config.max_positions,
        "layer_norm_epsilon": config.norm_eps,
        "attention_types": [[kinds, 1]],
        "window_size": next(filter(None, config.windows), 256),  # the same for all layers
        "tie_word_embeddings": config.tied_embeddings,
    }


FAMILY = Family(
    model=GPTNeo,
    table=TABLE,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    ignored=ignored,
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
