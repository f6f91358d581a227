"""SmolLM3 checkpoints in Hugging Face layout."""

from typing import Any

from memcomp.convert import llama_layout as layout
from memcomp.convert.engine import Family, fields_to_hf
from memcomp.convert.rope import rotary_to_hf
from memcomp.errors import InputError
from memcomp.models.smollm3 import SmolLM3, SmolLM3Config

NAMES = {
    **(layout.NAMES | layout.NORM_EPS),
    "attention_bias": "attention_bias",
    "mlp_bias": "mlp_bias",
}


def config_from_hf(hf: Any) -> SmolLM3Config:
    """Our config from a `transformers.SmolLM3Config`."""
    slides = hf.use_sliding_window and hf.sliding_window
    if "sliding_attention" in hf.layer_types and not slides:
        # Some attention implementations of transformers then use a window, others do not.
        raise InputError(
            "smollm3 with sliding_attention among its layer_types, use_sliding_window "
            f"{hf.use_sliding_window} and sliding_window {hf.sliding_window}; set these to "
            "true and a number of keys, or all layer_types to full_attention"
        )
    # Despite the name, 1 stands for rotary positions and 0 for none. The list may be longer
    # than the model; if it is missing, transformers makes it from the interval.
    rotates = hf.no_rope_layers[: hf.num_hidden_layers]
    return SmolLM3Config(
        **layout.from_hf(hf, NAMES),
        rotary=layout.rotary_of(hf),
        rotary_layers=tuple(bool(layer) for layer in rotates),
        windows=layout.windows_from_hf(hf),
    )


def config_to_hf(config: SmolLM3Config) -> dict[str, Any]:
    """Makes the entries of config.json; the inverse of `config_from_hf`."""
    return {
        "architectures": ["SmolLM3ForCausalLM"],
        "model_type": "smollm3",
        **fields_to_hf(config, NAMES),
        "no_rope_layers": [int(rotates) for rotates in config.rotary_layers],
        "use_sliding_window": bool(config.windows),
        **layout.windows_to_hf(config),
        **rotary_to_hf(config.rotary),
        "pad_token_id": None,  # its default 128004 fails in torch if V is smaller
    }


FAMILY = Family(
    model=SmolLM3,
    table=layout.TABLE,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    ignored=layout.IGNORED,
    checkpoints=(
        "HuggingFaceTB/SmolLM3-3B",
        "HuggingFaceTB/SmolLM3-3B-Base",
    ),
    special="every fourth layer without rotary positions",
)
