"""OLMo checkpoints in Hugging Face layout."""

from typing import Any

from memcomp.convert import llama_layout as layout
from memcomp.convert.engine import Family
from memcomp.models.olmo import Olmo, OlmoConfig

TABLE = (
    *layout.EMBEDDINGS,
    *layout.ATTENTION,
    *layout.GATED_MLP,
)
NAMES = {**layout.NAMES, "attention_bias": "attention_bias", "clip": "clip_qkv"}


def _read(hf: Any) -> dict[str, Any]:
    return layout.read(hf) | {"norm_eps": 1e-5}  # fixed in the family's own code


FAMILY = Family(
    model=Olmo,
    config=OlmoConfig,
    model_type="olmo",
    architecture="OlmoForCausalLM",
    table=TABLE,
    names=NAMES,
    read=_read,
    write=layout.write,
    ignored=layout.IGNORED,
    checkpoints=("allenai/OLMo-1B-0724-hf",),
    special="norms without parameters, clipped queries, keys and values",
)
