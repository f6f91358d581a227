"""Qwen2 and Qwen2.5 checkpoints in Hugging Face layout."""

from memcomp.convert import llama_layout as layout
from memcomp.convert.engine import Family
from memcomp.models.qwen2 import Qwen2, Qwen2Config

NAMES = layout.NAMES | layout.NORM_EPS


FAMILY = Family(
    model=Qwen2,
    config=Qwen2Config,
    model_type="qwen2",
    architecture="Qwen2ForCausalLM",
    table=layout.TABLE,
    names=NAMES,
    read=layout.read_windowed,
    write=layout.write_windowed,
    ignored=layout.IGNORED,
    checkpoints=(
        "Qwen/Qwen2.5-0.5B",
        "Qwen/Qwen2.5-1.5B",
        "Qwen/Qwen2.5-3B",
    ),
    special="biases on queries, keys and values",
)
