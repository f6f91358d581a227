"""Qwen3 checkpoints in Hugging Face layout."""

from memcomp.convert import llama_layout as layout
from memcomp.convert.engine import Family
from memcomp.models.qwen3 import Qwen3, Qwen3Config

NAMES = {**layout.NAMES, **layout.NORM_EPS, "attention_bias": "attention_bias"}


FAMILY = Family(
    model=Qwen3,
    config=Qwen3Config,
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    table=(*layout.TABLE, *layout.HEAD_NORMS),
    names=NAMES,
    read=layout.read_windowed,
    write=layout.write_windowed,
    ignored=layout.IGNORED,
    checkpoints=(
        "Qwen/Qwen3-0.6B",
        "Qwen/Qwen3-1.7B",
        "Qwen/Qwen3-4B",
        "Qwen/Qwen3-8B",
    ),
    special="norms of queries and keys, explicit head width",
)
