"""Mistral checkpoints in Hugging Face layout."""

from typing import Any

from memcomp.convert import llama_layout as layout
from memcomp.convert.engine import Family, fields_to_hf
from memcomp.convert.rope import rotary_to_hf
from memcomp.models.mistral import Mistral, MistralConfig

NAMES = layout.NAMES | layout.NORM_EPS


def config_from_hf(hf: Any) -> MistralConfig:
    """Our config from a `transformers.MistralConfig`.

    With the entry layer_types, transformers makes a Ministral, which is the same except
    that some layers have a window and others see all keys.
    """
    everywhere = (hf.sliding_window,) * hf.num_hidden_layers if hf.sliding_window else ()
    mixed = getattr(hf, "layer_types", None) is not None
    return MistralConfig(
        **layout.from_hf(hf, NAMES),
        rotary=layout.rotary_of(hf),
        windows=layout.windows_from_hf(hf) if mixed else everywhere,
    )


def config_to_hf(config: MistralConfig) -> dict[str, Any]:
    """Makes the entries of config.json; the inverse of `config_from_hf`."""
    windows = layout.windows_to_hf(config)
    if len(set(config.windows)) < 2:
        del windows["layer_types"]
    return {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        **fields_to_hf(config, NAMES),
        **windows,
        **rotary_to_hf(config.rotary),
    }


FAMILY = Family(
    model=Mistral,
    table=layout.TABLE,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    ignored=layout.IGNORED,
    checkpoints=(
        "mistralai/Mistral-7B-v0.1",
        "mistralai/Mistral-7B-v0.3",
    ),
    special="a sliding window",
)
