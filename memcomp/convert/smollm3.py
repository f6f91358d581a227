"""SmolLM3 checkpoints in Hugging Face layout."""

from typing import Any

from memcomp.convert import llama_layout as layout
from memcomp.convert.engine import Family
from memcomp.errors import InputError
from memcomp.models.smollm3 import SmolLM3, SmolLM3Config

NAMES = {
    **(layout.NAMES | layout.NORM_EPS),
    "attention_bias": "attention_bias",
    "mlp_bias": "mlp_bias",
}


def _read(hf: Any) -> dict[str, Any]:
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
    return layout.read_windowed(hf) | {"rotary_layers": tuple(map(bool, rotates))}


def _write(config: SmolLM3Config) -> dict[str, Any]:
    return {
        **layout.write_windowed(config),
        "no_rope_layers": [int(rotates) for rotates in config.rotary_layers],
        "pad_token_id": None,  # its default 128004 fails in torch if V is smaller
    }


FAMILY = Family(
    model=SmolLM3,
    config=SmolLM3Config,
    model_type="smollm3",
    architecture="SmolLM3ForCausalLM",
    table=layout.TABLE,
    names=NAMES,
    read=_read,
    write=_write,
    ignored=layout.IGNORED,
    checkpoints=(
        "HuggingFaceTB/SmolLM3-3B",
        "HuggingFaceTB/SmolLM3-3B-Base",
    ),
    special="every fourth layer without rotary positions",
)
