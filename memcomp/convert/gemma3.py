"""Gemma 3 checkpoints in Hugging Face layout, with or without a vision tower."""

import dataclasses
from typing import Any

from memcomp.convert import llama_layout as layout
from memcomp.convert.engine import Family, Row
from memcomp.convert.rope import rotary_from_hf
from memcomp.errors import InputError
from memcomp.models.gemma3 import Gemma3, Gemma3Config

_LAYER = layout.LAYER
_NORM = "_layernorm.weight"
# fmt: off
TABLE = (
    *layout.EMBEDDINGS,
    Row(_LAYER + "input" + _NORM, "layers/attn_norm/scale", "d -> d"),
    *layout.ATTENTION,
    *layout.HEAD_NORMS,
    Row(_LAYER + "post_attention" + _NORM, "layers/attn_post_norm/scale", "d -> d"),
    Row(_LAYER + "pre_feedforward" + _NORM, "layers/mlp_norm/scale", "d -> d"),
    *layout.GATED_MLP,
    Row(_LAYER + "post_feedforward" + _NORM, "layers/mlp_post_norm/scale", "d -> d"),
    *layout.FINAL_NORM,
)
# fmt: on
NAMES = {
    **(layout.NAMES | layout.NORM_EPS),
    "activation": "hidden_activation",
    "query_scale": "query_pre_attn_scalar",
    "attention_bias": "attention_bias",
    "attention_softcap": "attn_logit_softcapping",
    "final_softcap": "final_logit_softcapping",
}


def _read(hf: Any) -> dict[str, Any]:
    if hf.use_bidirectional_attention:
        raise InputError(
            "gemma3 with use_bidirectional_attention is no causal language model; set it "
            "to false"
        )
    head_dim = layout.head_dim_of(hf)
    kinds = hf.rope_parameters
    return {
        "head_dim": head_dim,
        "rotary": rotary_from_hf(hf, head_dim, kinds["full_attention"]),
        "window_rotary": rotary_from_hf(hf, head_dim, kinds["sliding_attention"]),
        "windows": layout.windows_from_hf(hf),
    }


def _write(config: Gemma3Config) -> dict[str, Any]:
    windows = layout.windows_to_hf(config)
    local = {"rope_local_base_freq": config.window_rotary.theta}
    return layout.write(config) | windows | local


FAMILY = Family(
    model=Gemma3,
    config=Gemma3Config,
    model_type="gemma3_text",
    architecture="Gemma3ForCausalLM",
    table=TABLE,
    names=NAMES,
    read=_read,
    write=_write,
    ignored=layout.IGNORED,
    checkpoints=("google/gemma-3-270m", "google/gemma-3-1b-pt"),
    special="scaled token vectors, local and global layers, norms of queries and keys",
    memory_enters="before the first layer, beside rows times sqrt(d_model)",
)


def _read_with_vision(hf: Any) -> dict[str, Any]:
    """The fields from a `transformers.Gemma3Config`.

    transformers reads from it, not from its text config, whether the head is tied; and it
    does not cap the logits.
    """
    tied = bool(hf.tie_word_embeddings)
    return _read(hf.text_config) | {"tied_embeddings": tied, "final_softcap": None}


# The larger checkpoints, which also contain a vision tower that is not read.
WITH_VISION = dataclasses.replace(
    FAMILY,
    read=_read_with_vision,
    ignored=(*layout.IGNORED, r"(model\.)?(vision_tower|multi_modal_projector)\..*"),
    renames=(
        (r"^language_model\.", ""),
        (r"^model\.language_model\.", "model."),
    ),
    checkpoints=("google/gemma-3-4b-pt",),
    special="its text part alone",
)
