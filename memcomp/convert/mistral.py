"""Mistral checkpoints in Hugging Face layout."""

from typing import Any

from memcomp.convert import llama_layout as layout
from memcomp.convert.engine import Family
from memcomp.models.mistral import Mistral, MistralConfig

NAMES = layout.NAMES | layout.NORM_EPS


def _read(hf: Any) -> dict[str, Any]:
    """Fields that config.json does not give as they are.

    With the entry layer_types, transformers makes a Ministral, which is the same except
    that some layers have a window and others see all keys.
    """
    if getattr(hf, "layer_types", None) is not None:
        return layout.read_windowed(hf)
    windows = (hf.sliding_window,) * hf.num_hidden_layers if hf.sliding_window else ()
    return layout.read(hf) | {"windows": windows}


def _write(config: MistralConfig) -> dict[str, Any]:
    windows = layout.windows_to_hf(config)
    if len(set(config.windows)) < 2:
        del windows["layer_types"]
    return layout.write(config) | windows


FAMILY = Family(
    model=Mistral,
    config=MistralConfig,
    model_type="mistral",
    architecture="MistralForCausalLM",
    table=layout.TABLE,
    names=NAMES,
    read=_read,
    write=_write,
    ignored=layout.IGNORED,
    checkpoints=(
        "mistralai/Mistral-7B-v0.1",
        "mistralai/Mistral-7B-v0.3",
    ),
    special="a sliding window",
)
